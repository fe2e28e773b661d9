"""Nobody waits for ever: a process of a job that fails, dies or hangs is named, and ends the others.

Each process says once a second, from a thread of its own, where it is: into the store through which they met.
There it also finds out that

- another one has failed: it has said so itself;
- its neighbour has not been heard of for `SILENT` seconds: killed, stopped, or its machine is gone;
- one is behind while the others have waited for it for `patience` seconds: it hangs. The first process looks;
- the launcher or the store is gone, and with it whoever could end this process.

Seconds are counted in beats, so that a job which was suspended as a whole is not taken for dead.
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

from scalevit.config.result import CHECK_FAILED, RESUMABLE, USER_ERROR, RunFailed

#: Seconds between two beats; after which a silent process is taken for dead; that one which has failed is
#: given to leave by itself; and after which one that lives has certainly beaten again.
INTERVAL, SILENT, LEAVE, SURE = 1.0, 30.0, 15.0, 4.0
#: What a process does between two marks, in the order of a step.
PHASES = ("starting", "reading images", "computing", "saving or evaluating", "finishing")
STARTING, READING, COMPUTING, SAVING, FINISHING = range(len(PHASES))


class Progress(NamedTuple):
    """Where a process is; the smaller one is behind."""

    step: int = 0
    doing: int = STARTING

    def __str__(self) -> str:
        return f"step {self.step}, {PHASES[self.doing]}"


class Heartbeat(NamedTuple):
    """What a process last said. beats: how often it has said something."""

    mark: Progress = Progress()
    beats: int = 0


class Watchdog:
    """This process's, from `start` to `stop`. store: an own connection, which no waiting call holds up.

    `at` says where the process is. `fail` ends the job. log: is told why. agreed: the error that comes is one
    that all processes know of."""

    def __init__(self, store: Any, rank: int, size: int, patience: float) -> None:
        self.store, self.rank, self.size, self.patience = store, rank, size, patience
        self.silent = min(SILENT, patience)
        self.mark, self.agreed = Progress(), False
        self.log: Callable[[str], None] = lambda text: None
        self._beats, self._heard, self._waited = 0, Heartbeat(), 0.0
        self._marks, self._stuck = [], 0.0
        self._parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._keeper = (
            "rank 0 is gone" if self._parent is None else "the launcher of the first machine is gone"
        )
        self._over, self._failing, self._told = threading.Event(), False, False
        self._thread = threading.Thread(target=self._live, name="scalevit-heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def at(self, step: int, doing: int) -> None:
        """This process begins to do this, of DOING, in this step."""
        self.mark = Progress(step, doing)

    def fail(self, error: BaseException) -> int | None:
        """End the job because of an error that this process alone has met. Gives the exit status to leave
        with when all has been said; None for an error whose origin in the code is worth showing.

        A connection that broke is the fault of whoever is silent at its other end."""
        self._failing = True
        _leave_in(LEAVE)
        lost = self._lost() if isinstance(error, RuntimeError) else None
        mistake = isinstance(error, ValueError | OSError | RunFailed)
        status = USER_ERROR if isinstance(error, ValueError) else CHECK_FAILED
        status = RESUMABLE if isinstance(error, OSError) else status
        reason = str(error) if mistake else f"{type(error).__name__}: {error}"
        stands = self._post(status, lost or f"rank {self.rank} failed at {self.mark}: {reason.strip()}")
        self._linger()
        return None if stands is None and not (mistake or lost) else stands or status

    # ----------------------------------------------------------------- one beat

    def _live(self) -> None:
        while not self._over.wait(INTERVAL):
            try:
                self._beat()
            except RuntimeError:
                if not self._over.is_set():
                    self._end(f"{CHECK_FAILED} {self._keeper}, noticed at {self.mark}", tell=True)

    def _beat(self) -> None:
        self._beats += 1
        self.store.set(f"pulse/{self.rank}", f"{self.mark.step} {self.mark.doing} {self._beats}")
        if self.store.check(["end"]):
            self._end(self.store.get("end").decode())
        if self._parent not in (None, os.getppid()):
            self._end(
                f"{CHECK_FAILED} the launcher of rank {self.rank} is gone, noticed at {self.mark}", tell=True
            )
        self._listen()
        if self.rank == 0:
            self._compare()

    def _listen(self) -> None:
        """To the next process, so that somebody listens to each."""
        other = (self.rank + 1) % self.size
        (pulse,) = self._pulses([other])
        self._waited = self._waited + INTERVAL if pulse.beats == self._heard.beats else 0.0
        self._heard = pulse
        if self._waited >= self.silent:
            text = f"rank {other} has not been heard of for {self._waited:.0f} s"
            self._post(CHECK_FAILED, f"{text}, noticed at {self.mark}")

    def _compare(self) -> None:
        """Where all are; whoever is behind is waited for."""
        marks = [pulse.mark for pulse in self._pulses(range(self.size))]
        waiting = len(set(marks)) > 1 and marks == self._marks
        self._stuck = self._stuck + INTERVAL if waiting else 0.0
        self._marks = marks
        if self._stuck >= self.patience:
            behind = ", ".join(str(rank) for rank, mark in enumerate(marks) if mark == min(marks))
            text = f"rank {behind} hangs at {min(marks)}"
            self._post(CHECK_FAILED, f"{text}; the others have waited for {self._stuck:.0f} s")

    def _pulses(self, ranks: Sequence[int]) -> list[Heartbeat]:
        """What these processes said last."""
        keys = [f"pulse/{rank}" for rank in ranks]
        if not self.store.check(keys):
            return [Heartbeat() for _ in keys]
        said = [tuple(map(int, text.split())) for text in self.store.multi_get(keys)]
        return [Heartbeat(Progress(step, doing), beats) for step, doing, beats in said]

    def _lost(self) -> str | None:
        """Who is not heard of any more, while this process is."""
        try:
            before = self._pulses(range(self.size))
            time.sleep(SURE)
            after = self._pulses(range(self.size))
        except RuntimeError:
            return f"{self._keeper}, noticed at {self.mark}"
        lost = [rank for rank in range(self.size) if before[rank].beats == after[rank].beats]
        if self.rank in lost:
            return None
        return f"rank {', '.join(map(str, lost))} is gone, noticed at {self.mark}" if lost else None

    # ----------------------------------------------------------------- the end

    def _post(self, code: int, text: str) -> int | None:
        """Say why the job ends; gives the exit status of whoever has said so before."""
        said = f"{code} {text}"
        with contextlib.suppress(RuntimeError):
            stands = self.store.compare_set("end", "", said).decode()
            if stands != said:
                return int(stands.partition(" ")[0])
        self._tell(text)
        return None

    def _tell(self, text: str) -> None:
        if self._told:
            return
        self._told = True
        with contextlib.suppress(OSError):
            print(f"scalevit: {text}; the job ends", file=sys.stderr, flush=True)
            self.log(text)

    def _end(self, said: str, *, tell: bool = False) -> None:
        """Leave at once, since the main thread may wait for a process that will not answer; or leave it to
        the main thread, when it is on its way out."""
        if self._failing:
            return
        code, _, text = said.partition(" ")
        if tell:
            self._tell(text)
        else:
            with contextlib.suppress(OSError):
                self.log(text)
        self._linger()
        os._exit(int(code))

    def _linger(self) -> None:
        """The store may go with the first process: the others must have read why."""
        if self.rank == 0:
            time.sleep(2 * INTERVAL)


def _leave_in(seconds: float) -> None:
    """A launcher that has seen a process die ends the others: not before they have said why."""
    leave = threading.Timer(seconds, os._exit, [CHECK_FAILED])
    leave.daemon = True
    leave.start()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def connect(rank: int, size: int, patience: float, token: str) -> Watchdog:
    """token: the same on all processes and on no other job of this store."""
    from torch.distributed import PrefixStore, TCPStore

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    wait = timedelta(seconds=min(SILENT, patience))
    own = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=wait)
    return Watchdog(PrefixStore(token, own), rank, size, patience)
