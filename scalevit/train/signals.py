"""Signal handling and time limit: requests to stop, which the training loop polls between two steps.

Each of `NAMES` lets the step finish and the state be saved: SIGTERM and Ctrl-C; SIGHUP of a terminal that
closes; SIGUSR1 and SIGUSR2, by which batch systems warn; SIGXCPU of a CPU limit. A second Ctrl-C ends the
process at once. Under nohup SIGHUP stays ignored, but torchrun passes it on and then kills whoever does not
stop, so its processes act on it. Forked workers do not act on signals meant for their parent.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType

NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")


def handled_signals() -> list[signal.Signals]:
    """The signals to act on: those that this system has, without a SIGHUP that nohup made ignored."""
    present = [signal.Signals[name] for name in NAMES if hasattr(signal, name)]
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    return [
        number for number in present
        if number.name != "SIGHUP" or under_torchrun or signal.getsignal(number) != signal.SIG_IGN
    ]  # fmt: skip


class StopSignals:
    """Signal handlers that record a request to stop: `reason` is None until there is one. Use it as a
    context.

    minutes: time limit after which there is a reason; None for none."""

    def __init__(self, minutes: float | None = None) -> None:
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.received: str | None = None
        self._before: dict[int, object] = {}
        self._owner = os.getpid()

    @property
    def reason(self) -> str | None:
        """The name of the signal received, "the time limit", or None."""
        if self.received is None and self.deadline is not None and time.monotonic() >= self.deadline:
            self.received = "the time limit"
        return self.received

    def __enter__(self) -> StopSignals:
        # only a main thread may install handlers; elsewhere the embedding program's own apply
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in handled_signals()}
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
