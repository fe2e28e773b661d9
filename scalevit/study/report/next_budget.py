"""Forecasts for ten times the compute: what each way of spending it should bring."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scalevit.study.laws.forecast import forecast
from scalevit.study.report.frontier_law import compute_helps, frontier_law
from scalevit.study.report.number_format import interval, percent
from scalevit.study.report.results import LEVEL, Point, Results

#: What a plan multiplies.
BUDGET_FACTOR = 10


#: From this ratio of its ends on, an interval of errors says nothing.
VAGUE = 30


def forecast_text(frontier: Sequence[Point]) -> str:
    made = _forecast_of([(p.facts.compute, p.error) for p in frontier])
    return f"{percent(made[0])} {interval(made[1], made[2])}" if made else ""


def _forecast_of(curve: Sequence[tuple[float, float]]) -> tuple[float, float, float] | None:
    """(mean, low, high) at MORE times the largest x; None where fewer than three points fall."""
    curve = sorted((x, y) for x, y in curve if y > 0)
    if len({x for x, _ in curve}) < 3 or curve[-1][1] >= curve[0][1]:
        return None
    x, y = np.array(curve).T
    try:
        made = forecast(x, y, [BUDGET_FACTOR * x.max()], level=LEVEL, chance=1.0)
    except ValueError:
        return None
    return float(made.mean[0]), float(made.low[0]), float(made.high[0])


def next_budget(results: Results) -> list[dict[str, str]]:
    """What the next tenfold buys, one way of spending it a row; only ways that this study has measured."""
    tasks = results.tasks()
    points = results.of(tasks[0]) if tasks and not results.origin else []
    law = frontier_law(points)
    if law.fit is None or not compute_helps(points):
        return []
    top = max(points, key=lambda p: (p.facts.compute, p.facts.unique))
    kin = [p for p in points if (p.facts.images, p.facts.recipe) == (top.facts.images, top.facts.recipe)]
    longer = [(p.facts.seen, p.error) for p in kin if p.facts.model == top.facts.model]
    larger = [(p.facts.forward, p.error) for p in kin if p.facts.steps == top.facts.steps]
    ways = [
        ("grow model, images and duration together", [(p.facts.compute, p.error) for p in law.frontier]),
        (f"only train {top.facts.model} {BUDGET_FACTOR} times longer", _means(longer)),
        (f"only make the model {BUDGET_FACTOR} times larger, {top.facts.steps:,} steps", _means(larger)),
    ]
    rows = []
    for what, curve in ways:
        made = _forecast_of(curve)
        if made:
            rests = f"{len(curve)} runs or means of seeds"
            text = f"{percent(made[0])} {interval(made[1], made[2])}"
            text = (
                text
                if made[2] < VAGUE * made[1]
                else "cannot be forecast: these runs do not determine the slope"
            )
            rows.append({"what": what, "error": text, "rests": rests})
    return rows


def _means(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The mean error at each x."""
    return [(x, float(np.mean([e for at, e in curve if at == x]))) for x in sorted({x for x, _ in curve})]
