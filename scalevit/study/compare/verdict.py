"""Verdict on two recipes: better everywhere, better beyond some compute, equal, or not decidable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalevit.study.compare.multiplier import Multiplier

#: Probability of calling equal recipes different.
SIGNIFICANT = 0.05
#: Multipliers within this share of 1 count as equal.
EQUAL = 0.10


@dataclass(frozen=True)
class Crossing:
    """Where the better recipe changes: error and compute of arm A there, with the compute's interval, and the
    share of the bootstrap replicates that cross at all."""

    error: float
    compute: float
    low: float
    high: float
    share: float


@dataclass(frozen=True)
class Verdict:
    """kind: "better", "worse", "crossing", "equal" or "undecided", of arm B against arm A. sentence: the same
    in words. p_value: corrected for the number of comparisons."""

    kind: str
    sentence: str
    p_value: float
    crossing: Crossing | None


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number (Holm 1979): the chance of one false difference among all."""
    order = np.argsort(p_values, kind="stable")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def verdict(result: Multiplier, p_value: float) -> Verdict:
    """The verdict from the multiplier's band and the corrected p value of "one law describes both".

    B is called better at an error only where the whole band lies above 1 there, and only when one law for
    both arms is rejected."""
    cheaper, dearer = result.band_low > 1, result.band_high < 1
    crossing = crossing_of(result)
    if bool(np.all((result.band_low > 1 - EQUAL) & (result.band_high < 1 / (1 - EQUAL)))):
        return Verdict("equal", _equal(result), p_value, crossing)
    if p_value >= SIGNIFICANT or not (cheaper.any() or dearer.any()):
        return Verdict("undecided", _undecided(result), p_value, crossing)
    if cheaper.any() and dearer.any():
        return Verdict("crossing", _crossed(result, cheaper, crossing), p_value, crossing)
    if cheaper.any():
        return Verdict("better", _one_sided(result, cheaper, "less"), p_value, crossing)
    return Verdict("worse", _one_sided(result, dearer, "more"), p_value, crossing)


def crossing_of(result: Multiplier) -> Crossing | None:
    """Where ln worth changes its sign; None where it does not. Of several crossings the one at the smallest
    error counts."""
    grid, middle = np.log(result.errors), np.log(result.worth)
    found = _zero(grid, middle)
    if found is None:
        return None
    places = [_zero(grid, row) for row in result.draws(result.errors)]
    known = np.array([place for place in places if place is not None])
    compute = _compute_at(result, grid, np.array([found]))[0]
    edges = (1 - result.level) / 2, (1 + result.level) / 2
    low, high = np.quantile(_compute_at(result, grid, known), edges) if len(known) else (compute, compute)
    return Crossing(float(np.exp(found)), float(compute), float(low), float(high), len(known) / len(places))


def _zero(grid: np.ndarray, values: np.ndarray) -> float | None:
    """ln error of the last change of sign along a falling grid."""
    known = np.isfinite(values)
    x, y = grid[known], values[known]
    changes = np.flatnonzero(np.sign(y[:-1]) * np.sign(y[1:]) < 0)
    if not len(changes):
        return None
    i = changes[-1]
    return float(x[i] + (x[i + 1] - x[i]) * y[i] / (y[i] - y[i + 1]))


def _compute_at(result: Multiplier, grid: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Compute of arm A at these ln errors."""
    return np.exp(np.interp(places, grid[::-1], np.log(result.compute[0])[::-1]))


# --------------------------------------------------------------------------- in words


def _range(result: Multiplier) -> str:
    low, high = float(result.worth.min()), float(result.worth.max())
    return f"{low:.2f} ×" if high / low < 1.02 else f"{low:.2f} to {high:.2f} ×"


def _where(result: Multiplier, cells: np.ndarray) -> str:
    if cells.all():
        return "at every error that both reach"
    errors = result.errors[cells]
    return f"between errors of {errors.max():.3g} and {errors.min():.3g}"


def _one_sided(result: Multiplier, cells: np.ndarray, word: str) -> str:
    a, b = result.a.name, result.b.name
    return (
        f"{b} needs {word} compute than {a} {_where(result, cells)}: it is worth {_range(result)} the compute"
    )


def _crossed(result: Multiplier, cheaper: np.ndarray, crossing: Crossing | None) -> str:
    a, b = result.a.name, result.b.name
    beyond = bool(cheaper[-1]) or result.errors[cheaper].min() < np.median(result.errors)
    side = "beyond" if beyond else "below"
    at = "" if crossing is None else (
        f" {crossing.compute:.2g} [{crossing.low:.2g}, {crossing.high:.2g}]"
    )  # fmt: skip
    return f"{b} needs less compute than {a} {side}{at} and more on the other side: worth {_range(result)}"


def _equal(result: Multiplier) -> str:
    a, b = result.a.name, result.b.name
    return f"{b} equals {a} within {EQUAL:.0%} of the compute at every error that both reach"


def _undecided(result: Multiplier) -> str:
    a, b = result.a.name, result.b.name
    known = int(np.argmin(result.band_high / result.band_low))
    low, high, error = result.band_low[known], result.band_high[known], result.errors[known]
    worth = f"{low:.2f} to {high:.2f} × the compute of {a}"
    return f"not decidable: at an error of {error:.3g}, {b} is worth {worth}"
