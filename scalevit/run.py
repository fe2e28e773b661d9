"""The composition root: from the words of a run to a folder that holds its result.

Everything that can be wrong is looked at before anything is created. `pretrain` called again on a folder goes
on where the last whole checkpoint is; on a finished run it does nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from scalevit import (
    checkpoint,
    config,
    dcp,
    losses,
    optim,
    precision,
    progress,
    records,
    rundir,
    schedule,
    weights,
)
from scalevit.data.loader import Batches, as_floats
from scalevit.data.sources import batches_of
from scalevit.evals.evaluator import floor_rows, probe_rows
from scalevit.evals.evaluator import mistakes as probe_mistakes
from scalevit.model import ViT
from scalevit.stopping import Stop
from scalevit.train import (
    Hooks,
    Micro,
    Recipe,
    State,
    facts,
    pieces,
    restore,
    start_average,
    train,
)  # fmt: skip

#: Checkpoints that are kept besides those a run names in train.keep_at.
KEEP_LAST = 2


@dataclass(frozen=True)
class Outcome:
    """folder: the run's. step: steps done. stopped: why the run ended before its last step, None when it is
    complete. model: the folder with the weights, ready for use."""

    folder: Path
    step: int
    stopped: str | None

    @property
    def model(self) -> Path:
        return self.folder / rundir.MODEL


def mistakes(run: config.Run, out: Path) -> list[str]:
    """Everything that keeps this run from being trained into `out`, one line each; creates nothing."""
    found = config.validate(run)
    try:
        config.require_source(run)
    except config.Mistakes as error:
        found += error.mistakes
    found += [*rundir.mistakes(run, out), *probe_mistakes(run.probe)]
    if run.branch.trunk:
        found += trunk_mistakes(run)
    return found


def trunk_mistakes(run: config.Run) -> list[str]:
    """Why the run cannot start from its trunk's checkpoint: another past, or no such checkpoint."""
    trunk = Path(run.branch.trunk)
    try:
        past = config.load(str(trunk / rundir.CONFIG))
    except ValueError as error:
        return [f"branch.trunk: {error}"]
    try:
        common = schedule.branch(past.schedule, run.branch.step, run.schedule.cooldown)
    except ValueError as error:
        return [f"branch.trunk={trunk}: {error}"]
    odd = _differing_past(replace(past, schedule=replace(common, steps=run.schedule.steps)), run)
    if odd:
        return [f"branch.trunk={trunk}: its past is another; different: {', '.join(odd[:5])}"]
    there = [entry.step for entry in checkpoint.saved(trunk / rundir.CHECKPOINTS)]
    if run.branch.step not in there:
        listed = ", ".join(map(str, there)) or "none"
        return [f"branch.trunk={trunk}: no checkpoint of step {run.branch.step}; there: {listed}"]
    return []


def _differing_past(trunk: config.Run, run: config.Run) -> list[str]:
    """What decides the weights before the branch point, and differs."""
    plain = replace(run, branch=trunk.branch)
    if config.run_id(trunk) == config.run_id(plain):
        return []
    return rundir.differences(trunk, plain)


# --------------------------------------------------------------------------- the one entry


def pretrain(run: config.Run, out: Path | str, *, max_minutes: float | None = None) -> Outcome:
    """Train `run` into the folder `out`, or go on with what is there.

    Raises `config.Mistakes` with everything that is wrong, before anything is created. Ends early, with a
    checkpoint, on SIGTERM, SIGUSR1, Ctrl-C, or after `max_minutes`."""
    out = Path(out)
    found = mistakes(run, out)
    if found:
        raise config.Mistakes(found)
    if rundir.ended(out):
        return Outcome(out, run.schedule.steps, None)
    batches = open_batches(run)
    with rundir.claim(run, out), Stop(max_minutes) as stop:
        session = Session.begin(run, out, batches)
        with session.display:
            stopped = session.go(stop)
    return Outcome(out, session.state.step, stopped)


def open_batches(run: config.Run) -> Batches:
    """The run's data. Raises ValueError when its source does not exist or does not fit the model."""
    model = run.model
    return batches_of(run.data, image=model.image, classes=model.classes, batch=run.train.batch)


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(run: config.Run, device: torch.device) -> State:
    """The state of step 0."""
    model = ViT(run.model, device=device, seed=run.train.seed)
    average = start_average(model) if run.train.ema else None
    optimizer = optim.build(run.optimizer, model)
    return State(model, optimizer, average, device, meters=torch.zeros(3, device=device))


# --------------------------------------------------------------------------- one attempt at a run


@dataclass
class Session:
    """One process's attempt: what is told to whom while the loop runs."""

    run: config.Run
    out: Path
    batches: Batches
    state: State
    recipe: Recipe
    facts: Facts
    log: rundir.Log
    display: progress.Quiet | progress.Line
    saved: int | None = None

    @classmethod
    def begin(cls, run: config.Run, out: Path, batches: Batches) -> Session:
        """Build everything and go back to the newest whole checkpoint, or to the trunk's."""
        log, state = rundir.Log(out), build(run, default_device())
        last, origin = _resume(run, out, state, log)
        recipe = Recipe(
            run.schedule, run.train, run.optimizer.clip, losses.LOSSES[run.train.loss], prepare=as_floats
        )
        display = progress.display(run.name, run.schedule.steps, state.step)
        session = cls(run, out, batches, state, recipe, Facts.of(run), log, display, last)
        session.say(f"{run.name}: {origin}; training to step {run.schedule.steps}")
        start = session.facts.row("start", state.step, "seconds", state.seconds)
        records.append(out, [start | records.provenance() | _whereabouts(state)])
        return session

    def go(self, stop: Stop) -> str | None:
        """Train to the end and finish, or say why not. A disk that is full is a reason to stop, too: what is
        saved is whole, and the run goes on from there once there is room."""
        try:
            stopped = train(self.state, self.micro_batches, self.recipe, self.hooks(stop))
            if stopped is None:
                self.finish()
        except OSError as error:
            stopped = f"{error.strerror or error} (last checkpoint: {self.saved or 'none'})"
        if stopped is not None:
            with contextlib.suppress(OSError):
                self.say(f"stopped by {stopped} at step {self.state.step}; the same command goes on")
        return stopped

    def micro_batches(self, first: int) -> Iterator[Sequence[Micro]]:
        """Each step's share of the batch as micro-batches, on the device, from step `first` on."""
        device, size = self.state.device, self.run.train.micro_batch or self.run.train.batch
        for _, batch in self.batches.iter_from(first):
            images, labels = (
                batch.images.to(device, non_blocking=True),
                batch.labels.to(device, non_blocking=True),
            )
            yield list(zip(images.split(size), labels.split(size)))

    def hooks(self, stop: Stop) -> Hooks:
        return Hooks(
            self.write, self.save, lambda state: records.append(self.out, self.evaluate()),
            lambda: stop.reason, self.tick,
        )  # fmt: skip

    def say(self, text: str) -> None:
        self.log(text)
        self.display.say(text)

    def tick(self, state: State, values: Mapping[str, float]) -> None:
        self.display.show(state.step, {**values, "mfu": self.mfu(values), "saved": self.saved})

    def mfu(self, values: Mapping[str, float]) -> float | None:
        """Model FLOPs over what the device's maker promises."""
        peak = precision.peak_flops(self.run.train.precision, self.state.device)
        return None if peak is None or not values else values["images_per_second"] * self.facts.flops / peak

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line of log and one row a value."""
        shown = {**values, "mfu": self.mfu(values)}
        self.log(f"step {step} · {progress.describe(shown)}")
        records.append(self.out, [self.facts.row("train", step, key, value) for key, value in values.items()])

    def save(self, state: State) -> None:
        """Commit a checkpoint, then remove what is not to be kept."""
        folder = self.out / rundir.CHECKPOINTS
        checkpoint.save(folder, state.step, pieces(state), facts(state))
        self.saved = state.step
        checkpoint.prune(folder, KEEP_LAST, self.run.train.keep_at)

    def evaluate(self, floors: bool = False) -> list[records.Row]:
        """Rows of the probes that the run asks for, with the weights as they are used later; `floors` adds
        what raw pixels and the untrained network reach."""
        if not self.run.probe.datasets:
            return []
        with averaged(self.state) as model:
            found = probe_rows(model, self.run.probe)
            found += floor_rows(model, self.run.probe) if floors else []
        step = self.state.step
        return [self.facts.row(row["kind"], step, row["metric"], row["value"]) | row for row in found]

    def finish(self) -> None:
        """Evaluate, leave the weights ready for use, and say last that the run has ended."""
        rows = self.evaluate(floors=True)
        self.export()
        state, run = self.state, self.run
        speed = state.step * run.train.batch / max(1e-9, state.seconds)
        about = {
            **records.provenance(), **_whereabouts(state), "name": run.name,
            "seconds": round(state.seconds, 3), "images_per_second": speed,
            "mfu": self.mfu({"images_per_second": speed}),
        }  # fmt: skip
        records.append(self.out, [*rows, self.facts.row("run", state.step, "seconds", state.seconds) | about])
        where = self.out / rundir.MODEL
        self.say(f"{run.name}: done, {state.step} steps in {state.seconds:.0f} s; weights in {where}")

    def export(self) -> None:
        """model/: the running average where one is kept, else the weights."""
        with averaged(self.state) as model:
            weights.save(model, self.out / rundir.MODEL)


@contextlib.contextmanager
def averaged(state: State) -> Iterator[ViT]:
    """The model with its running average as weights while this holds."""
    model = state.model
    assert isinstance(model, ViT)
    if state.average is None:
        yield model
        return
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.load_state_dict(state.average, strict=False)
    try:
        yield model
    finally:
        model.load_state_dict(before, strict=False)


def _resume(run: config.Run, out: Path, state: State, log: Callable[[str], None]) -> tuple[int | None, str]:
    """Put the newest whole checkpoint into the state; its step and a sentence for the log."""

    def warn(text: str) -> None:
        log(text)
        progress.Quiet().say(text)

    checkpoint.prune(out / rundir.CHECKPOINTS, 1 << 30, ())
    found = checkpoint.latest(out / rundir.CHECKPOINTS, warn)
    if found is None and run.branch.trunk:
        found = checkpoint.Saved(
            run.branch.step, checkpoint.place(Path(run.branch.trunk) / rundir.CHECKPOINTS, run.branch.step)
        )
        wrong = checkpoint.damage(found.folder)
        if wrong:
            raise ValueError(f"the trunk's checkpoint is damaged: {'; '.join(wrong)}")
    if found is None:
        return None, "from the start"
    restore(state, dcp.Reader(found.folder), checkpoint.facts(found.folder))
    return found.step, f"from {found.folder}"


def _whereabouts(state: State) -> dict[str, Any]:
    name = torch.cuda.get_device_name(state.device) if state.device.type == "cuda" else "cpu"
    return {"device": name, "world": 1}


@dataclass(frozen=True)
class Facts:
    """What every row of a run says about it."""

    run: config.Run
    id: str
    parent: str | None
    parameters: int
    flops: float

    @classmethod
    def of(cls, run: config.Run) -> Facts:
        """flops: of training on one image, that is three forward passes."""
        shape, model = run.model.resolve(), run.model
        size = (model.image, model.pool, model.classes)
        trunk = run.branch.trunk
        parent = config.run_id(config.load(str(Path(trunk) / rundir.CONFIG))) if trunk else None
        return cls(run, config.run_id(run), parent, shape.parameters(*size), 3 * shape.flops(*size))

    def row(self, kind: str, step: int, metric: str, value: float) -> records.Row:
        images = step * self.run.train.batch
        return {
            "run": self.id, "parent": self.parent, "kind": kind, "dataset": self.run.data.source,
            "shots": None, "seed": self.run.train.seed, "step": step, "images_seen": images,
            "train_flops": images * self.flops, "parameters": self.parameters,
            "metric": metric, "value": value,
        }  # fmt: skip


def consolidated(entry: checkpoint.Saved, folder: Path) -> ViT:
    """The model of one checkpoint, whole, on the CPU: the running average where one is kept."""
    run, reader = config.load(str(folder / rundir.CONFIG)), dcp.Reader(entry.folder)
    model = ViT(run.model, device="meta")
    names = model.state_dict()
    kept = {
        name: f"average.{name}" if f"average.{name}" in reader.places else f"model.{name}" for name in names
    }
    model.load_state_dict({name: reader.whole(full) for name, full in kept.items()}, assign=True)
    return model
