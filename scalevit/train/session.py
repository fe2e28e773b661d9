"""One process's attempt at a run, around the loop's steps: back to the last whole checkpoint, save, evaluate,
rewind, and finish.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from scalevit import config
from scalevit.artifacts import checkpoint, dcp, records, run_folder
from scalevit.artifacts.async_checkpoint import AsyncCheckpointer, SaveError
from scalevit.data.loader import Batches
from scalevit.data.normalise import normaliser
from scalevit.distributed import world as mesh
from scalevit.distributed.watchdog import FINISHING
from scalevit.evals.features import WorkShare
from scalevit.evals.finetune import accuracy_rows
from scalevit.evals.in_training import baseline_rows, probe_rows
from scalevit.kernels import fp8_autotune, fp8_linear
from scalevit.model import export, losses
from scalevit.model.vit import ViT
from scalevit.optim.weight_averaging import swap_in_average
from scalevit.train import cooldown_branch
from scalevit.train.loop import (
    Callbacks,
    MicroBatch,
    Recipe,
    State,
    checkpoint_shards,
    restore,
    scalar_state,
    train,
)
from scalevit.train.precision import eager
from scalevit.train.reporter import Reporter
from scalevit.train.signals import StopSignals
from scalevit.train.state import build_state, reset


@dataclass
class Session:
    """All that an attempt needs; `go` is the attempt."""

    run: config.Run
    out: Path
    batches: Batches
    state: State
    recipe: Recipe
    checkpointer: AsyncCheckpointer
    reporter: Reporter

    @classmethod
    def begin(cls, run: config.Run, out: Path, batches: Batches, world: mesh.World) -> Session:
        """Build everything and go back to the newest whole checkpoint, or to the trunk's."""
        loss = losses.LOSSES[run.train.loss]
        prepare = normaliser(run.start.preprocessing)
        recipe = Recipe(run.schedule, run.train, run.optimizer.clip, run.guard, loss, prepare)
        keep = checkpoint.Retention(run.train.keep_last, run.train.keep_every, run.train.keep_at)
        checkpointer = AsyncCheckpointer(run_folder.checkpoint_folder(run, out), world, keep)
        reporter = Reporter.begin(run, out, world)
        if world.watchdog is not None:
            world.watchdog.log = reporter.log
        session = cls(run, out, batches, build_state(run, world), recipe, checkpointer, reporter)
        origin = session.resume()
        reporter.show(session.state.step)
        reporter.say(f"{run.name}: {origin}; training to step {run.schedule.steps}")
        session.choose()
        reporter.started(session.state.step, session.state.seconds)
        return session

    @property
    def blocks(self) -> nn.ModuleList:
        assert isinstance(self.state.model, ViT)
        return self.state.model.blocks

    def choose(self) -> None:
        """Measure which layers of a run in fp8 gain by it, where its checkpoint does not say so."""
        if self.run.train.precision != "fp8" or fp8_linear.granularities(self.blocks):
            return
        world = self.state.world
        found = fp8_autotune.autotune(self.run, world.size, world.device) if world.is_main else []
        found = world.broadcast(found)
        fp8_linear.set_granularities(self.blocks, {choice.layer: choice.granularity for choice in found})
        self.reporter.chosen(self.state.step, found)

    def go(self, stop: StopSignals) -> str | None:
        """Train to the end and finish, or say why not. A disk that is full or a store that is away is a
        reason to stop, too: what is saved is whole, and the run goes on from there once that is mended."""
        try:
            stopped = train(self.state, self.micro_batches, self.recipe, self.hooks(stop))
            self.committed(self.checkpointer.wait())
            if stopped is None:
                self.finish()
        except OSError as error:
            if self.state.world.size > 1 and not isinstance(error, SaveError):
                raise  # the others know nothing of it
            saved = self.reporter.saved or "none"
            stopped = f"{getattr(error, 'strerror', None) or error} (last checkpoint: {saved})"
        except ValueError:
            self.reporter.broken(self.state.step, [self.batches.replaced])
            raise
        if stopped is not None:
            with contextlib.suppress(OSError):
                self.reporter.stopped(self.state.step, self.state.seconds, stopped)
        return stopped

    def hooks(self, stop: StopSignals) -> Callbacks:
        return Callbacks(
            log=self.write,
            save=self.save,
            evaluate=lambda state: self.reporter.record(self.evaluate()),
            stop=lambda: stop.reason,
            tick=lambda state, values: self.reporter.tick(state.step, values),
            rewind=self.rewind,
        )

    def micro_batches(self, first: int) -> Iterator[Sequence[MicroBatch]]:
        """Each step's share of the batch as micro-batches, on the device, from step `first` on."""
        device, size = self.state.device, self.run.train.micro_batch or self.run.train.batch
        for _, batch in self.batches.iter_from(first):
            images = batch.images.to(device, non_blocking=True)
            labels = batch.labels.to(device, non_blocking=True)
            yield list(zip(images.split(size), labels.split(size)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.reporter.step(step, values)
        self.committed(self.checkpointer.poll())
        self.reporter.broken(step, self.state.world.all_gather(self.batches.replaced))

    # ----------------------------------------------------------------- back to a checkpoint

    def resume(self) -> str:
        """Put the newest whole checkpoint into the state, or the first values; says which."""
        found = self.newest() if self.state.world.is_main else None
        self.state.world.raise_on_all_ranks(found if isinstance(found, ValueError) else None)
        found = self.state.world.broadcast(found)
        if found is not None:
            kept = checkpoint.read_extra_state(found.folder)
            restore(self.state, dcp.ShardReader(found.folder), kept)
            if self.run.train.precision == "fp8":
                fp8_linear.set_granularities(self.blocks, kept["fp8"])
            self.reporter.saved = found.step
            return f"from {found.folder}"
        if self.state.step or self.run.start.weights:
            reset(self.state, self.run)
        return f"from {self.run.start.weights or 'the start'}"

    def newest(self) -> checkpoint.SavedCheckpoint | ValueError | None:
        """The newest whole checkpoint of this run, or the one of the trunk that it branches off."""
        folder = self.checkpointer.folder
        checkpoint.remove_staging(folder)
        try:
            found = checkpoint.latest(folder, self.reporter.say)
            if found is None and self.run.branch.trunk:
                found = cooldown_branch.parent_checkpoint(self.run.branch)
        except ValueError as error:
            return error
        except OSError as error:
            return ValueError(f"{folder}: {error}")
        return found

    def rewind(self, state: State, why: str) -> None:
        """Back to the last good state; a record and a line say so."""
        failed, facts = state.step, self.reporter.facts
        self.committed(self.checkpointer.wait())
        self.resume()
        text = f"{why}: not let into the weights; back at step {state.step}, that data is skipped"
        self.reporter.say(text)
        row = facts.row("event", failed, f"rewind {state.rewinds + 1}", state.step)
        self.reporter.record([row | {"why": why}])

    # ----------------------------------------------------------------- keep and leave

    def save(self, state: State) -> None:
        """Begin to write a checkpoint; it is in place by the time of the next one, at the latest."""
        kept = scalar_state(state)
        if self.run.train.precision == "fp8":
            kept["fp8"] = fp8_linear.granularities(self.blocks)
        self.committed(self.checkpointer.start_save(state.step, checkpoint_shards(state), kept))

    def committed(self, step: int | None) -> None:
        """A checkpoint is in place."""
        self.reporter.saved = self.reporter.saved if step is None else step

    def evaluate(self, floors: bool = False) -> list[records.Row]:
        """Rows of the probes that the run asks for and of what fine-tuning reached, with the weights as they
        are used later; `floors` adds what raw pixels and the untrained network reach."""
        state, run = self.state, self.run
        if not run.probe.datasets and run.data.part == "all":
            return []
        assert isinstance(state.model, ViT)
        share = WorkShare.of(state.world)
        with swap_in_average(state.model, state.average), eager(run.train.compile):
            found = probe_rows(state.model, run.probe, share)
            found += accuracy_rows(state.model, run.data, share) if run.data.part != "all" else []
        if floors:
            found += baseline_rows(ViT(run.model, device=state.device), run.probe, share)
        row = self.reporter.facts.row
        return [row(one["kind"], state.step, one["metric"], one["value"]) | one for one in found]

    def finish(self) -> None:
        """Evaluate, leave the weights ready for use, and say last that the run has ended."""
        state, run = self.state, self.run
        state.world.mark_progress(state.step, FINISHING)
        rows = self.evaluate(floors=not run.branch.trunk)  # a branch's floors are its trunk's
        if state.world.is_main:
            export.export_run(run, self.out, state.step)
        self.reporter.ended(state.step, state.seconds, rows)
        where = self.out / run_folder.MODEL
        text = f"{run.name}: done, {state.step} steps in {state.seconds:.0f} s; weights in {where}"
        self.reporter.say(text)
