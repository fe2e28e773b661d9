"""Progress of a study: which nodes run and how far they are, time left, and the forecast of the largest runs.

The display itself is `config/progress.py`; this module tells it what happens to the nodes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scalevit.config.progress import BarDisplay, NoDisplay, open_display
from scalevit.study.design import grid
from scalevit.study.launch import scheduler

#: FLOP/s of a worker before anything was measured; it only weighs start-up time against training.
ASSUMED_FLOPS_PER_SECOND = 2e10
#: Seconds between two drawings.
REDRAW_SECONDS = 0.25


class StudyProgress:
    """Progress callback of the scheduler.

    held_out: names of the largest runs, which are forecast. `make_forecast` is called once, when every other
    node is done and before the results of the largest are read."""

    def __init__(
        self, nodes: Sequence[grid.Node], title: str, held_out: set[str], make_forecast: Callable[[], object],
        display: NoDisplay,
    ) -> None:  # fmt: skip
        self.title, self.make_forecast, self.display = title, make_forecast, display
        self.open = {n.name for n in nodes if not {n.name, n.after if n.job else ""} & held_out}
        self.weight = {
            node.name: scheduler.STARTUP_SECONDS + node.flops / ASSUMED_FLOPS_PER_SECOND for node in nodes
        }
        self.states: dict[str, scheduler.State] = {}
        self.earlier = 0.0  # weight of what was done before this launcher began
        self.began = time.monotonic()
        self.drawn = 0.0

    def changed(self, node: grid.Node, state: scheduler.State, detail: str) -> None:
        """Report a node's new state; make the forecast when its evidence is complete."""
        before, self.states[node.name] = self.states.get(node.name), state
        if state == "done":
            self.earlier += self.weight[node.name] if detail else 0.0
            self._forecast_when_ready(node)
        elif detail:
            self.display.event(f"{node.name}: {state}: {' · '.join(detail.splitlines())}")
        if state != "running":
            self.display.remove(node.name)
        if state == "done" and before == "running":
            done = sum(value == "done" for value in self.states.values())
            spent = duration_text(time.monotonic() - self.began)
            self.display.event(f"{node.name} done, {done} of {len(self.weight)} nodes, {spent}")

    def _forecast_when_ready(self, node: grid.Node) -> None:
        if node.name in self.open:
            self.open.discard(node.name)
            if not self.open:
                self.make_forecast()

    def tick(self, work: scheduler.StudyState) -> None:
        """Draw how far the study and its running nodes are."""
        if time.monotonic() - self.drawn < REDRAW_SECONDS:
            return
        self.drawn = time.monotonic()
        share, seconds = self.left(work)
        text = f"{work.count('done')} of {len(work.nodes)} nodes"
        text += f", {duration_text(seconds)} left" if seconds is not None else ""
        text += ", saving and stopping (again: at once)" if work.stopping else ""
        self.display.update(self.title, 100 * share, 100, text)
        if isinstance(self.display, BarDisplay):
            self._draw_running(work)

    def _draw_running(self, work: scheduler.StudyState) -> None:
        for name, state in work.states.items():
            node = work.nodes[name]
            if state == "running":
                done = max(0, scheduler.last_step(work.of(name)) - node.at) if node.steps else 0
                text = "" if done else "starting" if node.steps else "probing"
                self.display.update(name, done, max(1, node.steps), text)

    def left(self, work: scheduler.StudyState) -> tuple[float, float | None]:
        """(share of the study's work that is done, seconds left or None before anything was measured)."""
        total = sum(self.weight.values())
        done = sum(self.weight[name] * self._part(work, name) for name in work.nodes)
        measured, spent = done - self.earlier, time.monotonic() - self.began
        is_known = measured > 0.02 * total
        return done / total, (total - done) * spent / measured if is_known else None

    def _part(self, work: scheduler.StudyState, name: str) -> float:
        """Share of a node's work that is done."""
        node, state = work.nodes[name], work.states[name]
        if state != "running":
            return 1.0 if state in ("done", "failed", "blocked") else 0.0
        return min(1.0, max(0.0, (scheduler.last_step(work.of(name)) - node.at) / max(1, node.steps)))


@contextlib.contextmanager
def study_progress(
    nodes: Sequence[grid.Node], folder: Path, held_out: set[str], make_forecast: Callable[[], object]
) -> Iterator[StudyProgress]:
    """The progress of a study on the display that fits stderr."""
    with open_display() as display:
        yield StudyProgress(nodes, f"study {folder.name}", held_out, make_forecast, display)


def duration_text(seconds: float) -> str:
    """Seconds as people write them: 42 s, 3 min 05 s, 2 h 10 min, 3 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
