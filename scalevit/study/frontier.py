"""The Pareto frontier of compute and error, and which size was optimal where (the paper's figure 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Frontier:
    """Strict Pareto points by growing compute; `index` points into what was given, `size` is the label there."""

    compute: np.ndarray
    error: np.ndarray
    index: np.ndarray
    size: tuple


def frontier(compute: ArrayLike, error: ArrayLike, size: ArrayLike | None = None) -> Frontier:
    """The runs that no other run beats: none is as cheap and better, nor as good and cheaper.

    compute and error are 1-d; `size` labels each run (a model's name or number of parameters). Of equal runs the
    first is kept; rows with NaN are left out. ValueError when nothing is left.
    """
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
