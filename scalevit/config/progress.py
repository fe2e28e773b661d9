"""Progress display: bars with time left on a terminal, and elsewhere a line at growing intervals.

One display for every command that takes longer than a few seconds; rich is imported when a bar is drawn.
Titles and texts are data: markup and control characters in them are shown, not obeyed.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

#: Called with (done, total) by whatever takes long.
Progress = Callable[[float, float], None]

#: Seconds to the first progress line off a terminal, the factor between intervals, and the longest interval.
FIRST_LINE, GROWTH, LONGEST = 5.0, 1.5, 600.0
#: Seconds between two drawings of a bar.
REDRAW = 0.1


def printable(text: str) -> str:
    """The text on one line, with control and direction characters written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class NoDisplay(AbstractContextManager["NoDisplay"]):
    """Shows nothing: for all processes but the first, and for --quiet."""

    def event(self, text: str) -> None:
        """An event worth a line of its own."""

    def update(self, title: str, done: float, total: float, text: str = "") -> None:
        """The task called `title` has come to `done` of `total`; `text` says more."""

    def remove(self, title: str) -> None:
        """The task is over."""

    def progress(self, title: str) -> Progress:
        """A callback of (done, total) that updates one task."""
        return lambda done, total: self.update(title, done, total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class LineDisplay(NoDisplay):
    """For logs and batch systems: a line an event, and a task's progress at growing intervals."""

    def __init__(self) -> None:
        self.due: dict[str, tuple[float, float]] = {}  # by task: when its next line is due, and the interval

    def event(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a terminal that has gone must not end a run
            print(f"scalevit: {printable(text)}", file=sys.stderr, flush=True)

    def update(self, title: str, done: float, total: float, text: str = "") -> None:
        now = time.monotonic()
        due, interval = self.due.setdefault(title, (now + FIRST_LINE, FIRST_LINE))
        if now >= due:
            interval = min(LONGEST, GROWTH * interval)
            self.due[title] = (now + interval, interval)
            self.event(f"{title}: {done:.0f} of {total:.0f}{' · ' if text else ''}{text}")

    def remove(self, title: str) -> None:
        self.due.pop(title, None)


class BarDisplay(NoDisplay):
    """For a terminal: one bar a task, with its text and the time left; events above the bars."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = [
            TextColumn("{task.description}", markup=False, style="bold"), BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[text]}", markup=False), TimeRemainingColumn(),
        ]  # fmt: skip
        self.bars = Bars(
            *columns, console=Console(stderr=True), refresh_per_second=5, speed_estimate_period=60
        )
        self.tasks: dict[str, Any] = {}
        self.drawn: dict[str, float] = {}
        self.bars.start()

    def event(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.bars.console.print(printable(text), markup=False, highlight=False)

    def update(self, title: str, done: float, total: float, text: str = "") -> None:
        if title not in self.tasks:
            self.tasks[title] = self.bars.add_task(printable(title), total=total, text="")
        now = time.monotonic()
        if done >= total or now - self.drawn.get(title, 0.0) > REDRAW:
            self.drawn[title] = now
            self.bars.update(self.tasks[title], completed=done, total=total, text=printable(text))

    def remove(self, title: str) -> None:
        if title in self.tasks:
            self.bars.remove_task(self.tasks.pop(title))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.bars.stop()


def open_display() -> NoDisplay:
    """The display that fits stderr."""
    return BarDisplay() if sys.stderr.isatty() else LineDisplay()
