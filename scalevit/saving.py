"""Saving beside training: values are copied, and a thread writes them while the next steps run.

With several processes each writes its own share, and the first one commits the checkpoint once all have
reported. A save that is still being written is waited for before the next one starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scalevit import checkpoint, dcp
from scalevit.mesh import World


class NotSaved(OSError):
    """An error that one process met, raised on all of them."""


Report = tuple[list[dcp.Place], dcp.Written]


@dataclass(frozen=True)
class _Pending:
    step: int
    draft: Path
    facts: Mapping[str, Any]
    report: Future[Report | OSError]


class Saver:
    """Checkpoints below `folder`, of which the last `keep_last` and those of the steps `keep_at` are kept.

    `start`, `poll` and `finish` are called by all processes at the same steps. They give the step of the
    checkpoint that they put in place, if any; what a process met is NotSaved on all of them."""

    def __init__(self, folder: Path, world: World, keep_last: int, keep_at: Sequence[int]) -> None:
        self.folder, self.world = folder, world
        self.keep_last, self.keep_at = keep_last, keep_at
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="scalevit-save")
        self.pending: _Pending | None = None

    def start(self, step: int, pieces: Iterable[dcp.Piece], facts: Mapping[str, Any]) -> int | None:
        """Copy what is to be saved, and begin to write it."""
        before = self.finish()
        copied = [replace(piece, data=piece.data.detach().to("cpu", copy=True)) for piece in pieces]
        draft = self.world.tell(self._draft(step) if self.world.first else None)
        if isinstance(draft, OSError):
            raise NotSaved(*draft.args)
        self.pending = _Pending(step, draft, facts, self.pool.submit(self._write, draft, copied))
        return before

    def poll(self) -> int | None:
        """Commit what has been written; does not wait when this process can decide alone."""
        if self.pending is not None and (self.world.size > 1 or self.pending.report.done()):
            return self.finish()
        return None

    def finish(self) -> int | None:
        """Wait for the save that is being written, and commit it."""
        if self.pending is None:
            return None
        pending, self.pending = self.pending, None
        reports = self.world.gather(pending.report.result())
        error = next((report for report in reports if isinstance(report, OSError)), None)
        if self.world.first and error is None:
            error = self._commit(pending, reports)
        error = self.world.tell(error)
        if error is not None:
            if self.world.first:
                checkpoint.prune(self.folder, 1 << 30, ())
            raise NotSaved(*error.args)
        return pending.step

    def _draft(self, step: int) -> Path | OSError:
        try:
            return checkpoint.draft(self.folder, step)
        except OSError as error:
            return error

    def _write(self, draft: Path, pieces: list[dcp.Piece]) -> Report | OSError:
        try:
            return dcp.write_pieces(draft, self.world.rank, pieces)
        except OSError as error:
            return error

    def _commit(self, pending: _Pending, reports: Sequence[Report]) -> OSError | None:
        places = [place for report in reports for place in report[0]]
        try:
            checkpoint.commit(
                pending.draft, pending.step, places, [file for _, file in reports], pending.facts
            )
            checkpoint.prune(self.folder, self.keep_last, self.keep_at)
        except OSError as error:
            return error
        return None
