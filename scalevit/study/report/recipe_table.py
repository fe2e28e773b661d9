"""Comparison of recipes: error, speed and memory of the longest runs of each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from scalevit.study.report.number_format import number, percent, task_name
from scalevit.study.report.results import Point, Results

#: More recipes than this are no table that anybody reads.
RECIPES = 20


def _recipes(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The longest runs by recipe, best first, where recipes are what is compared."""
    longest = max((point.facts.steps for point in points), default=0)
    found: dict[str, list[Point]] = {}
    for point in points:
        if point.facts.steps == longest:
            found.setdefault(point.facts.recipe, []).append(point)
    ranked = sorted(found, key=lambda recipe: float(np.mean([p.error for p in found[recipe]])))
    return {recipe: found[recipe] for recipe in ranked} if 1 < len(found) <= RECIPES else {}


def recipe_sentence(results: Results) -> str:
    """What is compared, best first: mean over the longest runs' seeds, spread between seeds."""
    tasks = results.tasks()
    found = _recipes(results.of(tasks[0])) if tasks and not results.origin else {}
    if not found:
        return ""
    told = ", ".join(f"{name} {mean_over_seeds([p.error for p in points])}" for name, points in found.items())
    steps = next(iter(found.values()))[0].facts.steps
    return f"{task_name(tasks[0])} error after {steps:,} steps, by recipe: {told}."


def recipe_table(results: Results) -> list[dict[str, str]]:
    """What is compared as a table, best first: error, speed, and memory, means over the longest runs; columns
    that say something."""
    tasks = results.tasks()
    found = _recipes(results.of(tasks[0])) if tasks and not results.origin else {}
    rows = [
        {
            "recipe": name or "base",
            "error": mean_over_seeds([p.error for p in points]),
            "images/s": _mean([results.about.get(p.facts.id, {}).get("images_per_second") for p in points]),
            "optimizer state": _mean([p.facts.state / 1e6 for p in points], " MB"),
            "peak memory": _mean([results.about.get(p.facts.id, {}).get("memory") for p in points], " GiB"),
        }
        for name, points in found.items()
    ]
    said = {key for row in rows for key, cell in row.items() if cell != "–"}
    return [{key: cell for key, cell in row.items() if key in said} for row in rows]


def _mean(values: Sequence[float | None], unit: str = "") -> str:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return f"{number(float(np.mean(known)))}{unit}" if known else "–"


def mean_over_seeds(errors: Sequence[float]) -> str:
    mean = percent(float(np.mean(errors)))
    return mean if len(errors) < 2 else f"{mean} ± {100 * np.std(errors, ddof=1):.1f} over {len(errors)} runs"
