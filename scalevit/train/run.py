"""Pretraining entry point of one process: validate a configuration, lock the run folder, train, and return.

Everything is validated before anything is created. `pretrain` on a folder that holds a checkpoint resumes
from it; on a finished run it does nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from scalevit import config
from scalevit.artifacts import run_folder
from scalevit.config.result import RunFailed
from scalevit.data.loader import Batches
from scalevit.data.registry import SourceInfo, batches_of
from scalevit.distributed import world as mesh
from scalevit.evals.in_training import validation_errors as probe_errors
from scalevit.train import cooldown_branch, precision, trackers
from scalevit.train.data_identity import identify
from scalevit.train.memory_check import MemoryCheck, check_memory
from scalevit.train.precision import deterministic_algorithms
from scalevit.train.reporter import Reporter
from scalevit.train.session import Session
from scalevit.train.signals import StopSignals


@dataclass(frozen=True)
class PretrainResult:
    """Result of `pretrain`. folder: the run's. step: steps done. stopped: why the run ended before its last
    step, None when it is complete. failed: the same command would end so again."""

    folder: Path
    step: int
    stopped: str | None
    failed: bool = False

    @property
    def model(self) -> Path:
        """The folder with the exported weights."""
        return self.folder / run_folder.MODEL


def preflight_errors(run: config.Run, out: Path | None) -> list[str]:
    """All errors that keep this run from being trained (into `out`, if given), except those of its images,
    one line each; creates nothing."""
    errors = [*config.validate(run), *probe_errors(run.probe), *trackers.tracker_errors(run)]
    errors += run_folder.folder_errors(run, out) if out is not None else []
    errors += mesh.world_errors(run.parallel, run.train.batch)
    errors += precision.precision_errors(run.train.precision)
    if run.branch.trunk and not (out is not None and run_folder.has_checkpoints(out, run)):
        errors += cooldown_branch.branch_errors(run)
    return errors


def _checked(
    run: config.Run, out: Path, world: mesh.World, accept_changed: bool
) -> tuple[config.Run, SourceInfo, MemoryCheck] | None:
    """On rank 0 the run with the content of its images, what they are, and the micro-batch that fits. Raises
    all errors on all ranks."""
    error, found = None, None
    if world.is_main:
        try:
            errors = [*config.missing_source(run), *config.validate(run)]
            if not errors:
                run, info = identify(run, out, accept_changed)
                errors = preflight_errors(run, out)
                found = None if errors else (run, info, check_memory(run, world))
            error = config.ConfigErrors(errors) if errors else None
        except (ValueError, OSError) as problem:
            error = problem
    world.raise_on_all_ranks(error)
    return found


def pretrain(
    run: config.Run,
    out: Path | str,
    *,
    max_minutes: float | None = None,
    accept_changed_data: bool = False,
) -> PretrainResult:
    """Train `run` into the folder `out`, or resume what is there; under torchrun, together with the other
    processes.

    Raises `config.ConfigErrors` with all errors, before anything is created; ValueError when the images are
    not those that the run began with, unless `accept_changed_data`. Ends early, with a
    checkpoint, on the signals of `train/signals.py` or after `max_minutes`."""
    out = Path(out)
    with mesh.process_group(run.parallel) as world:
        run, info, memory = world.broadcast(_checked(run, out, world, accept_changed_data))
        if world.broadcast(run_folder.is_complete(out)):
            return PretrainResult(out, run.schedule.steps, None)
        batches = open_batches(run, world)
        deterministic = deterministic_algorithms(run.train.deterministic)
        with locked(run, out, world), deterministic, StopSignals(max_minutes) as stop:
            reporter = Reporter.begin(run, out, world, info)
            try:
                with memory_errors(run):
                    session = Session.begin(run, out, batches, world, reporter, memory)
                    with reporter.display, reporter.trackers:
                        stopped = session.train_to_end(stop)
                    return PretrainResult(out, session.state.step, stopped)
            except RunFailed as error:
                if world.is_main or error.local:
                    reporter.record_failure(str(error))
                if world.size > 1 and not world.is_main:
                    raise  # the watchdog ends the others with this line
                return PretrainResult(out, reporter.step, str(error), failed=True)


@contextlib.contextmanager
def memory_errors(run: config.Run) -> Iterator[None]:
    """Turn an allocation that fails into RunFailed, with what to try."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in text:
            raise
        at_once = run.train.micro_batch or run.train.batch
        raise RunFailed(
            f"out of memory with {at_once} images at once ({text[:100]}); try a smaller train.micro_batch, "
            f"such as {max(1, at_once // 2)}, or parallel.recompute=full",
            local=True,
        ) from None


@contextlib.contextmanager
def locked(run: config.Run, out: Path, world: mesh.World) -> Iterator[None]:
    """Rank 0 holds the lock of the run folder for all processes; when it cannot, all of them end."""
    with contextlib.ExitStack() as stack:
        refusal = None
        if world.is_main:
            try:
                stack.enter_context(run_folder.lock(run, out))
            except (ValueError, OSError) as error:
                refusal = error
        world.raise_on_all_ranks(refusal)
        yield


def open_batches(run: config.Run, world: mesh.World = mesh.SINGLE_PROCESS) -> Batches:
    """Training batches of the run. Raises ValueError when the source is missing or does not fit the model."""
    pin = world.device.type == "cuda"
    if run.data.part != "all":
        # image libraries cost a fifth of a second, which a run on procedural images need not pay
        from scalevit.evals.datasets.finetune_split import finetune_batches

        return finetune_batches(run, world.rank, world.size, pin)
    return batches_of(
        run.data, image=run.model.image, classes=run.model.classes, batch=run.train.batch,
        rank=world.rank, world=world.size, pin=pin,
    )  # fmt: skip
