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
    mesh,
    optim,
    precision,
    progress,
    records,
    rundir,
    schedule,
    weights,
)
from scalevit.answer import MISTAKE
from scalevit.data.loader import Batches, Replaced
from scalevit.data.sources import batches_of
from scalevit.evals.evaluator import floor_rows, probe_rows
from scalevit.evals.evaluator import mistakes as probe_mistakes
from scalevit.evals.finetune import accuracy_rows, first_values, scaled
from scalevit.model import ViT
from scalevit.saving import Saver
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
    """Everything that keeps this run from being trained into `out`, its images apart, one line each; creates
    nothing."""
    found = [*config.validate(run), *rundir.mistakes(run, out), *probe_mistakes(run.probe)]
    found += mesh.mistakes(run.parallel, run.train.batch)
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
    """Train `run` into the folder `out`, or go on with what is there; started by torchrun, together with the
    other processes.

    Raises `config.Mistakes` with everything that is wrong, before anything is created. Ends early, with a
    checkpoint, on SIGTERM, SIGUSR1, Ctrl-C, or after `max_minutes`."""
    out = Path(out)
    with mesh.join(run.parallel) as world:
        found = world.tell([*config.missing(run), *mistakes(run, out)] if world.first else None)
        if found and not world.first:
            raise SystemExit(MISTAKE)
        if found:
            raise config.Mistakes(found)
        if world.tell(rundir.ended(out)):
            return Outcome(out, run.schedule.steps, None)
        batches = open_batches(run, world)
        with claimed(run, out, world), Stop(max_minutes) as stop:
            session = Session.begin(run, out, batches, world)
            with session.display:
                stopped = session.go(stop)
    return Outcome(out, session.state.step, stopped)


@contextlib.contextmanager
def claimed(run: config.Run, out: Path, world: mesh.World) -> Iterator[None]:
    """The first process holds the folder for all; a refusal is raised on all of them."""
    with contextlib.ExitStack() as stack:
        refusal = None
        if world.first:
            try:
                stack.enter_context(rundir.claim(run, out))
            except (ValueError, OSError) as error:
                refusal = error
        refusal = world.tell(refusal)
        if refusal is not None:
            raise refusal
        yield


def open_batches(run: config.Run, world: mesh.World = mesh.ALONE) -> Batches:
    """The run's data. Raises ValueError when its source does not exist or does not fit the model."""
    if run.data.part != "all":
        # image libraries cost a fifth of a second, which a run on procedural images need not pay
        from scalevit.evals.labelled import labelled_batches

        return labelled_batches(run, world.rank, world.size)
    size = {"image": run.model.image, "classes": run.model.classes}
    return batches_of(run.data, **size, batch=run.train.batch, rank=world.rank, world=world.size)


def build(run: config.Run, world: mesh.World) -> State:
    """The state of step 0."""
    shard = world.size > 1 and run.parallel.strategy != "ddp"
    model = ViT(run.model, device="meta" if shard else world.device, seed=run.train.seed)
    model.preprocessing = run.start.preprocessing
    if run.parallel.recompute != "none":
        mesh.recompute(model.blocks, run.parallel.recompute)
    if run.train.compile:
        for block in model.blocks:
            block.compile()
    forward = mesh.share(model, run.parallel, world)
    if shard:
        model.to_empty(device=world.device)
        begin_anew(model, run)
    average = start_average(model) if run.train.ema else None
    meters = torch.zeros(3, device=world.device)
    return State(model, optim.build(run.optimizer, model), average, world, forward, meters=meters)


@torch.no_grad()
def begin_anew(model: ViT, run: config.Run) -> None:
    """The first values of every tensor, of which each process keeps its share."""
    targets = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, value in model.initial_values(run.train.seed):
        mesh.put(targets[name], value)
    if run.start.weights:
        for name, value in first_values(run.start, run.model.image):
            mesh.put(targets[name], value)


# --------------------------------------------------------------------------- one attempt at a run


@dataclass
class Session:
    """One process's attempt: what is told to whom while the loop runs. The first process writes for all."""

    run: config.Run
    out: Path
    batches: Batches
    state: State
    recipe: Recipe
    facts: Facts
    log: Callable[[str], None]
    display: progress.Quiet | progress.Line
    saver: Saver
    saved: int | None = None
    replaced: int = 0

    @classmethod
    def begin(cls, run: config.Run, out: Path, batches: Batches, world: mesh.World) -> Session:
        """Build everything and go back to the newest whole checkpoint, or to the trunk's."""
        loss = losses.LOSSES[run.train.loss]
        prepare = scaled(run.start.preprocessing)
        recipe = Recipe(run.schedule, run.train, run.optimizer.clip, run.guard, loss, prepare)
        log = rundir.Log(out) if world.first else progress.nothing
        saver = Saver(out / rundir.CHECKPOINTS, world, KEEP_LAST, run.train.keep_at)
        state, quiet = build(run, world), progress.Quiet() if world.first else progress.Silent()
        session = cls(run, out, batches, state, recipe, Facts.of(run), log, quiet, saver)
        origin = session.resume()
        if world.first:
            session.display = progress.display(run.name, run.schedule.steps, state.step)
        session.say(f"{run.name}: {origin}; training to step {run.schedule.steps}")
        session.record(
            [session.row("start", "seconds", state.seconds) | records.provenance() | session.where()]
        )
        return session

    def go(self, stop: Stop) -> str | None:
        """Train to the end and finish, or say why not. A disk that is full is a reason to stop, too: what is
        saved is whole, and the run goes on from there once there is room."""
        try:
            stopped = train(self.state, self.micro_batches, self.recipe, self.hooks(stop))
            self.committed(self.saver.finish())
            if stopped is None:
                self.finish()
        except OSError as error:
            stopped = f"{error.strerror or error} (last checkpoint: {self.saved or 'none'})"
        except ValueError:
            self.report([self.batches.replaced])
            raise
        if stopped is not None:
            with contextlib.suppress(OSError):
                self.say(f"stopped by {stopped} at step {self.state.step}; the same command goes on")
        return stopped

    def resume(self) -> str:
        """Put the newest whole checkpoint into the state, or the first values; says which."""
        found = self.state.world.tell(self.newest() if self.state.world.first else None)
        if isinstance(found, ValueError):
            raise found
        if found is not None:
            restore(self.state, dcp.Reader(found.folder), checkpoint.facts(found.folder))
            self.saved = found.step
            return f"from {found.folder}"
        if self.state.step or self.run.start.weights:
            start_over(self.state, self.run)
        return f"from {self.run.start.weights or 'the start'}"

    def newest(self) -> checkpoint.Saved | ValueError | None:
        """The newest whole checkpoint of this run, or the one of the trunk that it branches off."""
        folder = self.out / rundir.CHECKPOINTS
        checkpoint.prune(folder, 1 << 30, ())
        try:
            found = checkpoint.latest(folder, self.say)
        except ValueError as error:
            return error
        if found is not None or not self.run.branch.trunk:
            return found
        step, trunk = self.run.branch.step, Path(self.run.branch.trunk) / rundir.CHECKPOINTS
        wrong = checkpoint.damage(checkpoint.place(trunk, step))
        if wrong:
            return ValueError(f"the trunk's checkpoint is damaged: {'; '.join(wrong)}")
        return checkpoint.Saved(step, checkpoint.place(trunk, step))

    def rewind(self, state: State, why: str) -> None:
        """Back to the last good state; a record and a line say so."""
        failed = state.step
        self.committed(self.saver.finish())
        self.resume()
        self.say(f"{why}: not let into the weights; back at step {state.step}, that data is skipped")
        self.record(
            [self.facts.row("event", failed, f"rewind {state.rewinds + 1}", state.step) | {"why": why}]
        )

    def micro_batches(self, first: int) -> Iterator[Sequence[Micro]]:
        """Each step's share of the batch as micro-batches, on the device, from step `first` on."""
        device, size = self.state.device, self.run.train.micro_batch or self.run.train.batch
        for _, batch in self.batches.iter_from(first):
            images = batch.images.to(device, non_blocking=True)
            labels = batch.labels.to(device, non_blocking=True)
            yield list(zip(images.split(size), labels.split(size)))

    def hooks(self, stop: Stop) -> Hooks:
        return Hooks(
            self.write, self.save, lambda state: self.record(self.evaluate()), lambda: stop.reason,
            self.tick, self.rewind,
        )  # fmt: skip

    def say(self, text: str) -> None:
        self.log(text)
        self.display.say(text)

    def record(self, rows: Sequence[records.Row]) -> None:
        if self.state.world.first:
            records.append(self.out, rows)

    def row(self, kind: str, metric: str, value: float) -> records.Row:
        return self.facts.row(kind, self.state.step, metric, value)

    def tick(self, state: State, values: Mapping[str, float]) -> None:
        self.display.show(state.step, {**values, "mfu": self.mfu(values), "saved": self.saved})

    def mfu(self, values: Mapping[str, float]) -> float | None:
        """Model FLOPs over what the devices' maker promises."""
        peak = precision.peak_flops(self.run.train.precision, self.state.device)
        if peak is None or not values:
            return None
        return values["images_per_second"] * self.facts.flops / (peak * self.state.world.size)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line of log and one row a value."""
        shown = {**values, "mfu": self.mfu(values)}
        self.log(f"step {step} · {progress.describe(shown)}")
        self.record([self.row("train", key, value) for key, value in shown.items() if value is not None])
        self.committed(self.saver.poll())
        self.report(self.state.world.gather(self.batches.replaced))

    def report(self, found: Sequence[Replaced]) -> None:
        """A line and a record when more broken samples were replaced; `found` by each process."""
        times, first = sum(one.times for one in found), {line: 0 for one in found for line in one.first}
        if times > self.replaced:
            self.replaced = times
            self.say(f"{times} broken samples replaced; see scalevit data check {self.run.data.source}")
            self.record([self.row("event", "broken_samples", times) | {"first": [*first]}])

    def save(self, state: State) -> None:
        """Begin to write a checkpoint; it is in place by the time of the next one, at the latest."""
        self.committed(self.saver.start(state.step, pieces(state), facts(state)))

    def committed(self, step: int | None) -> None:
        """A checkpoint is in place."""
        self.saved = self.saved if step is None else step

    def evaluate(self, floors: bool = False) -> list[records.Row]:
        """Rows of the probes that the run asks for and of what fine-tuning reached, with the weights as they
        are used later; `floors` adds what raw pixels and the untrained network reach."""
        if not self.run.probe.datasets and self.run.data.part == "all":
            return []
        with averaged(self.state) as model:
            found = probe_rows(model, self.run.probe)
            found += accuracy_rows(model, self.run.data) if self.run.data.part != "all" else []
        if floors and self.state.world.first:
            found += floor_rows(ViT(self.run.model, device=self.state.device), self.run.probe)
        return [self.row(row["kind"], row["metric"], row["value"]) | row for row in found]

    def finish(self) -> None:
        """Evaluate, leave the weights ready for use, and say last that the run has ended."""
        state, run = self.state, self.run
        rows = self.evaluate(floors=not run.branch.trunk)  # a branch's floors are its trunk's
        if state.world.first:
            self.export()
        speed = state.step * run.train.batch / max(1e-9, state.seconds)
        about = {
            **records.provenance(), **self.where(), "name": run.name, "seconds": round(state.seconds, 3),
            "images_per_second": speed, "mfu": self.mfu({"images_per_second": speed}),
        }  # fmt: skip
        self.record([*rows, self.row("run", "seconds", state.seconds) | about])
        where = self.out / rundir.MODEL
        self.say(f"{run.name}: done, {state.step} steps in {state.seconds:.0f} s; weights in {where}")

    def export(self) -> None:
        """model/: the running average where one is kept, else the weights, read from the last checkpoint."""
        last = checkpoint.place(self.out / rundir.CHECKPOINTS, self.state.step)
        model = consolidated(checkpoint.Saved(self.state.step, last), self.out)
        weights.save(model, self.out / rundir.MODEL)

    def where(self) -> dict[str, Any]:
        device, world = self.state.device, self.state.world.size
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        strategy = self.run.parallel.strategy if world > 1 else "single"
        return {"device": name, "world": world, "strategy": strategy}


def start_over(state: State, run: config.Run) -> None:
    """The state of step 0 again, in place; what the guard learnt is kept by whoever calls."""
    assert isinstance(state.model, ViT)
    begin_anew(state.model, run)
    state.optimizer.state.clear()
    for name, value in (state.average or {}).items():
        value.copy_(state.model.get_parameter(name).detach())
    state.step, state.seconds, state.history = 0, 0.0, []
    state.meters.zero_()


@contextlib.contextmanager
def averaged(state: State) -> Iterator[ViT]:
    """The model with its running average as weights while this holds."""
    model, average = state.model, state.average or {}
    assert isinstance(model, ViT)
    pairs = [
        (mesh.local(model.get_parameter(name).data), mesh.local(value)) for name, value in average.items()
    ]
    before = [now.clone() for now, _ in pairs]
    for now, mean in pairs:
        now.copy_(mean)
    try:
        yield model
    finally:
        for (now, _), old in zip(pairs, before):
            now.copy_(old)


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
        parent = config.run_id(config.load(str(Path(trunk) / rundir.CONFIG))) if trunk else run.start.parent
        return cls(run, config.run_id(run), parent or None, shape.parameters(*size), 3 * shape.flops(*size))

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
    model.preprocessing = run.start.preprocessing
    return model
