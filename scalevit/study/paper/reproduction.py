"""The paper's laws measured again, beside what it prints, and a blind forecast of its giants.

What is refitted is the strict Pareto frontier of figures 2, 4 and 9; what is forecast are g/14 and G/14 from
models up to L/16 only (arXiv 2106.04560).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalevit.study.laws.fit import Fit, fit
from scalevit.study.laws.forecast import forecast
from scalevit.study.laws.pareto import Frontier, frontier
from scalevit.study.paper.tables import PRINTED, Points, Printed, points

GIANTS = ("g/14", "G/14")
BLIND = ("imagenet_10shot", "imagenet_5shot", "imagenet_finetune")
#: What else was measured when only models up to L/16 existed.
RELATED = ("imagenet_finetune", "imagenet_10shot", "cifar100_10shot", "pets_10shot", "birds_10shot")


@dataclass(frozen=True)
class Refit:
    """One law fitted again. `inside`: share of the frontier where the printed law lies in the band that holds
    the whole curve, taking the rounding of its coefficients into account."""

    task: str
    printed: Printed
    fit: Fit
    frontier: Frontier
    inside: float
    largest_gap: float


@dataclass(frozen=True)
class BlindForecast:
    """A giant forecast from smaller models: error as a fraction, with its interval."""

    task: str
    model: str
    compute: float
    truth: float
    mean: float
    low: float
    high: float

    @property
    def off(self) -> float:
        """Relative error of the point forecast."""
        return self.mean / self.truth - 1


def refit(task: str, level: float = 0.9) -> Refit:
    """Fit the law saturating at both ends to a task's frontier and compare it with the printed one."""
    runs, printed = points(task), PRINTED[task]
    best = frontier(runs.compute, runs.error, runs.model)
    found = fit(best.compute, best.error, chance=1.0)
    low, high = found.band(best.compute, level)
    least, most = _rounded(printed, best.compute)
    gap = np.log(found.predict(best.compute) / printed.predict(best.compute))
    held = (most >= low) & (least <= high)
    return Refit(task, printed, found, best, float(np.mean(held)), float(np.max(np.abs(gap))))


def _rounded(printed: Printed, compute: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest curve whose coefficients round to the printed ones."""
    half = 0.005
    ends = [
        (printed.a + i * half) * (compute + max(printed.d + j * half, 0)) ** -(printed.b + k * half)
        + printed.c + m * half
        for i in (-1, 1) for j in (-1, 1) for k in (-1, 1) for m in (-1, 1)
    ]  # fmt: skip
    return np.min(ends, axis=0), np.max(ends, axis=0)


def forecast_giants(task: str, level: float = 0.9) -> list[BlindForecast]:
    """g/14 at its longest and G/14 where it was measured, forecast from everything up to L/16."""
    runs = points(task)
    known = _known(task)
    related = [_known(other) for other in RELATED if other != task]
    found = []
    for model in GIANTS:
        own = runs.where(runs.model == model)
        if not len(own.compute):
            continue
        last = int(np.argmax(own.compute))
        seen = forecast(
            known.compute, known.error, [own.compute[last]], level,
            [(other.compute, other.error) for other in related], chance=1.0,
        )  # fmt: skip
        ends = (float(seen.mean[0]), float(seen.low[0]), float(seen.high[0]))
        found.append(BlindForecast(task, model, float(own.compute[last]), float(own.error[last]), *ends))
    return found


def _known(task: str) -> Frontier:
    """The frontier without the giants."""
    runs: Points = points(task)
    small = runs.where(~np.isin(runs.model, GIANTS))
    return frontier(small.compute, small.error, small.model)
