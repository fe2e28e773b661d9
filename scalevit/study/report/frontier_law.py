"""Scaling law through the Pareto frontier of a study: error against training compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalevit.study.laws.fit import Fit, fit
from scalevit.study.laws.pareto import frontier
from scalevit.study.report.results import Point


@dataclass(frozen=True)
class FrontierLaw:
    """The law through a task's frontier; fit is None when it does not fit. verdict: why, or its weakness."""

    frontier: tuple[Point, ...]
    fit: Fit | None
    verdict: str


#: A law whose points scatter by more than this (standard deviation of ln error) describes nothing.
SCATTER = 0.25


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points that no cheaper or equally cheap one beats (an error of exactly 0 has no logarithm)."""
    positive = [point for point in points if point.error > 0 and math.isfinite(point.facts.compute)]
    if not positive:
        return []
    best = frontier([p.facts.compute for p in positive], [p.error for p in positive])
    return [positive[index] for index in best.index]


def frontier_law(points: Sequence[Point]) -> FrontierLaw:
    """The richest law that the task's frontier can carry (the paper's, then without its delay, then a power
    law), with a verdict in words."""
    best = pareto(points)
    x, y = [p.facts.compute for p in best], [p.error for p in best]
    names = {4: "saturating", 3: "M2", 2: "M1"}
    allowed = [name for size, name in names.items() if len(best) >= size + 1]
    if not allowed:
        return FrontierLaw(tuple(best), None, f"the frontier has too few points ({len(best)})")
    if y[0] - y[-1] < 2 * np.hypot(best[0].spread, best[-1].spread) and len(best) < 6:
        return FrontierLaw(tuple(best), None, "the frontier falls by less than its noise")
    made = fit(x, y, law=allowed[0], chance=1.0)
    if made.spread > SCATTER:
        return FrontierLaw(
            tuple(best), None, f"the law does not fit: its points scatter by {made.spread:.0%} around it"
        )
    return FrontierLaw(tuple(best), made, "; ".join(made.warnings))


def compute_helps(points: Sequence[Point]) -> bool:
    """Whether the best of the dearest runs, those with half of the largest compute at least, is as good as
    the best of all within the noise of both: otherwise more compute did not help."""
    best = min(points, key=lambda point: point.error)
    most = max(point.facts.compute for point in points)
    dear = min((p for p in points if p.facts.compute >= most / 2), key=lambda point: point.error)
    return dear.error <= best.error + 2 * math.hypot(best.spread, dear.spread)


def varies_compute(points: Sequence[Point]) -> bool:
    """Whether some run had clearly more compute than another: otherwise recipes are compared, not sizes."""
    compute = [point.facts.compute for point in points if math.isfinite(point.facts.compute)]
    return len(compute) > 1 and max(compute) > 1.3 * min(compute)
