"""One attempt at a run around the training loop: resume from the newest checkpoint, save, evaluate, rewind
after a bad step, and finish.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from scalevit import config
from scalevit.artifacts import checkpoint, dcp, records, run_folder
from scalevit.artifacts.async_checkpoint import AsyncCheckpointer, SaveError
from scalevit.artifacts.remote import StoreUnavailable
from scalevit.data.loader import Batches
from scalevit.distributed import world as mesh
from scalevit.distributed.watchdog import FINISHING
from scalevit.evals.features import WorkShare
from scalevit.evals.finetune import accuracy_rows
from scalevit.evals.in_training import baseline_rows, probe_rows
from scalevit.kernels import fp8_autotune, fp8_linear
from scalevit.model import export
from scalevit.model.vit import ViT
from scalevit.optim.weight_averaging import swap_in_average
from scalevit.train import cooldown_branch
from scalevit.train.class_names import class_names
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
from scalevit.train.memory_check import MemoryCheck
from scalevit.train.precision import eager
from scalevit.train.reporter import Reporter
from scalevit.train.signals import StopSignals
from scalevit.train.state import build_recipe, build_state, load_start_weights, reset


@dataclass
class Session:
    """One process's attempt at a run; `train_to_end` trains."""

    run: config.Run
    out: Path
    batches: Batches
    state: State
    recipe: Recipe
    checkpointer: AsyncCheckpointer
    reporter: Reporter
    memory: MemoryCheck

    @classmethod
    def begin(
        cls,
        run: config.Run,
        out: Path,
        batches: Batches,
        world: mesh.World,
        reporter: Reporter,
        memory: MemoryCheck,
    ) -> Session:
        """Build everything and resume from the newest complete checkpoint, or from the trunk's."""
        keep = checkpoint.Retention(run.train.keep_last, run.train.keep_every, run.train.keep_at)
        checkpointer = AsyncCheckpointer(run_folder.checkpoint_folder(run, out), world, keep)
        if world.watchdog is not None:
            world.watchdog.log = reporter.log
        session = cls(
            run, out, batches, build_state(run, world), build_recipe(run), checkpointer, reporter, memory
        )
        origin = session.resume()
        reporter.open_displays(session.state.step)
        reporter.log_event(f"{run.name}: {origin}; training to step {run.schedule.steps}")
        for note in batches.notes:
            reporter.log_event(note)
        session.choose_fp8_layers()
        reporter.record_start(session.state.step, session.state.seconds)
        reporter.log_memory(session.state.step, memory)
        return session

    @property
    def blocks(self) -> nn.ModuleList:
        assert isinstance(self.state.model, ViT)
        return self.state.model.blocks

    def choose_fp8_layers(self) -> None:
        """Measure which linear layers gain from fp8, unless the checkpoint already says so."""
        if self.run.train.precision != "fp8" or fp8_linear.granularities(self.blocks):
            return
        world = self.state.world
        timings = fp8_autotune.autotune(self.run, world.size, world.device) if world.is_main else []
        timings = world.broadcast(timings)
        fp8_linear.set_granularities(self.blocks, {choice.layer: choice.granularity for choice in timings})
        self.reporter.log_fp8_layers(self.state.step, timings)

    def train_to_end(self, stop: StopSignals) -> str | None:
        """Train to the end and finish, or give the reason to stop. A full disk and an unreachable store are
        reasons too: the run resumes from its last complete checkpoint once they are mended."""
        try:
            stopped = train(self.state, self.micro_batches, self.recipe, self.callbacks(stop))
            self.note_saved(self.checkpointer.wait())
            if stopped is None:
                self.finish()
        except OSError as error:
            if self.state.world.size > 1 and not isinstance(error, SaveError):
                raise  # the others know nothing of it
            saved = self.reporter.saved or "none"
            stopped = f"{getattr(error, 'strerror', None) or error} (last checkpoint: {saved})"
        except ValueError:
            self.reporter.log_corrupt_samples(self.state.step, [self.batches.replaced])
            raise
        if stopped is not None:
            with contextlib.suppress(OSError):
                self.reporter.record_stop(self.state.step, self.state.seconds, stopped)
        return stopped

    def callbacks(self, stop: StopSignals) -> Callbacks:
        return Callbacks(
            log=self.log_step,
            save=self.save,
            evaluate=lambda state: self.reporter.record(self.evaluate()),
            stop=lambda: stop.reason,
            after_step=lambda state, values: self.reporter.update_display(state.step, state.seconds, values),
            rewind=self.rewind,
        )

    def micro_batches(self, first: int) -> Iterator[Sequence[MicroBatch]]:
        """Each step's share of the batch as micro-batches, on the device, from step `first` on."""
        device, size = self.state.device, self.memory.micro_batch
        for _, batch in self.batches.iter_from(first):
            images = batch.images.to(device, non_blocking=True)
            labels = batch.labels.to(device, non_blocking=True)
            yield list(zip(images.split(size), labels.split(size)))

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        self.reporter.log_step(step, values)
        self.note_saved(self.checkpointer.poll())
        self.reporter.log_corrupt_samples(step, self.state.world.all_gather(self.batches.replaced))

    # ----------------------------------------------------------------- resume

    def resume(self) -> str:
        """Restore the newest complete checkpoint, else the start weights, else nothing; says which."""
        world = self.state.world
        newest, error = world.run_on_main(self.newest_checkpoint)
        world.raise_on_all_ranks(error)
        if newest is not None:
            scalars = checkpoint.read_extra_state(newest.folder)
            restore(self.state, dcp.ShardReader(newest.folder), scalars)
            if self.run.train.precision == "fp8":
                fp8_linear.set_granularities(self.blocks, scalars["fp8"])
            self.reporter.saved = newest.step
            return f"from {newest.folder}"
        if self.state.step:
            reset(self.state, self.run)
        else:
            load_start_weights(self.state, self.run)
        return f"from {self.run.start.weights or 'the start'}"

    def newest_checkpoint(self) -> tuple[checkpoint.SavedCheckpoint | None, Exception | None]:
        """The newest complete checkpoint of this run, or the trunk's that it branches off; or an error."""
        folder = self.checkpointer.folder
        try:
            checkpoint.remove_staging(folder)
            newest = checkpoint.latest(folder, self.reporter.log_event, self.state.world.report_work)
            if newest is None and self.run.branch.trunk:
                newest = cooldown_branch.parent_checkpoint(self.run.branch)
        except (ValueError, StoreUnavailable) as error:
            return None, error
        except OSError as error:
            return None, ValueError(f"{folder}: {error}")
        return newest, None

    def rewind(self, state: State, why: str) -> None:
        """Rewind to the last checkpoint after a bad step, with a record and a line of the log."""
        failed, facts = state.step, self.reporter.row_fields
        self.note_saved(self.checkpointer.wait())
        self.resume()
        text = f"{why}: the step is discarded; back at step {state.step}, its batch is skipped"
        self.reporter.log_event(text)
        row = facts.row("event", failed, f"rewind {state.rewinds + 1}", state.step)
        self.reporter.record([row | {"why": why}])

    # ----------------------------------------------------------------- save, evaluate, finish

    def save(self, state: State) -> None:
        """Start writing a checkpoint in the background; it is complete before the next one is started."""
        kept = scalar_state(state)
        if self.run.train.precision == "fp8":
            kept["fp8"] = fp8_linear.granularities(self.blocks)
        self.note_saved(self.checkpointer.start_save(state.step, checkpoint_shards(state), kept))

    def note_saved(self, step: int | None) -> None:
        """Note that the checkpoint of this step is complete."""
        self.reporter.saved = self.reporter.saved if step is None else step

    def evaluate(self, floors: bool = False) -> list[records.Row]:
        """Rows of the probes that the run asks for and of what fine-tuning reached, with the weights as they
        are used later; `floors` adds what raw pixels and the untrained network reach."""
        state, run = self.state, self.run
        if not run.probe.datasets and run.data.part == "all":
            return []
        assert isinstance(state.model, ViT)
        began = time.perf_counter()
        share = WorkShare.of(state.world)
        with swap_in_average(state.model, state.average), eager(run.train.compile):
            rows = probe_rows(state.model, run.probe, share)
            rows += accuracy_rows(state.model, run.data, share) if run.data.part != "all" else []
        if floors:
            rows += baseline_rows(ViT(run.model, device=state.device), run.probe, share)
        state.evaluation_seconds += time.perf_counter() - began
        row = self.reporter.row_fields.row
        return [row(one["kind"], state.step, one["metric"], one["value"]) | one for one in rows]

    def finish(self) -> None:
        """Evaluate, export the weights, and record that the run has ended."""
        state, run = self.state, self.run
        state.world.mark_progress(state.step, FINISHING)
        rows = self.evaluate(floors=not run.branch.trunk)  # a branch's floors are its trunk's
        report, names = state.world.report_work, class_names(run)
        state.world.run_on_main(
            lambda: export.export_run(run, self.out, state.step, report, class_names=names)
        )
        self.reporter.record_end(state.step, state.seconds, rows, state.evaluation_seconds)
        where = self.out / run_folder.MODEL
        text = f"{run.name}: done, {state.step} steps in {state.seconds:.0f} s; weights in {where}"
        self.reporter.log_event(text)
