"""How far a forecast may miss, in ln y: from back-tests, in units of what extrapolators disagree by.

Extrapolators that differ by little where they were wrong by much say so in their back-tests, and the ratio is
carried over to the forecast. To that comes the scatter of single measurements about the curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalevit.study.laws.backtest import RECENT, ScaledCurve, is_smoothed
from scalevit.study.laws.fit import declines
from scalevit.study.laws.forms import Array

#: Before any back-test: a miss is this many disagreements, more with few points; worth so many back-tests.
COMMON_RATIO, COMMON_WEIGHT = 0.8, 3.0
#: Extrapolators that agree by chance still share this part of the change that they predict.
SHARED = 0.05
#: Squared ratio of a miss to the disagreement beyond which a back-test tells no more.
LARGEST = 400.0
#: Noise that a smoothed curve hides, in units of what is left of it.
HIDDEN = 3.0
#: At smaller x than any seen nothing was tested: the share of the steepest change that may be missed by.
UNTESTED = 0.35
#: A curve that has not fallen may yet begin to, as slowly as this exponent, or rise.
FLAT = 0.05


@dataclass(frozen=True)
class BacktestError:
    """One back-test: errors in ln y by member (m, n) at ln distances (n,), the curve before the cut, and the
    members' values of its points (m, k)."""

    error: Array
    distance: Array
    before: ScaledCurve
    local: Array

    def ratio(self, weights: Array) -> float:
        """Squared error of the weighted mean, less scatter, in units of `doubt`."""
        mean = weights @ self.error
        local = weights @ self.local
        expected = np.mean(disagreement_variance(self.before, weights, self.error, self.distance))
        found = np.mean(mean**2) - scatter(self.before, local) ** 2
        return float(np.clip(found / (expected + 1e-16), 0.0, LARGEST))


def disagreement_variance(own: ScaledCurve, weights: Array, values: Array, distance: Array) -> Array:
    """Variance of the members' `values` (m, n) of ln y, and a share of the change, at ln distances (n,)."""
    spread = weights @ (values - weights @ values) ** 2
    return spread + (SHARED * min(0.0, trend(own)) * distance) ** 2


def forecast_standard_deviation(
    own: ScaledCurve,
    local: Array,
    weights: Array,
    values: Array,
    misses: Sequence[BacktestError],
    distance: Array,
) -> Array:
    """Standard deviation of ln y of a new measurement, each ln distance from the last x. `values` (m, n) are
    the members' forecasts there, `local` their mean at the points."""
    common = (COMMON_RATIO * (1 + 4 / len(np.unique(own.u)))) ** 2
    ratio = COMMON_WEIGHT * common + sum(miss.ratio(weights) for miss in misses)
    ratio /= COMMON_WEIGHT + len(misses)
    outside = np.maximum(np.maximum(distance, own.u[0] - distance), 0.0)
    squared = ratio * disagreement_variance(own, weights, values, outside) * (outside > 0)
    slope = trend(own)
    squared += (2 * max(0.0, slope) * outside) ** 2
    if not declines(own.u, own.v):
        squared += (FLAT * outside) ** 2
    before = np.maximum(own.u[0] - distance, 0.0)
    squared += (UNTESTED * max(abs(slope), _steepest(own)) * before) ** 2
    hidden = HIDDEN if is_smoothed(own) else 1.0
    return np.sqrt((hidden * scatter(own, local)) ** 2 + squared)


def scatter(own: ScaledCurve, local: Array) -> float:
    """Of single measurements about a smooth curve, near the end. Neighbours that stray together say that the
    points were smoothed and that their visible scatter understates: the classical (1 + r) / (1 - r)."""
    recent = own.u >= min(-2 * RECENT, own.u[-min(8, len(own.u))])
    residual, alike, spent = (own.v - local)[recent], 0.0, 2
    if len(np.unique(own.u[recent])) >= 6:
        parabola = np.polyval(np.polyfit(own.u[recent], own.v[recent], 2), own.u[recent])
        residual, spent = own.v[recent] - parabola, 3
        alike = np.clip(np.sum(residual[1:] * residual[:-1]) / (np.sum(residual**2) + 1e-300), 0.0, 0.9)
    variance = np.sum(residual**2) / max(1, len(residual) - spent)
    return float(np.sqrt(variance * (1 + alike) / (1 - alike)) + 1e-6)


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
