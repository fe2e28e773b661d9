"""Forecast standard deviation of ln y: scatter of measurements, and how far extrapolations miss.

    variance = (a s)² + (h t)² + k (1 + m / n)² (b² D² + (c t d)² + (e d)²)

with the scatter s of measurements about the curve, the slope t of ln y against ln x at the end, the
distance d from the last x in ln x, the disagreement D of the extrapolators there, n different x, and the
ratio k of the curve's own back-test errors to what this formula expects of them, shrunk towards 1 as if
`trust` back-tests had said so. The constants are those of least loss on families of curves
(`benchmarks/laws.py`, which also measures each family with the constants that the others give).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalevit.study.laws.backtest import RECENT, ScaledCurve, is_smoothed
from scalevit.study.laws.fit import declines
from scalevit.study.laws.forms import Array


@dataclass(frozen=True)
class IntervalConstants:
    """The constants of the formula: a, b, c, e, m, h, and `trust`."""

    scatter: float
    disagreement: float
    trend: float
    distance: float
    few_points: float
    jitter: float
    trust: float


#: What all families give together.
CONSTANTS = IntervalConstants(1.024, 0.855, 0.0993, 0.000743, 3.23, 0.0138, 2.8)
#: Degrees of freedom of Student's t by which forecasts miss.
DEGREES = 5.0
#: Squared ratio of a back-test's error to its expectation beyond which it tells no more.
LARGEST = 100.0
#: Noise that a smoothed curve hides, in units of the scatter that is left of it.
HIDDEN = 3.0
#: At smaller x than any seen nothing was tested: the share of the steepest change that may be missed by.
UNTESTED = 0.35
#: A curve that has not fallen may yet begin to, as slowly as this exponent, or rise.
FLAT = 0.05
#: Distances at which the interval is evaluated, so that it never gets narrower farther out.
STEPS = 24

#: (times the last x, share of later measurements that 90 % intervals held there), on curves of families that
#: had no part in choosing the method: `benchmarks/laws.py`.
BLIND_COVERAGE = ((1.5, 0.89), (2.5, 0.93), (6.0, 0.92), (15.0, 0.91), (40.0, 0.89))


@dataclass(frozen=True)
class BacktestError:
    """One back-test: errors in ln y by member (m, n) at ln distances (n,), the curve before the cut, and the
    members' values of its points (m, k)."""

    error: Array
    distance: Array
    before: ScaledCurve
    local: Array

    def ratio(self, weights: Array, constants: IntervalConstants = CONSTANTS) -> float:
        """Squared error of the weighted mean, in units of what is expected."""
        noise = scatter(self.before, weights @ self.local)
        inner, outer = variances(self.before, weights, self.error, self.distance, noise, constants)
        return float(np.clip(np.mean((weights @ self.error) ** 2) / np.mean(inner + outer), 0.0, LARGEST))


def variances(
    own: ScaledCurve, weights: Array, values: Array, distance: Array, noise: float,
    constants: IntervalConstants = CONSTANTS,
) -> tuple[Array, Array]:  # fmt: skip
    """Variance of ln y of a measurement about the curve, and of the extrapolation, at ln distances (n,);
    `values` (m, n) are the members' there, up to a constant."""
    slope = np.full_like(distance, abs(min(0.0, trend(own))))
    spread = weights @ (values - weights @ values) ** 2
    count = np.full_like(distance, len(np.unique(own.u)))
    return variance_formula(np.full_like(distance, noise), slope, distance, spread, count, constants)


def variance_formula(
    noise: Array, slope: Array, distance: Array, spread: Array, count: Array, constants: IntervalConstants
) -> tuple[Array, Array]:
    """The two parts of the variance, without k: of the scatter, and of the extrapolation. All (n,);
    `spread` is D², `slope` t, `count` the number of different x."""
    inner = (constants.scatter * noise) ** 2 + (constants.jitter * slope) ** 2 + 1e-12
    outer = constants.disagreement**2 * spread + (constants.trend * slope * distance) ** 2
    outer = outer + (constants.distance * distance) ** 2
    return inner, outer * (1 + constants.few_points / count) ** 2


def backtest_scale(
    errors: Sequence[BacktestError], weights: Array, shares: Sequence[float],
    constants: IntervalConstants = CONSTANTS,
) -> float:  # fmt: skip
    """Ratio k of squared back-test errors to their expectation, shrunk towards 1; `shares` say how much each
    back-test counts."""
    total = sum(share * one.ratio(weights, constants) for one, share in zip(errors, shares))
    return (constants.trust + total) / (constants.trust + sum(shares))


def forecast_standard_deviation(
    own: ScaledCurve, weights: Array, values: Array, distance: Array, noise: float, scale: float
) -> Array:
    """Standard deviation of ln y of a new measurement at each ln distance from the last x. `values` (m,
    n) are
    the members' forecasts, `noise` the scatter of measurements, `scale` that of `backtest_scale`."""
    outside = np.maximum(np.maximum(distance, own.u[0] - distance), 0.0)
    inner, outer = variances(own, weights, values, outside, noise)
    squared = inner + scale * outer * (outside > 0)
    slope = trend(own)
    squared += (2 * max(0.0, slope) * outside) ** 2
    if not declines(own.u, own.v):
        squared += (FLAT * outside) ** 2
    before = np.maximum(own.u[0] - distance, 0.0)
    squared += (UNTESTED * max(abs(slope), _steepest(own)) * before) ** 2
    return np.sqrt(squared)


def scatter(own: ScaledCurve, local: Array) -> float:
    """Standard deviation of ln y of single measurements about a smooth curve, near the end; `local` (k,) is
    the mixture's curve at the points. Neighbours that stray together say that the points were smoothed and
    that their visible scatter understates: the classical (1 + r) / (1 - r)."""
    recent = own.u >= min(-2 * RECENT, own.u[-min(8, len(own.u))])
    residual, alike, spent = (own.v - local)[recent], 0.0, 2
    if len(np.unique(own.u[recent])) >= 6:
        parabola = np.polyval(np.polyfit(own.u[recent], own.v[recent], 2), own.u[recent])
        residual, spent = own.v[recent] - parabola, 3
        alike = np.clip(np.sum(residual[1:] * residual[:-1]) / (np.sum(residual**2) + 1e-300), 0.0, 0.9)
    free = max(0, len(residual) - spent)
    guess = np.exp(-free / 2)  # with hardly more points than parameters, about one per cent
    variance = (np.sum(residual**2) / max(1, free) + guess * 1e-4) / (1 + guess)
    hidden = HIDDEN if is_smoothed(own) else 1.0
    return float(hidden * (np.sqrt(variance * (1 + alike) / (1 - alike)) + 1e-6))


def trend(own: ScaledCurve) -> float:
    """Slope of ln y against ln x over the recent half of the points."""
    recent = own.u >= np.median(own.u)
    if len(np.unique(own.u[recent])) < 2:
        recent = own.u <= 0
    return float(np.polyfit(own.u[recent], own.v[recent], 1)[0])


def _steepest(own: ScaledCurve) -> float:
    """Steepness of ln y over the first half of the points."""
    first = own.u <= np.median(own.u)
    if len(np.unique(own.u[first])) < 2:
        first = own.u <= 0
    return abs(float(np.polyfit(own.u[first], own.v[first], 1)[0]))


def blind_coverage(times: float) -> tuple[float, float]:
    """(share of measurements that 90 % intervals held in the blind protocol, times the last x up to which),
    for a forecast at `times` the last x."""
    for farthest, share in BLIND_COVERAGE:
        if times <= farthest:
            return share, farthest
    farthest, share = BLIND_COVERAGE[-1]
    return share, farthest


def coverage_words(times: float) -> str:
    """A sentence about how far an interval at `times` the last x can be trusted."""
    share, farthest = blind_coverage(times)
    if times > BLIND_COVERAGE[-1][0]:
        return (
            f"at {times:.3g} times the last x no interval was tested; the farthest tests were at "
            f"{farthest:g} times"
        )
    return (
        f"at {times:.3g} times the last x, 90 % intervals held {share:.0%} of later measurements on "
        f"curves that had "
        "no part in choosing the method"
    )
