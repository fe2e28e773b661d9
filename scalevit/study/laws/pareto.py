"""The Pareto frontier of compute and error, and which size was optimal where (the paper's figure 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scalevit.study.design.table import columns_of, load_table
from scalevit.study.laws.fit import check_level, fit, student_quantile

#: Fewest different computes of a size that can be smoothed.
SMOOTHED = 4


@dataclass(frozen=True)
class Frontier:
    """Points by growing compute. `size` labels each; `index` points into what was given (the runs of a strict
    frontier, the sizes of a smooth one)."""

    compute: np.ndarray
    error: np.ndarray
    index: np.ndarray
    size: tuple


def frontier(
    compute: ArrayLike | str, error: ArrayLike | str, size: ArrayLike | str | None = None, *, data: Any = None
) -> Frontier:
    """The runs that no other run beats: none is as cheap and better, nor as good and cheaper.

    compute and error are 1-d; `size` labels each run (a model's name or number of parameters). Of equal runs
    the first is kept; rows with NaN are left out. With `data`, a DataFrame or a file, all three are names of
    its columns. ValueError when nothing is left.
    """
    if data is not None:
        size = load_table(data).texts(size) if isinstance(size, str) else size
        compute, error = columns_of(data, compute, error)
    compute, error = np.asarray(compute, float), np.asarray(error, float)
    if compute.ndim != 1 or compute.shape != error.shape:
        raise ValueError(
            f"compute and error must be 1-d, equally long, not {compute.shape} and {error.shape}"
        )
    labels = np.arange(len(compute)) if size is None else np.asarray(size)
    if len(labels) != len(compute):
        raise ValueError(f"{len(labels)} sizes for {len(compute)} runs")
    known = np.flatnonzero(~(np.isnan(compute) | np.isnan(error)))
    if not len(known):
        raise ValueError("no run has both compute and error: there is no frontier")
    order = known[np.lexsort((known, error[known], compute[known]))]
    best = np.concatenate([[np.inf], np.minimum.accumulate(error[order])[:-1]])
    index = order[error[order] < best]
    return Frontier(compute[index], error[index], index, tuple(labels[index].tolist()))


def smooth_frontier(compute: ArrayLike, error: ArrayLike, size: ArrayLike, grid: ArrayLike) -> Frontier:
    """The lower envelope of one law a size, at each compute of `grid` that some size was measured around.

    Scatter makes the strict frontier too good: it keeps the lucky runs. Here every size's curve is smoothed
    first. Sizes with fewer than four different computes are left out; ValueError when none remains.
    """
    compute, error, labels = np.asarray(compute, float), np.asarray(error, float), np.asarray(size)
    grid = np.sort(np.asarray(grid, float))
    names, curves = [], []
    for name in dict.fromkeys(labels.tolist()):
        own = (labels == name) & ~(np.isnan(compute) | np.isnan(error))
        if len(np.unique(compute[own])) < SMOOTHED:
            continue
        law = fit(compute[own], error[own], "saturating", bootstrap=0)
        measured = (grid >= compute[own].min()) & (grid <= compute[own].max())
        names.append(name)
        curves.append(np.where(measured, law.predict(grid), np.inf))
    if not names:
        raise ValueError(f"no size was measured at {SMOOTHED} computes or more: there is nothing to smooth")
    table = np.stack(curves)
    known = np.isfinite(table.min(axis=0))
    winner = table.argmin(axis=0)[known]
    return Frontier(grid[known], table.min(axis=0)[known], winner, tuple(names[i] for i in winner))


def size_exponent(best: Frontier, level: float = 0.9) -> tuple[float, float, float]:
    """p in optimal size ~ compute^p along a frontier whose sizes are numbers, with its interval.

    Where compute is size times data, data grows with 1 - p. ValueError for fewer than three points.
    """
    check_level(level)
    if len(best.compute) < 3 or len(np.unique(best.compute)) < 3:
        raise ValueError(f"{len(best.compute)} points on the frontier: an exponent needs three at least")
    x, y = np.log(best.compute), np.log(np.asarray(best.size, float))
    slope, offset = np.polyfit(x, y, 1)
    degrees = len(x) - 2
    error = np.sqrt(np.sum((y - offset - slope * x) ** 2) / degrees / np.sum((x - x.mean()) ** 2))
    half = student_quantile(degrees, (1 + level) / 2) * error
    return float(slope), float(slope - half), float(slope + half)
