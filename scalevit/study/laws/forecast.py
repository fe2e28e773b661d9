"""Forecast y at larger x, with an interval built from forecast errors rather than from the fit's noise.

Several extrapolators are averaged in ln y; those that back-tests favour weigh more. The interval's width
comes from the scatter of measurements, the distance extrapolated, the disagreement of the extrapolators, and
the errors of the back-tests: see `interval.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scalevit.study.design.table import columns_of
from scalevit.study.laws.backtest import (
    RECENT,
    ScaledCurve,
    average_points,
    fit_members,
    predict_members,
    scale_curve,
)
from scalevit.study.laws.fit import check_level, check_positive, declines, sorted_points, student_quantile
from scalevit.study.laws.forms import FORMS, Array
from scalevit.study.laws.interval import (
    DEGREES,
    STEPS,
    backtest_scale,
    forecast_standard_deviation,
    scatter,
    trend,
)
from scalevit.study.laws.least_squares import Problem, levenberg_marquardt
from scalevit.study.laws.related import (
    NOTHING_RELATED,
    OWN,
    RelatedCurves,
    backtest_curves,
    mixture_weights,
    related_curves,
)

#: The farthest reach of back-tests, in times the last x.
LONGEST = 16.0
#: An end of an interval farther than this, in ln y, says nothing.
FARTHEST = 400.0


@dataclass(frozen=True)
class Forecast:
    """`mean` is the point forecast at each `x`; `low` and `high` bound a new measurement there. `members` are
    the extrapolators with their weights; `backtests` counts what the weights and the width rest on; `noise`
    is the standard deviation of ln y of one measurement."""

    x: Array
    mean: Array
    low: Array
    high: Array
    level: float
    backtests: int
    members: dict[str, float]
    warnings: tuple[str, ...]
    noise: float = np.nan


def forecast(
    x: ArrayLike | str, y: ArrayLike | str, x_new: ArrayLike, level: float = 0.9,
    related: Sequence[tuple[ArrayLike, ArrayLike]] = (), *, weights: ArrayLike | str | None = None,
    chance: float = np.inf, noise: float | None = None, rising: bool = False, data: Any = None,
) -> Forecast:  # fmt: skip
    """Forecast y at x_new from the curve (x, y) and from `related` curves, measured under other conditions.

    x and y are positive; `weights` weigh the points, and those of weight 0 do not count; `chance` is the
    largest y there can be. `noise` is the standard deviation of ln y of one measurement, where it is known
    (from seeds, or the number of test items); None reads it off the curve. `rising`: y grows with x, and 1
    / y is forecast. With `data`, a DataFrame or a file, x, y and weights are names of its columns. Raises
    ValueError for values without logarithm, for fewer than two different x, and for a noise that is no
    number above 0."""
    check_level(level)
    x, y, weights = columns_of(data, x, y, weights)
    if noise is not None and not (np.isfinite(noise) and noise > 0):
        raise ValueError(f"noise is the standard deviation of ln y of a measurement, above 0, not {noise:g}")
    x_new = _check_new(x_new)
    if rising:
        check_positive(*sorted_points(x, y, weights)[:2], chance)
        inverse = [(a, 1 / np.asarray(b, float)) for a, b in related]
        turned = forecast(x, 1 / np.asarray(y, float), x_new, level, inverse, weights=weights, noise=noise)
        return _inverted(turned, chance)
    own = _curve(x, y, weights, chance)
    others = [average_points(_curve(*pair)) for pair in related]
    reach = _reach(own, x_new)
    group = related_curves(others, reach, float(-own.u[0]))
    return _forecast(own, group, None, x_new, reach, level, chance, noise)


def forecast_curves(
    curves: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike | None]], x_new: ArrayLike, level: float = 0.9, *,
    chance: float = np.inf, noises: Sequence[float | None] | None = None,
) -> Iterator[Forecast]:  # fmt: skip
    """Forecasts of several curves (x, y, weights), each helped by all others; `noises` as `forecast`'s, one a
    curve. The curves are fitted and back-tested once, not once for each other curve."""
    check_level(level)
    owns = [_curve(x, y, weights, chance) for x, y, weights in curves]
    pieces, x_new = [average_points(own) for own in owns], _check_new(x_new)
    length = float(np.median([-piece.u[0] for piece in pieces])) if pieces else 0.0
    for index, (own, noise) in enumerate(zip(owns, noises or [None] * len(owns))):
        reach = _reach(own, x_new)
        group = related_curves(pieces, reach, length) if len(pieces) > 1 else NOTHING_RELATED
        yield _forecast(own, group, index, x_new, reach, level, chance, noise)


def _check_new(x_new: ArrayLike) -> Array:
    """x to forecast at as an array (n,); ValueError unless positive and finite."""
    x_new = np.atleast_1d(np.asarray(x_new, float))
    if x_new.ndim != 1 or not np.all(np.isfinite(x_new) & (x_new > 0)):
        raise ValueError("x to forecast at must be positive and finite")
    return x_new


def _reach(own: ScaledCurve, x_new: Array) -> float:
    """How far is asked for, in times the last x, as a power of two between 2 and `LONGEST`."""
    farthest = float(np.max(x_new, initial=own.x0)) / own.x0
    return float(2.0 ** np.round(np.log2(np.clip(farthest, 2.0, LONGEST))))


def _inverted(turned: Forecast, chance: float) -> Forecast:
    """The forecast of y from that of 1 / y."""
    return replace(
        turned, mean=np.minimum(1 / turned.mean, chance), low=1 / turned.high,
        high=np.minimum(1 / turned.low, chance),
    )  # fmt: skip


def _forecast(
    own: ScaledCurve, group: RelatedCurves, index: int | None, x_new: Array, reach: float, level: float,
    chance: float, noise: float | None,
) -> Forecast:  # fmt: skip
    """`index`: which curve of the group is the one to forecast, if one is."""
    distance, priors = np.log(x_new) - np.log(own.x0), group.priors(index)
    averaged = average_points(own)
    members, theta = fit_members([averaged], priors)
    tests, others = [*backtest_curves([averaged], priors, reach)[0]], group.backtests(index)
    shares = [1.0] * len(tests) + [1 / OWN] * len(others)
    tests += others
    mixture = mixture_weights(len(members), tests, shares)
    scale = backtest_scale(tests, mixture, shares)
    known = scatter(own, mixture @ predict_members(members, theta, 0, own.u)) if noise is None else noise

    def deviation(at: Array) -> tuple[Array, Array]:
        values = predict_members(members, theta, 0, at)
        return mixture @ values, forecast_standard_deviation(own, mixture, values, at, known, scale)

    mean, spread = _never_narrower(deviation, distance)
    inside = distance <= 0
    if np.any(inside):
        mean[inside], loose = _within(own, distance[inside])
        spread[inside] = np.hypot(spread[inside], loose)
    half = student_quantile(DEGREES, (1 + level) / 2) * spread
    ends = (own.y0 * np.exp(np.clip(mean + sign * half, -FARTHEST, FARTHEST)) for sign in (-1, 0, 1))
    low, middle, high = (np.minimum(end, chance) for end in ends)
    return Forecast(
        x_new, middle, low, high, level, len(tests), dict(zip(map(str, members), map(float, mixture))),
        _warnings(own, distance), float(known),
    )  # fmt: skip


def _never_narrower(
    deviation: Callable[[Array], tuple[Array, Array]], distance: Array
) -> tuple[Array, Array]:
    """Mean and standard deviation at ln distances (n,), the latter never smaller than nearer the data."""
    farthest = float(np.max(distance, initial=0.0))
    steps = np.linspace(0.0, farthest, STEPS + 1)[1:] if farthest > 0 else np.zeros(0)
    mean, spread = deviation(np.concatenate([distance, steps]))
    so_far = np.maximum.accumulate(spread[len(distance) :])
    nearer = np.searchsorted(steps, distance) - 1
    least = np.where(nearer >= 0, so_far[np.maximum(nearer, 0)], 0.0) if len(steps) else 0.0
    return mean[: len(distance)].copy(), np.maximum(spread[: len(distance)], least)


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
