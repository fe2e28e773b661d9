"""Compute-optimal allocation: which model size N and how much data D for a compute C = k N D.

Two ways of *Training Compute-Optimal Large Language Models* (arXiv 2203.15556): from a joint law L(N, D)
(approach 3), and from IsoFLOP profiles (approach 2): a parabola of ln L in ln N at each budget, whose lowest
points lie on N* = a C^b. Parabolas are biased where the loss is not symmetric in ln N about its lowest point
and where the sizes do not surround it evenly, so the second way is a check of the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from scalevit.study.laws.fit import check_level, student_quantile
from scalevit.study.laws.forms import Array

if TYPE_CHECKING:
    from scalevit.study.laws.joint import JointLaw

#: Sizes tried, e-folds about the square root of C / k, and their spacing.
RANGE, STEP = 25.0, 0.05
#: Width of a budget, in e-folds; fewest sizes of a budget for a parabola, and fewest budgets.
SAME_BUDGET, FEWEST_SIZES, FEWEST_BUDGETS = 0.3, 4, 3


@dataclass(frozen=True)
class ComputeOptimal:
    """For each compute: size N*, data D*, data a size (tokens a parameter), y there; (low, high) intervals of
    each; `exponent` is b in N* ~ C^b. Arrays are (computes,) and (2, computes)."""

    compute: Array
    size: Array
    size_interval: Array
    data: Array
    data_interval: Array
    ratio: Array
    ratio_interval: Array
    y: Array
    y_interval: Array
    exponent: float
    exponent_interval: tuple[float, float]
    level: float
    warnings: tuple[str, ...] = ()


def optimal_allocation(
    law: JointLaw, compute: ArrayLike, level: float = 0.9, flops_per: float = 6.0
) -> ComputeOptimal:
    """Minimise the law over N at D = C / (flops_per N), for the fit and for its bootstrap replicates.

    The interval of y is that of the law's forecasts of new runs, which widens with the distance from the
    data. ValueError for a law of other than two inputs, computes that are not above 0, and a law whose
    lowest point lies at no finite size.
    """
    check_level(level)
    compute = np.atleast_1d(np.asarray(compute, float))
    if law.form.inputs != 2:
        raise ValueError(
            f"a compute-optimal size needs a law of size and data alone; {law.law} has three inputs"
        )
    if compute.ndim != 1 or not np.all(np.isfinite(compute) & (compute > 0)):
        raise ValueError("computes must be positive and finite")
    theta = np.vstack([law.theta[None], law.replicates])
    size, value = _lowest(law, theta, compute, flops_per)
    around = np.exp([-1.0, 1.0]) * np.sqrt(compute[0] * compute[-1])
    ends = np.log(_lowest(law, theta, around, flops_per)[0])
    exponent = (ends[:, 1] - ends[:, 0]) / 2
    data = compute / flops_per / size
    y = law.y0 * np.exp(value[0])
    half = law.reach.half(np.stack([size[0], data[0]], axis=1), level)
    outside = law.reach.outside(np.stack([size[0], data[0]], axis=1)).max(axis=1)
    warnings = tuple(
        f"at {c:.3g} the optimum lies outside the runs' sizes or data by a factor of {np.exp(far):.3g}"
        for c, far in zip(compute, outside) if far > 1e-9
    )  # fmt: skip
    natural = law.form.natural(law.replicates, law.x0, law.y0)
    floor = float(np.quantile(law.form.floor(natural), (1 - level) / 2))
    low, high = _quantiles(exponent[:, None], level)
    return ComputeOptimal(
        compute, size[0], _quantiles(size, level), data[0], _quantiles(data, level), data[0] / size[0],
        _quantiles(data / size, level), y, np.stack([np.maximum(y * np.exp(-half), floor), y * np.exp(half)]),
        float(exponent[0]), (float(low[0]), float(high[0])), level, warnings,
    )  # fmt: skip


def _quantiles(values: Array, level: float) -> Array:
    """The interval (2, computes) that the replicates give, from rows (1 + replicates, computes)."""
    return np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2], axis=0)


def _lowest(law: JointLaw, theta: Array, compute: Array, flops_per: float) -> tuple[Array, Array]:
    """(N*, ln y / y0 there), each (rows of theta, computes)."""
    steps = np.arange(-RANGE, RANGE + STEP / 2, STEP)
    sizes, values = np.empty((len(theta), len(compute))), np.empty((len(theta), len(compute)))
    for column, budget in enumerate(compute):
        n = 0.5 * np.log(budget / flops_per) + steps
        u = np.stack([n, np.log(budget / flops_per) - n], axis=1) - np.log(law.x0)
        value = law.form.value(theta, u[None])[0]
        best = np.argmin(value, axis=1)
        if np.any((best == 0) | (best == len(steps) - 1)):
            raise ValueError(
                f"the law has no lowest point at compute {budget:.3g}: one of the inputs does not help in it"
            )
        rows = np.arange(len(theta))
        left, middle, right = (value[rows, best + k] for k in (-1, 0, 1))
        shift = 0.5 * (left - right) / np.maximum(left - 2 * middle + right, 1e-300)
        sizes[:, column] = np.exp(n[best] + STEP * np.clip(shift, -1, 1))
        values[:, column] = middle - 0.25 * (left - right) * np.clip(shift, -1, 1)
    return sizes, values


@dataclass(frozen=True)
class IsoFlop:
    """Lowest points of the parabolas: compute, size, y (budgets,), and N* = coefficient C^exponent with its
    interval. `left_out` says which budgets have no lowest point inside, and why."""

    compute: Array
    size: Array
    y: Array
    coefficient: float
    exponent: float
    exponent_interval: tuple[float, float]
    level: float
    left_out: tuple[str, ...]

    def size_at(self, compute: ArrayLike) -> Array:
        """N* at a compute."""
        return np.asarray(self.coefficient * np.asarray(compute, float) ** self.exponent)


def isoflop(
    size: ArrayLike, data: ArrayLike, y: ArrayLike, level: float = 0.9, flops_per: float = 6.0
) -> IsoFlop:
    """IsoFLOP profiles: runs of about one budget each, a parabola of ln y in ln N by least squares.

    ValueError for fewer than three budgets with four sizes and a lowest point between them.
    """
    check_level(level)
    n, d, v = (np.log(np.asarray(column, float)) for column in (size, data, y))
    c = n + d + np.log(flops_per)
    lowest, left_out = [], []
    for rows in _budgets(c):
        middle = float(np.median(c[rows]))
        best, reason = _parabola(n[rows], v[rows])
        if best is None:
            left_out.append(f"{np.exp(middle):.3g}: {reason}")
        else:
            lowest.append((middle, *best))
    if len(lowest) < FEWEST_BUDGETS:
        raise ValueError(
            f"{len(lowest)} budgets have a lowest point between their sizes: IsoFLOP profiles need "
            f"{FEWEST_BUDGETS}"
        )
    compute, sizes, values = np.array(lowest).T
    slope, offset = np.polyfit(compute, sizes, 1)
    free, away = len(compute) - 2, compute - compute.mean()
    error = np.sqrt(np.sum((sizes - offset - slope * compute) ** 2) / free / np.sum(away**2))
    half = student_quantile(free, (1 + level) / 2) * error
    return IsoFlop(
        np.exp(compute), np.exp(sizes), np.exp(values), float(np.exp(offset)), float(slope),
        (float(slope - half), float(slope + half)), level, tuple(left_out),
    )  # fmt: skip


def _budgets(c: Array) -> list[Array]:
    """Rows of each budget by growing compute: the densest window of ln C first, then the densest of the
    rest."""
    rest, budgets = np.argsort(c, kind="stable"), []
    while len(rest):
        first = np.searchsorted(c[rest], c[rest] - 1e-12)
        count = np.searchsorted(c[rest], c[rest] + SAME_BUDGET) - first
        begin = int(first[np.argmax(count)])
        window = slice(begin, begin + int(count.max()))
        budgets.append(rest[window])
        rest = np.delete(rest, window)
    return sorted((rows for rows in budgets if len(rows) > 1), key=lambda rows: float(c[rows].mean()))


def _parabola(n: Array, v: Array) -> tuple[tuple[float, float] | None, str]:
    """(ln N*, ln y there) of one budget, or None and the reason."""
    if len(np.unique(n)) < FEWEST_SIZES:
        return None, f"{len(np.unique(n))} sizes"
    near = v <= v.min() + np.log(1.2)  # a parabola holds near the lowest point only
    near = near if len(np.unique(n[near])) >= FEWEST_SIZES else np.ones(len(n), bool)
    middle = n[near].mean()
    second, first, zeroth = np.polyfit(n[near] - middle, v[near], 2)
    at = middle - first / (2 * second) if second > 0 else np.inf
    if not n.min() < at < n.max():
        return None, "no lowest point between the sizes"
    return (float(at), float(zeroth - first**2 / (4 * second))), ""
