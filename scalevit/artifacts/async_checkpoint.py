"""Saving beside training: values are copied, and a thread writes them while the next steps run.

With several processes each writes its own share, and the first one commits the checkpoint once all have
reported. A save that is still being written is waited for before the next one starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from scalevit.artifacts import checkpoint, dcp
from scalevit.artifacts.remote import Folder


@runtime_checkable
@runtime_checkable
class Processes(Protocol):
    """What saving needs of the processes of a run, as `distributed.world.World` gives it."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def is_main(self) -> bool: ...

    def broadcast(self, value: Any) -> Any: ...

    def all_gather(self, value: Any) -> list[Any]: ...


class SaveError(OSError):
    """An error that one process met, raised on all of them."""


Report = tuple[list[dcp.ShardLocation], dcp.WrittenFile]


@dataclass(frozen=True)
class _Save:
    """What is known of a save before it is written."""

    step: int
    draft: Folder
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class _Pending:
    own: _Save
    report: Future[Report | OSError]


class AsyncCheckpointer:
    """Checkpoints below `folder`, of which those of `keep` are kept.

    `start_save`, `poll` and `wait` are called by all processes at the same steps. They give the step of the
    checkpoint that they put in place, if any; what a process met is SaveError on all of them."""

    def __init__(self, folder: Folder, world: Processes, keep: checkpoint.Retention) -> None:
        self.folder, self.world, self.keep = folder, world, keep
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="scalevit-save")
        self.pending: _Pending | None = None

    def start_save(self, step: int, pieces: Iterable[dcp.Shard], facts: Mapping[str, Any]) -> int | None:
        """Copy what is to be saved, and begin to write it."""
        before = self.wait()
        copied = [replace(piece, data=piece.data.detach().to("cpu", copy=True)) for piece in pieces]
        draft = self.world.broadcast(self._draft(step) if self.world.is_main else None)
        if isinstance(draft, OSError):
            raise SaveError(*draft.args)
        own = _Save(step, draft, facts)
        self.pending = _Pending(own, self.pool.submit(self._write, own, copied))
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
        reports = self.world.all_gather(pending.report.result())
        error = next((report for report in reports if isinstance(report, OSError)), None)
        if self.world.size > 1:
            if self.world.is_main and error is None:
                error = self._committed(pending.own, reports)
            error = self.world.broadcast(error)
        if error is not None:
            if self.world.is_main:
                checkpoint.remove_staging(self.folder)
            raise SaveError(*error.args)
        return pending.own.step

    def _draft(self, step: int) -> Folder | OSError:
        try:
            return checkpoint.create_staging(self.folder, step)
        except OSError as error:
            return error

    def _write(self, own: _Save, pieces: list[dcp.Shard]) -> Report | OSError:
        try:
            report = dcp.write_shards(own.draft, self.world.rank, pieces)
        except OSError as error:
            return error
        # alone, a process waits for nobody: its thread puts the checkpoint in place, too
        return report if self.world.size > 1 else self._committed(own, [report]) or report

    def _committed(self, own: _Save, reports: Sequence[Report]) -> OSError | None:
        places = [place for report in reports for place in report[0]]
        try:
            checkpoint.commit(own.draft, own.step, places, [file for _, file in reports], own.facts)
            checkpoint.collect_garbage(self.folder, self.keep)
        except OSError as error:
            return error
        return None
