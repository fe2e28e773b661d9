"""Back-tests of curves, weights of the extrapolators from them, and what related curves add.

No curve has a part in the prior with which it is back-tested itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from scalevit.study.laws.backtest import (
    FEWEST_RELATED,
    FEWEST_TEACHING,
    RELATED,
    LearnedPriors,
    ScaledCurve,
    backtest_cuts,
    fit_members,
    fit_without_prior,
    learn_priors,
    predict_members,
    truncate_to_stage,
)
from scalevit.study.laws.forms import Array
from scalevit.study.laws.interval import BacktestError

#: Weights are this power of the inverse squared error of many back-tests, and of so many half of it.
POWER, HALF_TRUST = 2.0, 3.0
#: A back-test of the curve itself counts as much as this many of related curves.
OWN = 5
#: Cuts of a back-test, as powers of the distance that is asked for.
DEPTHS = (0.5, 1.0, 1.4)
#: A back-test that misses by more than this, in ln y, says no more.
FARTHEST_MISS = 5.0
#: Back-tests look so many times as far as is asked, in e-folds.
HORIZON = 1.1


@dataclass(frozen=True)
class RelatedCurves:
    """What related curves say: their fits without prior (none when too few are long enough to teach one),
    which of them teach, and the back-tests of each."""

    theta: dict[tuple[str, float], Array]
    teaching: tuple[int, ...]
    errors: tuple[tuple[BacktestError, ...], ...]

    def priors(self, without: int | None = None) -> list[LearnedPriors]:
        """The learned prior, from all curves or all but one; none when the rest is too few."""
        if not self.theta:
            return []
        return [learn_priors(self.theta, [index for index in self.teaching if index != without])]

    def backtests(self, without: int | None = None) -> list[BacktestError]:
        """The back-tests of all curves, or of all but one."""
        return [one for index, errors in enumerate(self.errors) if index != without for one in errors]


NOTHING_RELATED = RelatedCurves({}, (), ())


@lru_cache(maxsize=16)
def _related(key: tuple, reach: float, length: float) -> RelatedCurves:
    pieces = [ScaledCurve(np.array(u), np.array(v), np.array(w), x0, y0) for (u, v, w), (x0, y0) in key]
    pieces = [truncate_to_stage(piece, length, HORIZON * np.log(reach)) for piece in pieces]
    teaching = tuple(i for i, one in enumerate(pieces) if len(np.unique(one.u)) >= FEWEST_TEACHING)
    if len(teaching) <= FEWEST_RELATED:
        theta, others = {}, []
    else:
        theta = fit_without_prior(pieces, RELATED)
        others = [learn_priors(theta, [j for j in teaching if j != i]) for i in range(len(pieces))]
    return RelatedCurves(theta, teaching, backtest_curves(pieces, others, reach))


def related_curves(pieces: Sequence[ScaledCurve], reach: float, length: float) -> RelatedCurves:
    """Fits and back-tests of curves, taken as if each had come `length` e-folds far where it is much longer.
    Remembered, since the same related curves serve many forecasts."""
    if not pieces:
        return NOTHING_RELATED
    key = tuple(
        ((tuple(one.u.tolist()), tuple(one.v.tolist()), tuple(one.w.tolist())), (one.x0, one.y0))
        for one in pieces
    )
    return _related(key, reach, length)


def backtest_curves(
    pieces: Sequence[ScaledCurve], priors: Sequence[LearnedPriors], reach: float
) -> tuple[tuple[BacktestError, ...], ...]:
    """The back-tests of each curve, cut so that as much is left to predict as `reach` asks for; `priors`
    holds
    a learned one for each curve, or nothing."""
    ratios, horizon = [reach**depth for depth in DEPTHS], HORIZON * np.log(reach)
    tests = [(i, *cut) for i, piece in enumerate(pieces) for cut in backtest_cuts(piece, ratios, horizon)]
    by_curve: list[list[BacktestError]] = [[] for _ in pieces]
    if not tests:
        return tuple(tuple(errors) for errors in by_curve)
    own = [priors[test[0]] for test in tests] if priors else []
    members, theta = fit_members([test[1] for test in tests], own)
    for row, (index, before, distance, truth) in enumerate(tests):
        error = predict_members(members, theta, row, distance) - truth
        local = predict_members(members, theta, row, before.u)
        by_curve[index].append(BacktestError(error, distance, before, local))
    return tuple(tuple(errors) for errors in by_curve)


def mixture_weights(count: int, tests: Sequence[BacktestError], shares: Sequence[float]) -> Array:
    """A power of the mean squared error in back-tests, each scaled by its median over members and counted by
    its share: (members,)."""
    if not tests:
        return np.full(count, 1 / count)
    total = np.zeros(count)
    for test, share in zip(tests, shares):
        squared = np.mean(np.clip(test.error, -FARTHEST_MISS, FARTHEST_MISS) ** 2, axis=1)
        total += share * squared / (np.median(squared) + 1e-14)
    trusted = sum(shares)
    total = total / trusted + 1e-9
    weights = (total / np.min(total)) ** -(POWER * trusted / (trusted + HALF_TRUST))
    return weights / np.sum(weights)
