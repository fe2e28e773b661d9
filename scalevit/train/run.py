"""The composition root: from the words of a run to a folder that holds its result.

Everything that can be wrong is looked at before anything is created. `pretrain` called again on a folder goes
on where the last whole checkpoint is; on a finished run it does nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scalevit import config
from scalevit.artifacts import run_folder
from scalevit.data.loader import Batches
from scalevit.data.registry import batches_of
from scalevit.distributed import world as mesh
from scalevit.evals.in_training import validation_errors as probe_errors
from scalevit.train import cooldown_branch, precision, trackers
from scalevit.train.precision import deterministic_algorithms
from scalevit.train.session import Session
from scalevit.train.signals import StopSignals


@dataclass(frozen=True)
class PretrainResult:
    """folder: the run's. step: steps done. stopped: why the run ended before its last step, None when it is
    complete. model: the folder with the weights, ready for use."""

    folder: Path
    step: int
    stopped: str | None

    @property
    def model(self) -> Path:
        return self.folder / run_folder.MODEL


def preflight_errors(run: config.Run, out: Path | None) -> list[str]:
    """Everything that keeps this run from being trained, into `out` if that is said, its images apart, one
    line each; creates nothing."""
    found = [*config.validate(run), *probe_errors(run.probe), *trackers.tracker_errors(run)]
    found += run_folder.folder_errors(run, out) if out is not None else []
    found += mesh.world_errors(run.parallel, run.train.batch)
    found += precision.precision_errors(run.train.precision)
    if run.branch.trunk:
        found += cooldown_branch.branch_errors(run)
    return found


def pretrain(run: config.Run, out: Path | str, *, max_minutes: float | None = None) -> PretrainResult:
    """Train `run` into the folder `out`, or go on with what is there; started by torchrun, together with the
    other processes.

    Raises `config.ConfigErrors` with everything that is wrong, before anything is created. Ends early, with a
    checkpoint, on SIGTERM, SIGUSR1, Ctrl-C, or after `max_minutes`."""
    out = Path(out)
    with mesh.process_group(run.parallel) as world:
        found = [*config.missing_source(run), *preflight_errors(run, out)] if world.is_main else []
        world.raise_on_all_ranks(config.ConfigErrors(found) if found else None)
        if world.broadcast(run_folder.is_complete(out)):
            return PretrainResult(out, run.schedule.steps, None)
        batches = open_batches(run, world)
        same = deterministic_algorithms(run.train.deterministic)
        with locked(run, out, world), same, StopSignals(max_minutes) as stop:
            session = Session.begin(run, out, batches, world)
            with session.reporter.display, session.reporter.trackers:
                stopped = session.go(stop)
    return PretrainResult(out, session.state.step, stopped)


@contextlib.contextmanager
def locked(run: config.Run, out: Path, world: mesh.World) -> Iterator[None]:
    """The first process holds the folder for all; a refusal ends all of them."""
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
    """The run's data. Raises ValueError when its source does not exist or does not fit the model."""
    pin = world.device.type == "cuda"
    if run.data.part != "all":
        # image libraries cost a fifth of a second, which a run on procedural images need not pay
        from scalevit.evals.datasets.finetune_split import finetune_batches

        return finetune_batches(run, world.rank, world.size, pin)
    return batches_of(
        run.data, image=run.model.image, classes=run.model.classes, batch=run.train.batch,
        rank=world.rank, world=world.size, pin=pin,
    )  # fmt: skip
