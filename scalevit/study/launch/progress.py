"""How a study is shown while it runs: bars with time left on a terminal, a line an event anywhere else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scalevit.study.design import grid
from scalevit.study.launch import scheduler

#: FLOP/s of a slot before anything was measured; it only decides how startup weighs against training.
ASSUMED_FLOPS_PER_SECOND = 2e10


class StudyDisplay:
    """Tells what happens to nodes. `foresee` is called once, when every node but the largest is done."""

    def __init__(self, nodes: Sequence[grid.Node], folder: Path, foresee: Callable[[], object]) -> None:
        from scalevit.study.report.held_out_forecast import held_out_nodes

        self.folder, self.foresee = folder, foresee
        held = {node.name for node in held_out_nodes(nodes)}
        self.open = {node.name for node in nodes if not {node.name, node.after if node.job else ""} & held}
        self.weight = {
            node.name: scheduler.STARTUP_SECONDS + node.flops / ASSUMED_FLOPS_PER_SECOND for node in nodes
        }
        self.found = 0.0
        self.began = time.monotonic()

    def changed(self, node: grid.Node, state: scheduler.State, detail: str) -> None:
        if state == "done":
            self.found += self.weight[node.name] if detail else 0.0
            self._forecast(node)
        if detail and state != "done":
            self.say(f"{node.name}: {state}: {detail}")

    def _forecast(self, node: grid.Node) -> None:
        if node.name in self.open:
            self.open.discard(node.name)
            if not self.open:
                self.foresee()

    def say(self, text: str) -> None:
        print(f"scalevit: {text}", file=sys.stderr, flush=True)

    def tick(self, work: scheduler.StudyState) -> None:
        """Nothing to draw."""

    def left(self, work: scheduler.StudyState) -> tuple[float, float | None]:
        """(share of the study's work that is done, seconds left or None when nothing is known yet)."""
        total = sum(self.weight.values())
        done = sum(self.weight[name] * self._part(work, name) for name in work.nodes)
        fresh, spent = done - self.found, time.monotonic() - self.began
        known = fresh > 0.02 * total
        return done / total, (total - done) * spent / fresh if known else None

    def _part(self, work: scheduler.StudyState, name: str) -> float:
        node, state = work.nodes[name], work.states[name]
        if state != "running":
            return 1.0 if state in ("done", "failed", "blocked") else 0.0
        return min(1.0, max(0.0, (scheduler.last_step(work.of(name)) - node.at) / max(1, node.steps)))


class StudyLines(StudyDisplay):
    """For logs: one line when a node starts or ends."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.states: dict[str, str] = {}

    def changed(self, node: grid.Node, state: scheduler.State, detail: str) -> None:
        super().changed(node, state, detail)
        before = self.states.get(node.name)
        self.states[node.name] = state
        if state == "done" and before == "running":
            done = sum(value == "done" for value in self.states.values())
            self.say(f"{node.name} done, {done} of {len(self.weight)}, {time.monotonic() - self.began:.0f} s")


class StudyBars(StudyDisplay):
    """For people: one bar for the study, one for each node that runs."""

    def __init__(self, *args: Any) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__(*args)
        columns = [TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.fields[more]}")]
        self.bars = Progress(*columns, console=Console(stderr=True), refresh_per_second=4)
        self.whole: Any = self.bars.add_task(f"study {self.folder.name}", total=1.0, more="")
        self.tasks: dict[str, Any] = {}
        self.drawn = 0.0

    def say(self, text: str) -> None:
        self.bars.console.print(text, markup=False, highlight=False)

    def changed(self, node: grid.Node, state: scheduler.State, detail: str) -> None:
        super().changed(node, state, detail)
        if state == "running":
            self.tasks[node.name] = self.bars.add_task(f"  {node.name}", total=node.steps, more="starting")
        elif node.name in self.tasks:
            self.bars.remove_task(self.tasks.pop(node.name))

    def tick(self, work: scheduler.StudyState) -> None:
        if time.monotonic() - self.drawn < 0.25:
            return
        self.drawn = time.monotonic()
        for name, task in self.tasks.items():
            node = work.nodes[name]
            done = max(0, scheduler.last_step(work.of(name)) - node.at) if node.steps else 0
            more = f"{done}/{node.steps} steps" if done else "starting" if node.steps else "probing"
            self.bars.update(task, completed=done, more=more)
        share, seconds = self.left(work)
        left = f", {duration_text(seconds)} left" if seconds is not None else ""
        more = f"{work.count('done')}/{len(work.nodes)} nodes{left}"
        more += ", saving and stopping (again: at once)" if work.stopping else ""
        self.bars.update(self.whole, completed=share, more=more)


@contextlib.contextmanager
def progress_display(
    nodes: Sequence[grid.Node], folder: Path, foresee: Callable[[], object]
) -> Iterator[StudyDisplay]:
    """The display that fits stderr."""
    if not sys.stderr.isatty():
        yield StudyLines(nodes, folder, foresee)
        return
    bars = StudyBars(nodes, folder, foresee)
    with bars.bars:
        yield bars


def duration_text(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 05 s, 2 h 10 min, 3 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
