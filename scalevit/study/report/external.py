"""External results, shown beside one's own: the paper's tables, timm's results, anybody's CSV.

What a table does not say stays unknown (NaN), and a point without compute is in no law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalevit.config import model_sizes
from scalevit.study.design.table import Table, load_table
from scalevit.study.paper import tables
from scalevit.study.report.results import Point, Results, RunFacts

#: The word that stands for the paper's own tables.
PAPER = "paper"

#: Other names of columns, as big tables have them.
ALIASES = {
    "train_flops": "compute", "flops": "compute", "images_seen": "seen", "unique_images": "images",
    "params": "parameters", "param_count": "parameters", "std": "spread", "img_size": "image",
}  # fmt: skip

#: The columns by which timm's tables of results are known; theirs is in per cent and millions.
TIMM = {"model", "top1_err", "param_count"}

#: Columns of the paper's tables 4-13: data set and examples a class.
FEWSHOT = {
    "INet": "imagenet", "Cifar": "cifar100", "Pets": "pets", "Birds": "birds",
}  # fmt: skip

#: Columns of numbers.
NUMBERS = {
    "error", "accuracy", "shots", "spread", "draws", "compute", "seen", "images", "steps", "batch",
    "parameters", "forward", "seed", "image",
}  # fmt: skip

#: Where a row's cells come from, for messages.
WHERE = ""

Row = Mapping[str, Any]


def read(source: Path) -> Results:
    """The paper's tables for the word `paper`, else any table: one row a result, with a column error or
    accuracy (0 to 1), and as many of model, dataset, shots, spread, draws, compute, seen, images, steps,
    batch, parameters, forward, seed, recipe and run as it has. A ViT's size and compute follow from its
    name. Raises ValueError for what is not there and for cells that are not what they should be."""
    if str(source) == PAPER and not source.exists():
        return _paper()
    table = load_table(source)
    table.check_unique()
    if {*table.names} >= TIMM:
        rows = _timm(table)
        return Results(source.stem, *_parts(rows, table), origin=f"timm's results, from {source.name}.")
    rows, left_out = _known_errors(_rows(table), table)
    return Results(source.stem, *_parts(rows, table), origin=f"Results from {source.name}.", notes=left_out)


def _rows(table: Table) -> list[Row]:
    """The table's rows, columns by the names that are used here, numbers as numbers."""
    used = {}
    for name in filter(None, table.names):
        alias = ALIASES.get(name, name)
        if name == alias or alias not in table.names:
            if alias in used:
                raise ValueError(f"{table.where}: {used[alias]!r} and {name!r} both mean {alias}; keep one")
            used[alias] = name
    if not {"error", "accuracy"} & {*used}:
        raise ValueError(
            f"{table.where}: a table of results needs a column error or accuracy, and one row at least"
        )
    columns = {
        alias: list(map(float, table.numbers(name))) if alias in NUMBERS else table.texts(name)
        for alias, name in used.items()
    }
    places = [table.at(row) for row in range(len(table.rows))]
    return [{WHERE: place, **dict(zip(columns, cells))} for place, *cells in zip(places, *columns.values())]


def _known_errors(rows: Sequence[Row], table: Table) -> tuple[list[Row], tuple[str, ...]]:
    """The rows that have an error or accuracy, and a note about the others."""

    def known(row: Row) -> bool:
        return any(math.isfinite(row.get(name, math.nan)) for name in ("error", "accuracy"))

    good = [row for row in rows if known(row)]
    bad = [row[WHERE] for row in rows if not known(row)]
    if not good:
        raise ValueError(f"{table.where}: no row has an error or accuracy")
    note = f"{len(bad)} rows of {table.where} have no error and are left out, first: {bad[0]}" if bad else ""
    return good, (note,) if note else ()


@dataclass(frozen=True)
class Cells:
    """A row's cells, by name; where: what errors call it."""

    row: Row

    @property
    def where(self) -> str:
        return self.row[WHERE]

    def text(self, name: str, default: str = "") -> str:
        return self.row.get(name) or default

    def number(self, name: str) -> float:
        """NaN for an empty cell or no such column."""
        return self.row.get(name, math.nan)

    def whole(self, name: str) -> int:
        """0 for an empty cell."""
        value = self.number(name)
        return 0 if math.isnan(value) else int(value)


def _parts(rows: Sequence[Row], source: Table | str) -> tuple:
    """Facts and points, and nothing of what only runs have: floors, curves, provenance."""
    facts: dict[str, RunFacts] = {}
    points = []
    study = source if isinstance(source, str) else Path(source.where).stem
    for row in rows:
        cells = Cells(row)
        made = _facts(cells, study)
        made = facts.setdefault(made.run, made)
        error = cells.number("error")
        error = 1 - cells.number("accuracy") if math.isnan(error) else error
        if not 0 <= error <= 1:
            raise ValueError(
                f"{cells.where}: an error must be from 0 to 1, not {error:g} (per cent? divide by 100)"
            )
        spread = 0.0 if math.isnan(cells.number("spread")) else cells.number("spread")
        points.append(
            Point(
                made,
                cells.text("dataset", "imagenet"),
                cells.whole("shots"),
                error,
                spread,
                cells.whole("draws"),
            )
        )
    return tuple(facts.values()), tuple(points), (), {}, {}


def _facts(cells: Cells, study: str) -> RunFacts:
    """What the row says of its run; the size and compute of a ViT that is named and not given."""
    model = cells.text("model", "?")
    steps, batch, seen = cells.whole("steps"), cells.whole("batch"), cells.number("seen")
    if math.isnan(seen) and steps and batch:
        seen = float(steps * batch)
    parameters, forward = cells.number("parameters"), cells.number("forward")
    known = _shape(model)
    if known is not None:
        image = cells.whole("image") or 224
        forward = known.flops(image) if math.isnan(forward) else forward
        parameters = known.parameters(image) if math.isnan(parameters) else parameters
    compute = cells.number("compute")
    compute = 3 * forward * seen if math.isnan(compute) else compute
    images, recipe, seed = cells.whole("images"), cells.text("recipe"), cells.whole("seed")
    told = [model, recipe, str(images or ""), str(steps or ""), str(seed or "")]
    return RunFacts(
        run=cells.text("run") or " ".join(part for part in told if part), study=study, folder="",
        model=model, recipe=recipe, images=images, unique=min(images or seen, seen), seed=seed, steps=steps,
        batch=batch, seen=seen, compute=compute, parameters=parameters, forward=forward, parent="",
        schedule=None, branch_step=0, head_decay=math.nan, body_decay=math.nan,
    )  # fmt: skip


def _shape(model: str) -> model_sizes.Shape | None:
    try:
        return model_sizes.shape(model)
    except ValueError:
        return None


def _timm(table: Table) -> list[Row]:
    """timm's table: errors in per cent, parameters in millions."""
    errors, parameters = table.numbers("top1_err") / 100, 1e6 * table.numbers("param_count")
    images = table.numbers("img_size") if "img_size" in table.names else [math.nan] * len(errors)
    return [
        {
            WHERE: table.at(row), "model": model, "error": float(errors[row]), "dataset": "imagenet",
            "image": float(images[row]), "parameters": float(parameters[row]),
        }
        for row, model in enumerate(table.texts("model"))
    ]  # fmt: skip


def _brief(steps: float) -> str:
    """20k, 1.2M"""
    return f"{steps / 1e6:g}M" if steps >= 1e6 else f"{steps / 1e3:g}k"


def _paper() -> Results:
    """Tables 4-13: few-shot errors of 5 and 10 examples a class, at batch 4 096 and 224 pixels."""
    rows = [
        {
            WHERE: "the paper",
            "run": f"{row['model']} {row['data_size']} {_brief(float(row['steps_at_bs4096']))}",
            "model": row["model"], "images": tables.IMAGES[row["data_size"]],
            "steps": float(row["steps_at_bs4096"]), "batch": float(tables.BATCH), "dataset": data,
            "shots": float(shots), "accuracy": float(row[f"{column}{shots}"]) / 100,
        }
        for row in tables.table(tables.FEWSHOT)
        for column, data in FEWSHOT.items()
        for shots in (5, 10)
        if row[f"{column}{shots}"]
    ]  # fmt: skip
    words = (
        "Scaling Vision Transformers (arXiv 2106.04560), tables 4-13; compute is counted as everywhere here."
    )
    return Results("the paper", *_parts(rows, "the paper"), target=("imagenet", 10), origin=words)
