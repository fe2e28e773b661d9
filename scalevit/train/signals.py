"""Asking a run to stop: signals and a time limit, looked at between two steps.

SIGTERM, SIGUSR1 (SLURM's warning) and Ctrl-C let the step finish and the state be saved; a second Ctrl-C
ends the process at once. Forked workers do not act on what was meant for their parent.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """`reason` is None until somebody asks to stop. Use as a context: handlers last as long as it does.

    minutes: stop by itself after so long; None for never."""

    def __init__(self, minutes: float | None = None) -> None:
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.received: str | None = None
        self._before: dict[int, object] = {}
        self._owner = os.getpid()

    @property
    def reason(self) -> str | None:
        if self.received is None and self.deadline is not None and time.monotonic() >= self.deadline:
            self.received = "the time limit"
        return self.received

    def __enter__(self) -> StopSignals:
        # only a main thread may install handlers; elsewhere the embedding program's own apply
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        # a launcher that is interrupted a second time sends SIGTERM
        if self.received == "SIGINT" and number in (signal.SIGINT, signal.SIGTERM):
            os._exit(128 + number)
        self.received = signal.Signals(number).name
