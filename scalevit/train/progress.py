"""One line on the terminal that says how far a run is; nothing when stderr is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol


class Display(Protocol):
    """show: after every step. say: an event worth a line of its own."""

    def show(self, step: int, values: Mapping[str, float | None]) -> None: ...

    def say(self, text: str) -> None: ...


class LineDisplay(AbstractContextManager["LineDisplay"]):
    """For logs and batch systems: events only."""

    def show(self, step: int, values: Mapping[str, float | None]) -> None:
        return None

    def say(self, text: str) -> None:
        print(f"scalevit: {text}", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def discard(text: str) -> None:
    """Where the words of all processes but the first go."""


class NoDisplay(LineDisplay):
    """For all processes but the first."""

    def say(self, text: str) -> None:
        return None


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """A bar with step, loss, images/s, MFU, stall, last checkpoint and time left."""

    def __init__(self, name: str, steps: int, begin: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = [
            TextColumn("[bold]{task.description}"), BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"), TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(),
        ]  # fmt: skip
        console = Console(stderr=True)
        self.bar = Progress(*columns, console=console, refresh_per_second=5, speed_estimate_period=60)
        self.task: Any = self.bar.add_task(name, total=steps, completed=begin, values="")
        self.bar.start()
        self.drawn = 0.0

    def show(self, step: int, values: Mapping[str, float | None]) -> None:
        if time.monotonic() - self.drawn > 0.1:
            self.drawn = time.monotonic()
            self.bar.update(self.task, completed=step, values=format_values(values))

    def say(self, text: str) -> None:
        self.bar.console.print(text, markup=False, highlight=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()


def format_values(values: Mapping[str, float | None]) -> str:
    """The values that are known, as people read them."""
    parts = []
    for key, form in FORMATS.items():
        value = values.get(key)
        if value is not None:
            parts.append(form.format(value))
    return " · ".join(parts)


FORMATS = {
    "loss": "loss {:.4f}",
    "images_per_second": "{:,.0f} images/s",
    "mfu": "MFU {:.1%}",
    "stall": "stall {:.0%}",
    "grad_norm": "gradient {:.3g}",
    "lr": "lr {:.2e}",
    "saved": "saved at {:.0f}",
}


def open_display(name: str, steps: int, begin: int) -> LineDisplay | ProgressBar:
    """The display that fits stderr."""
    return ProgressBar(name, steps, begin) if sys.stderr.isatty() else LineDisplay()
