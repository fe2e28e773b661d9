"""Results of runs, read from their folders: errors by run and task, baselines, loss curves, provenance.

Runs are told apart by what they are (their id), never by their names, which are labels. A damaged file or
line costs itself and is noted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scalevit import config
from scalevit.artifacts import records, run_folder
from scalevit.config import lr_schedule
from scalevit.config.memory import optimizer_bytes
from scalevit.study.design import grid
from scalevit.study.design.cost import StudyCost
from scalevit.study.design.downstream import FINETUNED_SUFFIX
from scalevit.study.design.spec import Spec, read_spec
from scalevit.study.launch.study_folder import FORECAST, SPEC, is_finite, read_forecast, read_nodes
from scalevit.study.report.untrusted_text import plain_text

#: Where below a fine-tune's folder the runs are that chose its learning rate; they are nobody's result.
SWEEP_FOLDER = "rates"

#: Level of every interval that a report shows.
LEVEL = 0.9


@dataclass(frozen=True)
class RunFacts:
    """Facts of a run. run: its label, unique in a report. id: what the run is, independent of names.

    images: as configured, 0 for all of a store or endlessly new ones. unique: distinct images seen. seen:
    images seen, repeats included. compute: FLOPs of training from scratch. forward: FLOPs of an image.
    start: id of the run that a fine-tune began with. state: bytes of the optimizer's state. What an external
    table does not say is NaN, or None."""

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
    id: str = ""


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
    """A baseline without training: the error of raw pixels, or of the untrained network of a run's model."""

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
    in `without`, and of what was done with them, are not opened.

    Raises ValueError when study.yaml or nodes.json are damaged; a damaged run costs itself and is noted."""
    known = read_nodes(folder)
    without = {*without}
    without |= {name for name, node in known.items() if node.get("after") in without and _follows(node)}
    homes = [home for home in records.find_run_folders(folder) if home.parent.name != SWEEP_FOLDER]
    runs, unreadable = _load_runs(homes)
    opened = {home: records.read_run_records(home) for home in homes if home.name not in without}
    rows = {home: found.rows for home, found in opened.items()}
    ids = _identities(runs)
    facts = {
        home: _run_facts(home, runs[home], ids[home], folder.name, known.get(home.name), rows.get(home, ()))
        for home in runs
    }
    parents = _parents(facts, rows)
    facts = _with_distinct_labels({home: fact for home, fact in facts.items() if home not in parents})
    own = {home: rows[home] for home in rows if home in facts}
    for home, parent in parents.items():
        own[parent] = own[parent] + _downstream_rows(rows[home], facts[parent])
    spec = read_spec(folder / SPEC) if (folder / SPEC).exists() else None
    points = tuple(point for home in own for point in _points(facts[home], own[home]))
    forecast = read_forecast(folder / FORECAST)
    damaged = {
        "whose run.yaml cannot be read, left out": unreadable,
        "without run.yaml, left out": [
            home for home in rows if home not in {*facts, *parents} and home not in unreadable
        ],
        "with lines that are no valid record, left out": [home for home in opened if opened[home].bad_lines],
    }
    return Results(
        title=_title(folder, spec),
        facts=tuple(facts.values()),
        points=points,
        floors=_floors(facts, own),
        curves={facts[home].id: _loss_curve(own[home]) for home in own},
        about={facts[home].id: _about(row) for home in own for row in own[home] if row["kind"] == "run"},
        forecast=forecast or None,
        cost=_cost_of(known),
        target=(spec.dataset, spec.shots) if spec else _default_task(points),
        note=plain_text(spec.note) if spec else "",
        notes=_warnings_of_reading(damaged, facts, own, points),
    )


def _load_runs(homes: Iterable[Path]) -> tuple[dict[Path, config.Run], list[Path]]:
    """The configurations of the folders that have one, and the folders whose run.yaml cannot be read."""
    runs, unreadable = {}, []
    for home in homes:
        if (home / run_folder.CONFIG).exists():
            try:
                runs[home] = config.load(str(home / run_folder.CONFIG))
            except (OSError, ValueError):
                unreadable.append(home)
    return runs, unreadable


def _identities(runs: Mapping[Path, config.Run]) -> dict[Path, str]:
    """What each run is, independent of its name: its id, and a number more where a run was done twice."""
    count: dict[str, int] = {}
    found = {}
    for home, run in runs.items():
        name = config.run_id(run)
        count[name] = count.get(name, 0) + 1
        found[home] = name if count[name] == 1 else f"{name}-{count[name]}"
    return found


def _with_distinct_labels(facts: Mapping[Path, RunFacts]) -> dict[Path, RunFacts]:
    """Runs of one name get their seed, folder or id behind it, the first of these that differs."""
    groups: dict[str, list[Path]] = {}
    for home, fact in facts.items():
        groups.setdefault(fact.run, []).append(home)
    labels = {home: fact.run for home, fact in facts.items()}
    for name, homes in groups.items():
        if len(homes) > 1:
            for of in (lambda f, h: f"seed {f.seed}", lambda f, h: plain_text(h.name), lambda f, h: f.id):
                more = [of(facts[home], home) for home in homes]
                if len({*more}) == len(homes):
                    labels |= {home: f"{name} ({text})" for home, text in zip(homes, more)}
                    break
    return {home: replace(fact, run=labels[home]) for home, fact in facts.items()}


#: Of what a run records about itself, the columns that readers show: numbers, and texts.
_ABOUT_NUMBERS = (
    "seconds", "evaluation_seconds", "images_per_second", "mfu", "memory", "world", "unique_images",
)  # fmt: skip
_ABOUT_TEXTS = ("commit", "machine", "device", "command", "strategy", "name")


def _about(row: records.Row) -> records.Row:
    """A run's record about itself with the columns that readers rely on, each of its type; other columns of a
    stranger's record are left out."""
    found: records.Row = {key: row[key] for key in _ABOUT_NUMBERS if is_finite(row.get(key))}
    found |= {key: plain_text(row[key]) for key in _ABOUT_TEXTS if isinstance(row.get(key), str)}
    versions = row.get("versions")
    if isinstance(versions, dict):
        pairs = [(key, value) for key, value in versions.items() if isinstance(value, str)]
        found["versions"] = {plain_text(key): plain_text(value) for key, value in pairs[:20]}
    return found


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
    damaged: Mapping[str, Sequence[Path]],
    facts: Mapping[Path, RunFacts],
    rows: Mapping[Path, Sequence[records.Row]],
    points: Sequence[Point],
) -> tuple[str, ...]:
    """What a reader must know about results that are missing: each kind once, with the first runs by name."""
    tasks: dict[str, set[tuple[str, int]]] = {}
    for point in points:
        tasks.setdefault(point.facts.run, set()).add((point.dataset, point.shots))
    every = set().union(*tasks.values())
    kinds = {what: [plain_text(home.name) for home in homes] for what, homes in damaged.items()} | {
        "without a result at its last step": [
            facts[home].run for home in rows if facts[home].run not in tasks
        ],
        "with a value that is not finite or no accuracy, which was left out": [
            facts[home].run for home in rows if _has_bad_value(rows[home])
        ],
        "with results on some of the tasks only": [run for run in tasks if tasks[run] != every],
    }
    return tuple(
        f"{len(names)} run{'s' * (len(names) > 1)} {what}: {_first(names)}."
        for what, names in kinds.items()
        if names
    )


def _first(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _has_bad_value(rows: Iterable[records.Row]) -> bool:
    accuracies = {metric for metrics in ACCURACIES.values() for metric in metrics}
    return any(
        row.get("value") is not None
        and (not is_finite(row["value"]) or (row["metric"] in accuracies and not 0 <= row["value"] <= 1))
        for row in rows
    )


def _title(folder: Path, spec: Spec | None) -> str:
    """The study's name, and its folder's where that says more."""
    name = folder.resolve().name
    return name if spec is None or spec.name == name else f"{spec.name} ({name})"


def _cost_of(known: Mapping[str, Mapping[str, Any]]) -> StudyCost | None:
    trained = [node for node in known.values() if not _follows(node)]
    if not trained:
        return None
    return StudyCost(*(sum(node[key] for node in trained) for key in ("flops", "scratch")))


def _run_facts(
    home: Path, run: config.Run, identity: str, study: str, node: Mapping[str, Any] | None,
    rows: Sequence[records.Row],
) -> RunFacts:  # fmt: skip
    """A run's facts: what it recorded at its last step; counted from its configuration before that."""
    shape, model = run.model.resolve(), run.model
    size = (model.image, model.pool, model.classes)
    seen = run.schedule.steps * run.train.batch
    counted = {
        "images_seen": seen, "train_flops": run.schedule.steps * grid.step_flops(run),
        "parameters": shape.parameters(*size), "unique_images": min(run.data.images or seen, seen),
    }  # fmt: skip
    last = [row for row in rows if row["kind"] == "run" and row["step"] == run.schedule.steps]
    facts = counted | {key: row[key] for row in last for key in counted if is_finite(row.get(key))}
    named = {"model": grid.model_label(run), "recipe": ""} | dict(node or {})
    return RunFacts(
        run=plain_text(run.name), study=study, folder=str(home), model=plain_text(named["model"]),
        recipe=plain_text(named["recipe"]), images=run.data.images, unique=facts["unique_images"],
        seed=run.train.seed, steps=run.schedule.steps, batch=run.train.batch, seen=facts["images_seen"],
        compute=facts["train_flops"], parameters=facts["parameters"], forward=shape.flops(*size),
        parent=Path(run.branch.trunk).name if run.branch.trunk else "", schedule=run.schedule,
        branch_step=run.branch.step, head_decay=run.optimizer.head_decay, body_decay=run.optimizer.body_decay,
        start=run.start.parent, state=optimizer_bytes(run, shape), id=identity,
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
        if row["kind"] == kind and row["metric"] in ACCURACIES[kind] and _is_share(row.get("value")):
            data = plain_text(str(row.get("dataset")))
            data = f"{Path(data).name} {FINETUNED_SUFFIX}" if kind == "finetune" else data
            key = (ACCURACIES[kind][row["metric"]], data, int(row.get("shots") or 0))
            found.setdefault(key, []).append(row)
    return found


def _is_share(value: Any) -> bool:
    return is_finite(value) and 0 <= value <= 1


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
    return row["kind"] == "train" and row["metric"] == "loss" and is_finite(row.get("value"))


# --------------------------------------------------------------------------- the law


# --------------------------------------------------------------------------- the forecast
