"""Asynchronous checkpointing: tensors are copied to host memory and written by a background thread.

With several processes each writes its own shards, and the first one commits the checkpoint once all have
written. A save that is still being written is waited for before the next one starts. Ranks wait for each
other as long as one of them makes progress: a slow disk does not run into the timeout of a collective.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from scalevit.artifacts import checkpoint, dcp
from scalevit.artifacts.remote import Folder


@runtime_checkable
class Processes(Protocol):
    """The processes of a run as far as saving needs them; `distributed.world.World` is one."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def is_main(self) -> bool: ...

    def broadcast(self, value: Any) -> Any: ...

    def all_gather(self, value: Any) -> list[Any]: ...

    def report_work(self) -> None: ...

    def wait_for(self, work: Callable[[], Any]) -> Any: ...


class SaveError(OSError):
    """An error that one process met while saving, raised on all of them."""


Report = tuple[list[dcp.ShardLocation], dcp.WrittenFile]


@dataclass(frozen=True)
class _Save:
    """A save before it is written."""

    step: int
    staging: Folder
    extra_state: Mapping[str, Any]


@dataclass(frozen=True)
class _Pending:
    save: _Save
    report: Future[Report | OSError]


class AsyncCheckpointer:
    """Checkpoints below `folder`, of which those of `keep` are kept.

    `start_save`, `poll` and `wait` are called by all processes at the same steps. They return the step of the
    checkpoint that they put in place, if any, and raise SaveError on all processes when one met an error."""

    def __init__(self, folder: Folder, world: Processes, keep: checkpoint.Retention) -> None:
        self.folder, self.world, self.keep = folder, world, keep
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="scalevit-save")
        self.pending: _Pending | None = None

    def start_save(
        self, step: int, shards: Iterable[dcp.Shard], extra_state: Mapping[str, Any]
    ) -> int | None:
        """Copy the shards, and begin to write them."""
        before = self.wait()
        copies = [replace(shard, data=shard.data.detach().to("cpu", copy=True)) for shard in shards]
        staging = self.world.broadcast(self._create_staging(step) if self.world.is_main else None)
        if isinstance(staging, OSError):
            raise SaveError(*staging.args)
        save = _Save(step, staging, extra_state)
        self.pending = _Pending(save, self.pool.submit(self._write, save, copies))
        return before

    def poll(self) -> int | None:
        """Commit what has been written; does not wait when this process can decide alone."""
        if self.pending is not None and (self.world.size > 1 or self.pending.report.done()):
            return self.wait()
        return None

    def wait(self) -> int | None:
        """Wait for the save that is being written, and commit it."""
        if self.pending is None:
            return None
        pending, self.pending = self.pending, None
        reports = self.world.all_gather(self.world.wait_for(pending.report.result))
        error = next((report for report in reports if isinstance(report, OSError)), None)
        if self.world.size > 1:
            main_commits = self.world.is_main and error is None
            done = self.world.wait_for(lambda: self._commit(pending.save, reports) if main_commits else error)
            error = self.world.broadcast(done)
        if error is not None:
            if self.world.is_main:
                checkpoint.remove_staging(self.folder)
            raise SaveError(*error.args)
        return pending.save.step

    def _create_staging(self, step: int) -> Folder | OSError:
        try:
            return checkpoint.create_staging(self.folder, step)
        except OSError as error:
            return error

    def _write(self, save: _Save, shards: list[dcp.Shard]) -> Report | OSError:
        try:
            report = dcp.write_shards(save.staging, self.world.rank, shards, self.world.report_work)
        except OSError as error:
            return error
        # alone, a process waits for nobody: its thread puts the checkpoint in place, too
        return report if self.world.size > 1 else self._commit(save, [report]) or report

    def _commit(self, save: _Save, reports: Sequence[Report]) -> OSError | None:
        locations = [location for report in reports for location in report[0]]
        try:
            checkpoint.commit(
                save.staging, save.step, locations, [file for _, file in reports], save.extra_state
            )
            checkpoint.collect_garbage(self.folder, self.keep, save.step)
        except OSError as error:
            return error
        return None
