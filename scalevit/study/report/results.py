"""What came out of runs, from their folders alone.

Points (one error a run and task), floors, training curves, the law through the frontier, and the forecast of
the largest run that is made before its result is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalevit import config
from scalevit.artifacts import records
from scalevit.config import lr_schedule
from scalevit.config.memory import optimizer_bytes
from scalevit.study.design import grid
from scalevit.study.design.cost import StudyCost
from scalevit.study.design.downstream import FINETUNED_SUFFIX
from scalevit.study.design.spec import Spec, read_spec
from scalevit.study.launch.study_folder import FORECAST, SPEC, read_nodes

#: Where below a fine-tune's folder the runs are that chose its learning rate; they are nobody's result.
SWEEP_FOLDER = "rates"

#: Level of every interval that a report shows.
LEVEL = 0.9


@dataclass(frozen=True)
class RunFacts:
    """What a run is, from its run.yaml. compute: FLOPs of training it from scratch. unique: images it could
    learn from, never more than it saw. start: of a fine-tune, the run (by its id) that it began with.
    state: bytes of the optimizer's state. Of runs of other origin what is not known is NaN, or None."""

    run: str
    study: str
    folder: str
    model: str
    recipe: str
    images: int
    unique: float
    seed: int
    steps: int
    batch: int
    seen: float
    compute: float
    parameters: float
    forward: float
    parent: str
    schedule: lr_schedule.Schedule | None
    branch_step: int
    head_decay: float
    body_decay: float
    start: str = ""
    state: float = math.nan


@dataclass(frozen=True)
class Point:
    """The error of one run on one task: mean and standard deviation over the draws of the support set."""

    facts: RunFacts
    dataset: str
    shots: int
    error: float
    spread: float
    draws: int


@dataclass(frozen=True)
class Floor:
    """What needs no training: the error of raw pixels, or of the untrained network of a run's model."""

    name: str
    model: str
    dataset: str
    shots: int
    error: float
    spread: float


@dataclass(frozen=True)
class Results:
    """Everything that tables, figures and reports are drawn from."""

    title: str
    facts: tuple[RunFacts, ...]
    points: tuple[Point, ...]
    floors: tuple[Floor, ...]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    about: Mapping[str, records.Row]
    forecast: Mapping[str, Any] | None = None
    cost: StudyCost | None = None
    target: tuple[str, int] | None = None
    note: str = ""
    notes: tuple[str, ...] = ()
    origin: str = ""

    def tasks(self) -> list[tuple[str, int]]:
        """(dataset, shots) of all points; the study's own target first."""
        found = sorted({(point.dataset, point.shots) for point in self.points})
        return sorted(found, key=lambda task: task != self.target)

    def of(self, task: tuple[str, int]) -> list[Point]:
        """The points of one task, cheapest first."""
        chosen = [point for point in self.points if (point.dataset, point.shots) == task]
        return sorted(chosen, key=lambda point: (_known_compute(point), point.error))


def _known_compute(point: Point) -> float:
    return point.facts.compute if math.isfinite(point.facts.compute) else math.inf


# --------------------------------------------------------------------------- reading folders


def read_results(folder: Path, without: Iterable[str] = ()) -> Results:
    """The results of a study's folder, or of a folder that holds runs or is one. Records of the runs named
    in `without`, and of what was done with them, are not opened."""
    known = read_nodes(folder)
    without = {*without}
    without |= {name for name, node in known.items() if node.get("after") in without and _follows(node)}
    homes = [home for home in records.find_run_folders(folder) if home.parent.name != SWEEP_FOLDER]
    facts = {
        home: _run_facts(home, folder.name, known.get(home.name))
        for home in homes
        if (home / "run.yaml").exists()
    }
    opened = {home: records.read_records(home) for home in homes if home.name not in without}
    parents = _parents(facts, opened)
    facts = {home: fact for home, fact in facts.items() if home not in parents}
    rows = {home: mine for home, mine in opened.items() if home in facts}
    for home, parent in parents.items():
        rows[parent] = rows[parent] + _downstream_rows(opened[home], facts[parent])
    spec = read_spec(folder / SPEC) if (folder / SPEC).exists() else None
    path = folder / FORECAST
    points = tuple(point for home in rows for point in _points(facts[home], rows[home]))
    return Results(
        title=_title(folder, spec),
        facts=tuple(facts.values()),
        points=points,
        floors=_floors(facts, rows),
        curves={facts[home].run: _loss_curve(rows[home]) for home in rows},
        about={facts[home].run: row for home in rows for row in rows[home] if row["kind"] == "run"},
        forecast=json.loads(path.read_text()) if path.exists() else None,
        cost=_cost_of(known),
        target=(spec.dataset, spec.shots) if spec else _default_task(points),
        note=spec.note if spec else "",
        notes=_warnings_of_reading(
            [home for home in opened if home not in {*facts, *parents}], facts, rows, points
        ),
    )


def _follows(node: Mapping[str, Any]) -> bool:
    return node["kind"] in ("probe", "finetune")


def _parents(facts: Mapping[Path, RunFacts], rows: Mapping[Path, Sequence[records.Row]]) -> dict[Path, Path]:
    """Folders of probes and fine-tunes, and those of the runs that they are of, where these are here, too."""
    own = {mine[0]["run"]: home for home, mine in rows.items() if mine and home in facts}
    starts = {home: fact.start for home, fact in facts.items()}
    probes = {home: mine[0]["run"] for home, mine in rows.items() if mine and home not in facts}
    return {home: own[run] for home, run in {**starts, **probes}.items() if run in own}


def _downstream_rows(rows: Sequence[records.Row], facts: RunFacts) -> list[records.Row]:
    """What was measured of a run after its end, in a folder of its own, as rows of its last step."""
    told = [row for row in rows if row["kind"] in (*RESULT_KINDS, "floor")]
    last = max((row.get("step") or 0 for row in told), default=0)
    return [{**row, "step": facts.steps} for row in told if (row.get("step") or 0) == last]


def _default_task(points: Sequence[Point]) -> tuple[str, int] | None:
    """The task to show first where no study names one: most runs have it; then ten shots, then most shots."""
    counts: dict[tuple[str, int], int] = {}
    for point in points:
        task = (point.dataset, point.shots)
        counts[task] = counts.get(task, 0) + 1
    return max(counts, key=lambda task: (counts[task], task[1] == 10, task[1]), default=None)


def _warnings_of_reading(
    alone: Sequence[Path],
    facts: Mapping[Path, RunFacts],
    rows: Mapping[Path, Sequence[records.Row]],
    points: Sequence[Point],
) -> tuple[str, ...]:
    """What a reader must know of what is not on the page: each kind once, with the first runs by name."""
    done = {point.facts.run for point in points}
    tasks = {(point.dataset, point.shots) for point in points}
    having = {run: {(p.dataset, p.shots) for p in points if p.facts.run == run} for run in done}
    found = {
        "without run.yaml, left out": [home.name for home in alone],
        "without a result at its last step": [
            facts[home].run for home in rows if facts[home].run not in done
        ],
        "with a line that is cut or no record, which was dropped": [h.name for h in rows if _broken(h)],
        "with a value that is not finite, which was left out": [h.name for h in rows if _unfinite(rows[h])],
        "with results on some of the tasks only": [run for run in having if having[run] != tasks],
    }
    return tuple(
        f"{len(names)} run{'s' * (len(names) > 1)} {what}: {_first(names)}."
        for what, names in found.items()
        if names
    )


def _first(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _broken(home: Path) -> bool:
    return bool(records.read_run_records(home).bad_lines)


def _unfinite(rows: Iterable[records.Row]) -> bool:
    return any(isinstance(row.get("value"), float) and not np.isfinite(row["value"]) for row in rows)


def _title(folder: Path, spec: Spec | None) -> str:
    """The study's name, and its folder's where that says more."""
    name = folder.resolve().name
    return name if spec is None or spec.name == name else f"{spec.name} ({name})"


def _cost_of(known: Mapping[str, Mapping[str, Any]]) -> StudyCost | None:
    trained = [node for node in known.values() if not _follows(node)]
    if not trained:
        return None
    return StudyCost(*(sum(node[key] for node in trained) for key in ("flops", "scratch")))


def _run_facts(home: Path, study: str, node: Mapping[str, Any] | None) -> RunFacts:
    run = config.load(str(home / "run.yaml"))
    shape, model = run.model.resolve(), run.model
    size = (model.image, model.pool, model.classes)
    seen = run.schedule.steps * run.train.batch
    named = {"model": grid.model_label(run), "recipe": ""} | dict(node or {})
    return RunFacts(
        run=run.name, study=study, folder=str(home), model=named["model"], recipe=named["recipe"],
        images=run.data.images, unique=min(run.data.images or seen, seen), seed=run.train.seed,
        steps=run.schedule.steps, batch=run.train.batch, seen=seen,
        compute=run.schedule.steps * grid.step_flops(run), parameters=shape.parameters(*size),
        forward=shape.flops(*size), parent=Path(run.branch.trunk).name if run.branch.trunk else "",
        schedule=run.schedule, branch_step=run.branch.step,
        head_decay=run.optimizer.head_decay, body_decay=run.optimizer.body_decay,
        start=run.start.parent, state=optimizer_bytes(run, shape),
    )  # fmt: skip


#: Metrics whose value is an accuracy, by the kind of their rows, and what they are called.
ACCURACIES = {
    "probe": {"accuracy": "probe"},
    "finetune": {"accuracy": "fine-tune"},
    "floor": {"raw_pixels_accuracy": "raw pixels", "untrained_accuracy": "untrained network"},
}


#: Kinds of rows whose accuracies are a run's own.
RESULT_KINDS = ("probe", "finetune")


def _tasks(rows: Iterable[records.Row], kind: str) -> dict[tuple[str, str, int], list[records.Row]]:
    """Rows of accuracies by (what was measured, dataset, shots)."""
    found: dict[tuple[str, str, int], list[records.Row]] = {}
    for row in rows:
        if row["kind"] == kind and row["metric"] in ACCURACIES[kind] and _finite(row.get("value")):
            data = str(row.get("dataset"))
            data = f"{Path(data).name} {FINETUNED_SUFFIX}" if kind == "finetune" else data
            key = (ACCURACIES[kind][row["metric"]], data, int(row.get("shots") or 0))
            found.setdefault(key, []).append(row)
    return found


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _points(facts: RunFacts, rows: Sequence[records.Row]) -> list[Point]:
    """A run's errors at its last step: points before the end of a cooldown are no results of the schedule."""
    last = [row for row in rows if (row.get("step") or 0) >= facts.steps]
    return [
        Point(facts, dataset, shots, *_mean_error(found))
        for kind in RESULT_KINDS
        for (_, dataset, shots), found in _tasks(last, kind).items()
    ]


def _mean_error(rows: Sequence[records.Row]) -> tuple[float, float, int]:
    """Mean error, its standard deviation, and the number of draws."""
    errors = 1 - np.array([float(row["value"]) for row in rows])
    return float(errors.mean()), float(errors.std(ddof=1)) if len(errors) > 1 else 0.0, len(errors)


def _floors(facts: Mapping[Path, RunFacts], rows: Mapping[Path, Sequence[records.Row]]) -> tuple[Floor, ...]:
    """Each floor once: pixels know no model, the untrained network is one a model."""
    found: dict[tuple[str, str, str, int], list[records.Row]] = {}
    for home, mine in rows.items():
        for (name, dataset, shots), floor in _tasks(mine, "floor").items():
            model = "" if name == "raw pixels" else facts[home].model
            found.setdefault((name, model, dataset, shots), []).extend(floor)
    return tuple(Floor(*key, *_mean_error(mine)[:2]) for key, mine in sorted(found.items()))


def _loss_curve(rows: Sequence[records.Row], most: int = 120) -> list[tuple[int, float]]:
    """(step, loss) of training, thinned evenly to at most `most` points."""
    curve = [(int(row["step"]), float(row["value"])) for row in rows if _is_loss(row)]
    curve.sort()
    kept = np.unique(np.linspace(0, len(curve) - 1, most).round().astype(int)) if curve else []
    return [curve[index] for index in kept]


def _is_loss(row: records.Row) -> bool:
    return row["kind"] == "train" and row["metric"] == "loss" and _finite(row.get("value"))


# --------------------------------------------------------------------------- the law


# --------------------------------------------------------------------------- the forecast


# --------------------------------------------------------------------------- tables


def rows_of(results: Results) -> list[dict[str, Any]]:
    """One flat row a point: what figures are drawn from and what their CSV holds."""
    return [
        {
            **{key: value for key, value in asdict(point.facts).items() if key not in ("schedule", "folder")},
            "dataset": point.dataset, "shots": point.shots, "error": point.error, "spread": point.spread,
            "draws": point.draws,
        }
        for point in results.points
    ]  # fmt: skip
