"""Compare studies, recipes inside one study, or the recipes of a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scalevit.config.dataclass_io import nearest_names
from scalevit.study.compare.arm import Arm, arm
from scalevit.study.compare.compare import Comparison, compare_arms
from scalevit.study.design.table import load_table
from scalevit.study.report.results import Point, Results, read_results

#: What compute is counted in: the cost of one run of a study.
UNITS = {"flops": "training FLOPs", "hours": "device hours"}
COSTS: dict[str, Callable[[Results, Point], float]] = {
    "flops": lambda results, point: point.facts.compute,
    "hours": lambda results, point: _device_hours(results, point),
}


@dataclass(frozen=True)
class CompareColumns:
    """Columns of a table. recipe: names the arm. size: the model, so that each arm's frontier is taken over
    models. key: what a row is apart from its recipe and seed; rows of one key and recipe are seeds. data:
    what a row was trained on, to notice recipes that differ in it. accuracy: y is 1 - error."""

    recipe: str
    x: str
    y: str
    size: str | None = None
    key: tuple[str, ...] = ()
    data: str | None = None
    accuracy: bool = False


def compare(
    *sources: Path | str | Any,
    columns: CompareColumns | None = None,
    base: str | None = None,
    task: str | None = None,
    cost: str = "flops",
    level: float = 0.9,
    seed: int = 0,
) -> Comparison:
    """Compare recipes by their scaling laws: how much compute each is worth against a base, at every error.

    sources: folders of studies (of one study its recipes are compared), or one table (a file or a DataFrame)
    with `columns`. base: the recipe that the others are compared with, the first one when None. task, cost:
    of studies, "dataset/shots" and "flops" or "hours".

    Raises ValueError for sources that are neither, unknown columns, tasks and recipes, and recipes without
    enough nodes for a law."""
    folders = [Path(source) for source in sources if isinstance(source, str | Path) and Path(source).is_dir()]
    if folders and len(folders) == len(sources):
        arms, (dataset, shots) = arms_of_studies(folders, task, cost)
        name = f"error on {dataset}" + (f", {shots} shots" if shots else "")
        return replace(compare_arms(arms, base, level, seed), unit=UNITS[cost], task=name)
    if folders or len(sources) != 1:
        raise ValueError("compare takes studies' folders, or one table; not both, and not several tables")
    (table,) = sources
    if isinstance(table, str | Path) and not Path(table).exists():
        raise ValueError(f"{table}: no such folder or file")
    if columns is None:
        raise ValueError("a table needs the columns of recipe, compute and error: --recipe, --x and --y")
    result = compare_arms(arms_of_table(table, columns), base, level, seed)
    return replace(result, unit=columns.x, task=f"1 - {columns.y}" if columns.accuracy else columns.y)


def arms_of_table(source: Path | str | Any, columns: CompareColumns) -> list[Arm]:
    """One arm for each value of the recipe's column, in the order in which they appear.

    Raises ValueError for missing columns and cells that are no number, with the line."""
    table = load_table(source)
    recipes, x, y = table.texts(columns.recipe), table.numbers(columns.x), table.numbers(columns.y)
    if columns.accuracy:
        y = 1 - y
    size = table.texts(columns.size) if columns.size else None
    keys = list(zip(*[table.texts(name) for name in columns.key])) if columns.key else None
    data = table.texts(columns.data) if columns.data else None
    arms = []
    for recipe in dict.fromkeys(recipes):
        named = [row for row, name in enumerate(recipes) if name == recipe]
        known = [row for row in named if math.isfinite(x[row]) and math.isfinite(y[row])]
        empty = [row for row in named if row not in set(known)]
        if not recipe:
            continue
        notes = [f"{recipe}: {len(empty)} rows without a value, first {table.at(empty[0])}"] if empty else []
        arms.append(
            arm(
                recipe, x[known], y[known],
                keys=[keys[row] for row in known] if keys else None,
                sizes=[size[row] for row in known] if size else None, notes=notes,
                data={data[row] for row in known} if data else (),
            )
        )  # fmt: skip
    return arms


def arms_of_studies(
    folders: Sequence[Path], task: str | None = None, cost: str = "flops"
) -> tuple[list[Arm], tuple[str, int]]:
    """The arms of one study's recipes, or of several studies, and the task that they are compared on.

    task: "dataset/shots", the first study's target when None. Raises ValueError for a folder without
    results, an unknown task, and runs whose cost is not known."""
    results = [read_results(folder) for folder in folders]
    chosen = _task(results, task)
    arms = []
    for folder, study in zip(folders, results):
        recipes = list(dict.fromkeys(point.facts.recipe for point in study.of(chosen)))
        if not recipes:
            raise ValueError(f"{folder} has no result on {chosen[0]} with {chosen[1]} shots")
        for recipe in recipes:
            name = _name(folder, recipe, several=len(recipes) > 1, studies=len(folders) > 1)
            points = [point for point in study.of(chosen) if point.facts.recipe == recipe]
            arms.append(_arm_of_points(name, study, points, cost))
    return arms, chosen


def _arm_of_points(name: str, study: Results, points: Sequence[Point], cost: str) -> Arm:
    compute = [COSTS[cost](study, point) for point in points]
    unknown = [point.facts.run for point, value in zip(points, compute) if not math.isfinite(value)]
    if unknown:
        raise ValueError(f"{name}: the cost in {cost} of {unknown[0]} is not in its records")
    keys = [(point.facts.model, point.facts.images, point.facts.steps) for point in points]
    sizes = [point.facts.model for point in points]
    images = {f"{point.facts.images} images" if point.facts.images else "endless images" for point in points}
    return arm(name, compute, [point.error for point in points], keys=keys, sizes=sizes, data=images)


def _name(folder: Path, recipe: str, several: bool, studies: bool) -> str:
    label = recipe or "base"
    if not studies:
        return label
    return f"{folder.name}: {label}" if several else folder.name


def _task(results: Sequence[Results], task: str | None) -> tuple[str, int]:
    known = list(dict.fromkeys(task for study in results for task in study.tasks()))
    if not known:
        raise ValueError("no run has a result yet: nothing can be compared")
    if task is None:
        return known[0]
    names = {f"{dataset}/{shots}": (dataset, shots) for dataset, shots in known}
    if task not in names:
        raise ValueError(f"no result on {task!r}; nearest: {', '.join(nearest_names(task, [*names]))}")
    return names[task]


def _device_hours(results: Results, point: Point) -> float:
    row = results.about.get(point.facts.id, {})
    seconds, world = row.get("seconds"), row.get("world", 1)
    return math.nan if seconds is None else float(seconds) * float(world) / 3600
