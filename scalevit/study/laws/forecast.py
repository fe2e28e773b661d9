"""What y will be at larger x, with an interval built from forecast errors rather than from the fit's noise.

Several extrapolators are averaged in ln y; those that back-tests favour weigh more, the more back-tests there
are. The interval's width comes from the same back-tests: it grows with the distance extrapolated, because the
law is never quite the right one, and starts from the scatter of measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from scalevit.study.laws.backtest import (
    FEWEST_RELATED,
    RECENT,
    LearnedPriors,
    ScaledCurve,
    average_points,
    backtest_cuts,
    fit_members,
    fit_without_prior,
    learn_priors,
    predict_members,
    scale_curve,
    truncate_to_stage,
)
from scalevit.study.laws.fit import check_level, check_positive, declines, sorted_points, student_quantile
from scalevit.study.laws.forms import FORMS, Array
from scalevit.study.laws.interval import COMMON_WEIGHT, BacktestError, forecast_standard_deviation, trend
from scalevit.study.laws.least_squares import Problem, levenberg_marquardt

#: Half of the full sharpness of the weights is reached with so many back-tests.
HALF_TRUST = 12
#: A back-test of the curve itself counts as much as this many of related curves.
OWN = 5
#: Cuts of a back-test, as powers of the distance that is asked for.
DEPTHS = (0.5, 1.0, 1.4)
LONGEST = 16.0
#: An end of an interval farther than this, in ln y, says nothing.
FARTHEST = 400.0
#: Points of a related curve, as `condensed` takes it.
MOST_RELATED = 100
#: Back-tests look so many times as far as is asked, in e-folds.
HORIZON = 1.1


@dataclass(frozen=True)
class Forecast:
    """`mean` is the point forecast at each `x`; `low` and `high` bound a new measurement there. `members` are
    the extrapolators with their weights; `backtests` counts what the weights and the width rest on."""

    x: Array
    mean: Array
    low: Array
    high: Array
    level: float
    backtests: int
    members: dict[str, float]
    warnings: tuple[str, ...]


def forecast(
    x: ArrayLike, y: ArrayLike, x_new: ArrayLike, level: float = 0.9,
    related: Sequence[tuple[ArrayLike, ArrayLike]] = (), *, weights: ArrayLike | None = None,
    chance: float = np.inf,
) -> Forecast:  # fmt: skip
    """Forecast y at x_new from the curve (x, y) and from `related` curves, measured under other conditions.

    x and y are positive; `weights` weigh the points, and those of weight 0 do not count; `chance` is the
    largest y there can be. Raises ValueError for values without
    logarithm and for fewer than two different x.
    """
    check_level(level)
    own, x_new = _curve(x, y, weights, chance), np.atleast_1d(np.asarray(x_new, float))
    if x_new.ndim != 1 or not np.all(np.isfinite(x_new) & (x_new > 0)):
        raise ValueError("x to forecast at must be positive and finite")
    distance = np.log(x_new) - np.log(own.x0)
    reach = 2.0 ** np.round(np.log2(np.clip(np.exp(np.max(distance, initial=0.0)), 2.0, LONGEST)))
    group = _group(tuple(_frozen(*curve_) for curve_ in related), float(reach), float(-own.u[0]))
    taught, fitted = [group.taught] if group.taught else [], average_points(own)
    members, theta = fit_members([fitted], taught)
    misses = _misses([fitted], taught, float(reach))
    others = group.taught_misses if group.taught else group.misses
    weights = _weights(len(members), misses, others)
    values = predict_members(members, theta, 0, distance)
    mean, local = weights @ values, weights @ predict_members(members, theta, 0, own.u)
    spread = forecast_standard_deviation(own, local, weights, values, [*misses, *others], distance)
    inside = distance <= 0
    if np.any(inside):
        mean[inside], loose = _within(own, distance[inside])
        spread[inside] = np.hypot(spread[inside], loose)
    degrees = COMMON_WEIGHT + len(misses) + len(others)
    half = student_quantile(degrees, (1 + level) / 2) * spread
    ends = (own.y0 * np.exp(np.clip(mean + sign * half, -FARTHEST, FARTHEST)) for sign in (-1, 0, 1))
    low, middle, high = (np.minimum(end, chance) for end in ends)
    shares = {f"{m.law} {m.recency:g} {m.strength:g}": float(w) for m, w in zip(members, weights)}
    return Forecast(
        x_new, middle, low, high, level, len(misses) + len(others), shares, _warnings(own, distance)
    )


def _curve(
    x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None, chance: float = np.inf
) -> ScaledCurve:
    x, y, w = sorted_points(x, y, weights)
    x, y, w = x[w > 0], y[w > 0], w[w > 0]
    check_positive(x, y, chance)
    if len(np.unique(x)) < 2:
        raise ValueError(
            f"{len(np.unique(x))} different x: nothing can be forecast from one size; measure more"
        )
    return scale_curve(x, y, w)


def _frozen(x: ArrayLike, y: ArrayLike) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(np.asarray(x, float).tolist()), tuple(np.asarray(y, float).tolist())


@dataclass(frozen=True)
class RelatedCurves:
    """What related curves teach: beliefs (none when they are too few) and their own back-tests."""

    taught: LearnedPriors
    misses: list[BacktestError]
    taught_misses: list[BacktestError]


@lru_cache(maxsize=16)
def _group(
    related: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...], reach: float, length: float
) -> RelatedCurves:
    """Remembered, since the same related curves serve many forecasts. No curve teaches its own back-test."""
    horizon = HORIZON * np.log(reach)
    curves = (average_points(_curve(np.array(x), np.array(y)), MOST_RELATED) for x, y in related)
    pieces = [truncate_to_stage(piece, length, horizon) for piece in curves]
    if len(pieces) < FEWEST_RELATED + 1:
        return RelatedCurves({}, _misses(pieces, [], reach) if pieces else [], [])
    theta = fit_without_prior(pieces)
    everyone = range(len(pieces))
    others = [learn_priors(theta, [j for j in everyone if j != i]) for i in everyone]
    return RelatedCurves(learn_priors(theta, everyone), [], _misses(pieces, others, reach))


def _misses(
    pieces: Sequence[ScaledCurve], taught: Sequence[LearnedPriors], reach: float
) -> list[BacktestError]:
    """Every back-test of these curves."""
    ratios = [reach**depth for depth in DEPTHS]
    tests = [
        (i, *cut)
        for i, piece in enumerate(pieces)
        for cut in backtest_cuts(piece, ratios, HORIZON * np.log(reach))
    ]
    if not tests:
        return []
    members, theta = fit_members(
        [test[1] for test in tests], [taught[test[0]] for test in tests] if taught else []
    )
    return [
        BacktestError(
            predict_members(members, theta, row, distance) - truth, distance, before,
            predict_members(members, theta, row, before.u),
        )
        for row, (_, before, distance, truth) in enumerate(tests)
    ]  # fmt: skip


def _weights(count: int, own: Sequence[BacktestError], others: Sequence[BacktestError]) -> Array:
    """A power of the mean squared error, each back-test scaled by its median over members."""
    total, tests = np.zeros(count), len(own) + len(others)
    for share, misses in ((OWN, own), (1, others)):
        for miss in misses:
            squared = np.mean(miss.error**2, axis=1)
            total += share * squared / (np.median(squared) + 1e-14)
    if not tests:
        return np.full(count, 1 / count)
    weights = ((total + 1e-9) / np.min(total + 1e-9)) ** -(tests / (tests + HALF_TRUST))
    return weights / np.sum(weights)


def _within(own: ScaledCurve, distance: Array) -> tuple[Array, float]:
    """Inside the data nothing is extrapolated: the plain law through all points, and its residuals' scale."""
    form = FORMS["saturating" if len(np.unique(own.u)) > 4 else "M1"]
    problem = Problem(form, own.u[None], own.v[None], own.w[None], np.array([np.inf]))
    theta, loss = levenberg_marquardt(problem, form.starts(own.u, own.v))
    best = theta[np.argmin(loss)][None]
    spread = np.sqrt(2 * np.min(loss) / max(1, len(own.u) - theta.shape[1]))
    return form.value(best, distance[None])[0][0], float(spread)


def _warnings(own: ScaledCurve, distance: Array) -> tuple[str, ...]:
    found = []
    different = len(np.unique(own.u))
    if different < 5:
        found.append(f"{different} different x: the interval rests on what is common, not on this curve")
    if np.max(distance, initial=0.0) > max(-own.u[0], RECENT):
        found.append("a forecast lies farther out than the data are long")
    if np.min(distance, initial=0.0) < own.u[0]:
        found.append("a forecast lies before the first x; forecasts are made for larger x")
    if trend(own) >= 0 or not declines(own.u, own.v):
        found.append("y does not fall with x at the end: the forecast is a guess, its interval is widened")
    return tuple(found)
