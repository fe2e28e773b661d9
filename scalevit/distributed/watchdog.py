"""Watchdog: a process of a job that fails, dies or hangs is named, and ends the others.

Each process writes its progress once a second, from a thread of its own, into the store through which the
processes met. There it also reads that

- another process has failed, and has said so itself;
- its neighbour has written no heartbeat for `SILENT` seconds: killed, stopped, or its machine is gone;
- one process is behind while the others have waited for it for `timeout` seconds: it hangs (rank 0 looks);
- the launcher or the store is gone, and with it whoever could end this process.

Seconds are counted in heartbeats, so that a job that was suspended as a whole is not taken for dead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from scalevit.artifacts.printable import printable
from scalevit.artifacts.redact import redact
from scalevit.config.result import CHECK_FAILED, RESUMABLE, USER_ERROR, RunFailed

#: Seconds between two heartbeats; after which a silent process is taken for dead; that a process that has
#: failed is given to leave by itself; and after which a live one has certainly written again.
INTERVAL, SILENT, LEAVE, SURE = 1.0, 30.0, 15.0, 4.0
#: Seconds between two looks at whether all ranks have finished a piece of work: from, to.
_FIRST_LOOK, _LAST_LOOK = 0.002, 0.5
#: Phases of a step, in their order.
PHASES = ("starting", "reading images", "computing", "saving or evaluating", "finishing")
STARTING, READING, COMPUTING, SAVING, FINISHING = range(len(PHASES))


class Progress(NamedTuple):
    """Where a process is; the smaller one is behind."""

    step: int = 0
    phase: int = STARTING

    def __str__(self) -> str:
        return f"step {self.step}, {PHASES[self.phase]}"


class Heartbeat(NamedTuple):
    """What a process last wrote. count: its heartbeats so far; work: pieces of long work done so far."""

    progress: Progress = Progress()
    count: int = 0
    work: int = 0


class Watchdog:
    """This process's watchdog, from `start` to `stop`.

    store: an own connection, which no waiting call holds up. timeout: seconds without progress that count as
    a hang. log: is told why the job ends. agreed: the error that comes is known to all processes."""

    def __init__(self, store: Any, rank: int, size: int, timeout: float) -> None:
        self.store, self.rank, self.size, self.timeout = store, rank, size, timeout
        self.silent = min(SILENT, timeout)
        self.progress, self.agreed = Progress(), False
        self.log: Callable[[str], None] = lambda text: None
        self._count, self._work, self._rounds = 0, 0, 0
        self._heard, self._silence = Heartbeat(), 0.0
        self._last_progress, self._waited = [], 0.0
        self._parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._keeper = (
            "rank 0 is gone" if self._parent is None else "the launcher of the first machine is gone"
        )
        self._stopping, self._failing, self._reported = threading.Event(), False, False
        self._thread = threading.Thread(target=self._run, name="scalevit-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def mark_progress(self, step: int, phase: int) -> None:
        """This process begins a phase, of PHASES, of a step."""
        self.progress = Progress(step, phase)

    def report_work(self) -> None:
        """A piece of long work is done: a chunk hashed, a tensor written."""
        self._work += 1

    def wait_for(self, work: Callable[[], Any]) -> Any:
        """Do `work`, and wait until all ranks have done theirs, as long as any of them reports work.

        No collective waits meanwhile, so that work may outlast its timeout. Raises TimeoutError when nobody
        has reported work for `timeout` seconds."""
        self._rounds += 1
        keys = [f"done/{self._rounds}/{rank}" for rank in range(self.size)]
        result = work()
        self.store.set(keys[self.rank], "1")
        before, since, pause = None, time.monotonic(), _FIRST_LOOK
        while not self.store.check(keys):
            time.sleep(pause)
            pause = min(2 * pause, _LAST_LOOK)
            now = [heartbeat.work for heartbeat in self._heartbeats(range(self.size))]
            if now != before:
                before, since = now, time.monotonic()
            if time.monotonic() - since >= self.timeout:
                behind = [str(rank) for rank, key in enumerate(keys) if not self.store.check([key])]
                text = f"rank {', '.join(behind)} makes no progress at {self.progress}"
                raise TimeoutError(f"{text}; the others have waited for {self.timeout:.0f} s")
        return result

    def fail(self, error: BaseException) -> int | None:
        """End the job because of an error that this process alone has met. Returns the exit status to leave
        with when one line has said everything; None for an error whose traceback is worth showing.

        A connection that broke is the fault of whoever is silent at its other end."""
        self._failing = True
        _exit_after(LEAVE)
        lost = self._find_lost() if isinstance(error, RuntimeError) else None
        one_line = isinstance(error, ValueError | OSError | RunFailed)
        reason = str(error) if one_line else f"{type(error).__name__}: {error}"
        posted = self._post(
            exit_status(error), lost or f"rank {self.rank} failed at {self.progress}: {reason.strip()}"
        )
        self._linger()
        return None if posted is None and not (one_line or lost) else posted or exit_status(error)

    # ----------------------------------------------------------------- one heartbeat

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL):
            try:
                self._beat()
            except RuntimeError:
                if not self._stopping.is_set():
                    self._end(f"{CHECK_FAILED} {self._keeper}, noticed at {self.progress}", report=True)

    def _beat(self) -> None:
        self._count += 1
        progress = self.progress
        text = f"{progress.step} {progress.phase} {self._count} {self._work}"
        self.store.set(f"heartbeat/{self.rank}", text)
        if self.store.check(["end"]):
            self._end(self.store.get("end").decode())
        if self._parent not in (None, os.getppid()):
            reason = f"the launcher of rank {self.rank} is gone, noticed at {self.progress}"
            self._end(f"{CHECK_FAILED} {reason}", report=True)
        self._watch_neighbour()
        if self.rank == 0:
            self._watch_progress()

    def _watch_neighbour(self) -> None:
        """Each process watches the next one."""
        other = (self.rank + 1) % self.size
        (heartbeat,) = self._heartbeats([other])
        self._silence = self._silence + INTERVAL if heartbeat.count == self._heard.count else 0.0
        self._heard = heartbeat
        if self._silence >= self.silent:
            text = f"rank {other} has not been heard of for {self._silence:.0f} s"
            self._post(CHECK_FAILED, f"{text}, noticed at {self.progress}")

    def _watch_progress(self) -> None:
        """Rank 0 compares where all are; whoever is behind is being waited for."""
        progress = [heartbeat.progress for heartbeat in self._heartbeats(range(self.size))]
        waiting = len(set(progress)) > 1 and progress == self._last_progress
        self._waited = self._waited + INTERVAL if waiting else 0.0
        self._last_progress = progress
        if self._waited >= self.timeout:
            last = min(progress)
            behind = ", ".join(str(rank) for rank, one in enumerate(progress) if one == last)
            text = f"rank {behind} hangs at {last}"
            self._post(CHECK_FAILED, f"{text}; the others have waited for {self._waited:.0f} s")

    def _heartbeats(self, ranks: Sequence[int]) -> list[Heartbeat]:
        """The last heartbeats of these ranks."""
        keys = [f"heartbeat/{rank}" for rank in ranks]
        if not self.store.check(keys):
            return [Heartbeat() for _ in keys]
        numbers = [tuple(map(int, text.split())) for text in self.store.multi_get(keys)]
        return [Heartbeat(Progress(step, phase), count, work) for step, phase, count, work in numbers]

    def _find_lost(self) -> str | None:
        """Ranks that write no heartbeats any more, while this one does, in a sentence."""
        try:
            before = self._heartbeats(range(self.size))
            time.sleep(SURE)
            after = self._heartbeats(range(self.size))
        except RuntimeError:
            return f"{self._keeper}, noticed at {self.progress}"
        lost = [rank for rank in range(self.size) if before[rank].count == after[rank].count]
        if self.rank in lost:
            return None
        return f"rank {', '.join(map(str, lost))} is gone, noticed at {self.progress}" if lost else None

    # ----------------------------------------------------------------- the end

    def _post(self, code: int, text: str) -> int | None:
        """Publish why the job ends; returns the exit status of whoever has done so before."""
        message = f"{code} {text}"
        with contextlib.suppress(RuntimeError):
            posted = self.store.compare_set("end", "", message).decode()
            if posted != message:
                return int(posted.partition(" ")[0])
        self._report(text)
        return None

    def _report(self, text: str) -> None:
        if self._reported:
            return
        self._reported = True
        with contextlib.suppress(OSError):
            print(f"scalevit: {printable(redact(text))}; the job ends", file=sys.stderr, flush=True)
            self.log(text)

    def _end(self, message: str, *, report: bool = False) -> None:
        """Leave at once, since the main thread may wait for a process that will not answer; or leave it to
        the main thread, when that is on its way out."""
        if self._failing:
            return
        code, _, text = message.partition(" ")
        if report:
            self._report(text)
        else:
            with contextlib.suppress(OSError):
                self.log(text)
        self._linger()
        os._exit(int(code))

    def _linger(self) -> None:
        """The store may go with the first process: the others must have read why."""
        if self.rank == 0:
            time.sleep(2 * INTERVAL)


def exit_status(error: BaseException) -> int:
    """Exit status of an error: a wrong input, a disk or store that can be mended, or a fault."""
    if isinstance(error, ValueError):
        return USER_ERROR
    return RESUMABLE if isinstance(error, OSError) else CHECK_FAILED


def _exit_after(seconds: float) -> None:
    """A launcher that has seen a process die ends the others: not before they have said why."""
    leave = threading.Timer(seconds, os._exit, [CHECK_FAILED])
    leave.daemon = True
    leave.start()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def connect(rank: int, size: int, timeout: float, token: str) -> Watchdog:
    """The watchdog of this process on a connection of its own. token: the same on all processes and on no
    other job of this store."""
    from torch.distributed import PrefixStore, TCPStore

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    wait = timedelta(seconds=min(SILENT, timeout))
    own = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=wait)
    return Watchdog(PrefixStore(token, own), rank, size, timeout)
