"""Scheduler of a study: starts each node as a process when it is ready, and retries nodes that fail.

A crash costs one run and never the study. A node is a folder; the process that works on it holds a lock
(`attempt.py`) until it ends, also when the launcher dies: the next launcher waits for that process and takes
its result over. Whether a node is finished is read from its folder. Executors (`executors/`) decide where
processes run.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from scalevit.artifacts import records, run_folder
from scalevit.artifacts.checkpoint import list_checkpoints
from scalevit.artifacts.remote import Folder
from scalevit.config.result import RESUMABLE, USER_ERROR
from scalevit.study.design import grid
from scalevit.study.design.cost import critical_paths
from scalevit.study.launch import attempt
from scalevit.study.launch.attempt import Attempt
from scalevit.study.launch.executors.local import LocalExecutor
from scalevit.study.launch.study_folder import lock_study, write_node_folders

#: Seconds a process needs before its first step, for estimates of the time left.
STARTUP_SECONDS = 3.0

State = Literal["waiting", "running", "done", "failed", "blocked"]


@dataclass(frozen=True)
class NodeType:
    """Command of a node's process, and how its folder is read.

    command: arguments of the process. finished: whether the folder holds the node's result. reached: whether
    a trunk has committed the checkpoint of a step. steps: how far a run has come."""

    command: Callable[[grid.Node, Path], Sequence[str]]
    finished: Callable[[Path], bool]
    reached: Callable[[Path, int], bool]
    steps: Callable[[Path], int] = lambda folder: 0


@runtime_checkable
class Executor(Protocol):
    """Where nodes run."""

    name: str

    def choose(self, ready: Sequence[grid.Node], running: Sequence[grid.Node]) -> list[grid.Node]:
        """Those of the ready nodes, most urgent first, that shall start now."""
        ...

    def start(self, tries: Sequence[Attempt]) -> Mapping[str, str]:
        """Start them; for each name "", or how it goes on without a process of its own."""
        ...

    def ended(self) -> Mapping[str, int]:
        """Exit status of each try that ended since this was last asked."""
        ...

    def stop(self, kill: bool) -> None:
        """Ask all that run to save and end, or end them at once; `ended` tells of each as always."""
        ...


@runtime_checkable
class ProgressCallback(Protocol):
    """Who is told what happens: a progress display, or a study that forecasts between two nodes."""

    def changed(self, node: grid.Node, state: State, detail: str) -> None: ...

    def tick(self, work: StudyState) -> None: ...


@dataclass
class StudyState:
    """Where a study stands. stopping: how often it was asked to stop; from the second time on, at once."""

    nodes: dict[str, grid.Node]
    folder: Path
    states: dict[str, State] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    stopping: int = 0

    def of(self, name: str) -> Path:
        return self.folder / "runs" / name

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.txt"

    def count(self, *states: State) -> int:
        return sum(state in states for state in self.states.values())


@dataclass(frozen=True)
class StudyOutcome:
    """states: each node's last state. errors: the last lines of what failed. stopped: asked to stop."""

    states: Mapping[str, State]
    errors: Mapping[str, str]
    stopped: bool

    @property
    def complete(self) -> bool:
        return all(state == "done" for state in self.states.values())


# --------------------------------------------------------------------------- scalevit's own node


def pretrain_command(node: grid.Node, folder: Path) -> Sequence[str]:
    """The process of a node, started exactly as a user would start it."""
    words: Sequence[str] = ["pretrain", str(folder / run_folder.CONFIG), "--out", str(folder)]
    if node.job is not None and node.after is not None:
        words = node.job.command(folder.parent / node.after, folder)
    return [sys.executable, "-P", "-m", "scalevit", *words]


def _checkpoint_folder(home: Path) -> Folder:
    """Where the run in `home` keeps its checkpoints."""
    try:
        changed = (home / run_folder.CONFIG).stat().st_mtime_ns
    except OSError:
        return home / run_folder.CHECKPOINTS
    return _configured_folder(home, changed)


@lru_cache(maxsize=4096)
def _configured_folder(home: Path, changed: int) -> Folder:
    try:
        return run_folder.checkpoint_folder_in(home)
    except (OSError, ValueError):
        return home / run_folder.CHECKPOINTS


#: Seconds between two questions to a store whether it holds a checkpoint.
STORE_SECONDS = 5.0


@dataclass
class CheckpointLookup:
    """Whether a run's checkpoints, in its folder or at a store, include a step. A store is asked at most
    every `STORE_SECONDS`, and one that does not answer holds nothing for now."""

    asked: dict[Path, tuple[float, frozenset[int]]] = field(default_factory=dict)

    def __call__(self, folder: Path, step: int) -> bool:
        where = _checkpoint_folder(folder)
        if isinstance(where, Path):
            return (where / f"step_{step}").is_dir()
        when, steps = self.asked.get(folder, (-math.inf, frozenset()))
        if step not in steps and time.monotonic() - when > STORE_SECONDS:
            with contextlib.suppress(OSError, ValueError):
                steps = frozenset(saved.step for saved in list_checkpoints(where))
            self.asked[folder] = time.monotonic(), steps
        return step in steps


has_checkpoint = CheckpointLookup()


def last_step(folder: Path) -> int:
    """The last step that the run's records tell of; reads the end of the file only."""
    try:
        with (folder / records.FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return 0
    return max((_step(line) for line in lines[-8:]), default=0)


def _step(line: bytes) -> int:
    try:
        return int(json.loads(line).get("step") or 0)
    except (ValueError, AttributeError, TypeError):
        return 0


PRETRAINING = NodeType(pretrain_command, run_folder.is_complete, has_checkpoint, last_step)


# --------------------------------------------------------------------------- the loop


def run_study(
    nodes: Sequence[grid.Node],
    folder: Path,
    watcher: ProgressCallback,
    worker: NodeType = PRETRAINING,
    executor: Executor | None = None,
    attempts: int = 2,
) -> StudyOutcome:
    """Run every node that is not finished yet on `executor` (None: this machine, a node a core), each at most
    `attempts` times; a node that keeps failing blocks only what branches off it. SIGINT and SIGTERM are
    passed on to the processes, which save and end; then this returns with `stopped`."""
    folder = folder.absolute()  # a cluster works elsewhere
    work = StudyState({node.name: node for node in nodes}, folder)
    loop = _Loop(work, worker, watcher, executor or LocalExecutor(), attempts, critical_paths(nodes))
    with lock_study(folder), _stopping(work):
        write_node_folders(nodes, folder)
        loop.look()
        while loop.step():
            watcher.tick(work)
            time.sleep(loop.pause)
        watcher.tick(work)
    return StudyOutcome(dict(work.states), dict(work.errors), bool(work.stopping))


@contextlib.contextmanager
def _stopping(work: StudyState) -> Iterator[None]:
    """While this holds, SIGINT and SIGTERM are counted instead of ending the launcher."""

    def stop(number: int, frame: object) -> None:
        work.stopping += 1

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class _Loop:
    work: StudyState
    worker: NodeType
    watcher: ProgressCallback
    executor: Executor
    attempts: int
    urgency: Mapping[str, float]
    pause: float = 0.005
    asked: int = 0
    furthest: dict[str, int] = field(default_factory=dict)

    def look(self) -> None:
        """The state of each node as its folder tells it."""
        for name in self.work.nodes:
            done = self.worker.finished(self.work.of(name))
            self.set(name, "done" if done else "waiting", attempt.ALREADY_FINISHED if done else "")

    def set(self, name: str, state: State, detail: str = "") -> None:
        self.work.states[name] = state
        self.watcher.changed(self.work.nodes[name], state, detail)

    def step(self) -> bool:
        """Collect what ended, start what can; whether anything is left to wait for."""
        if self.work.stopping > self.asked:
            self.asked = self.work.stopping
            self.executor.stop(kill=self.asked > 1)
        moved = self.collect()
        moved |= not self.work.stopping and self.start()
        self.pause = 0.005 if moved else min(0.1, self.pause * 1.3)
        if self.work.count("running"):
            return True
        self.block()
        return not self.work.stopping and self.work.count("waiting") > 0

    def collect(self) -> bool:
        ended = self.executor.ended()
        for name, code in ended.items():
            self.settle(name, code)
        return bool(ended)

    def settle(self, name: str, code: int) -> None:
        if self.worker.finished(self.work.of(name)):
            self.set(name, "done")
        elif self.work.stopping:
            self.set(name, "waiting", "stopped, can go on")
        else:
            self.fail(name, code)

    def fail(self, name: str, code: int) -> None:
        """Wait for another attempt, or give the node up with its log's last lines; a process that says that
        its input is wrong will not do better next time, and one that was stopped but came further did not
        fail."""
        tail = attempt.log_tail(self.work.log(name))
        step, before = self.worker.steps(self.work.of(name)), self.furthest.get(name, 0)
        self.furthest[name] = max(step, before)
        if code == RESUMABLE and step > before:
            self.work.attempts[name] -= 1
            self.set(name, "waiting", f"stopped at step {step}, goes on")
        elif code == USER_ERROR or self.work.attempts.get(name, 0) >= self.attempts:
            self.work.errors[name] = tail
            self.set(name, "failed", f"{_ended_by(code)}\n{tail}")
        else:
            self.set(name, "waiting", f"{_ended_by(code)}, will be tried again\n{tail}")

    def start(self) -> bool:
        """Start the ready nodes that there is room for, those with the most work behind them first."""
        nodes, states = self.work.nodes, self.work.states
        ready = [nodes[name] for name, state in states.items() if state == "waiting" and self.ready(name)]
        ready.sort(key=lambda node: -self.urgency[node.name])
        running = [nodes[name] for name, state in states.items() if state == "running"]
        chosen = self.executor.choose(ready, running) if ready else []
        if chosen:
            self.run(chosen)
        return bool(chosen)

    def ready(self, name: str) -> bool:
        node = self.work.nodes[name]
        if node.after is None or self.work.states[node.after] == "done":
            return True
        if node.job is not None:
            return False
        return self.worker.reached(self.work.of(node.after), node.at)

    def run(self, nodes: Sequence[grid.Node]) -> None:
        tries = [self.attempt(node) for node in nodes]
        for name, detail in self.executor.start(tries).items():
            self.work.attempts[name] = self.work.attempts.get(name, 0) + (not detail)
            self.set(name, "running", detail)

    def attempt(self, node: grid.Node) -> Attempt:
        home, words = self.work.of(node.name), self.worker.command
        return Attempt(
            node.name, home, self.work.log(node.name), tuple(words(node, home)), self.worker.finished,
            self.executor.name,
        )  # fmt: skip

    def block(self) -> None:
        """Give up the nodes whose trunk failed before it reached their branch point, and those behind them:
        nodes stand after what they wait for."""
        for name, state in self.work.states.items():
            after = self.work.nodes[name].after
            before = self.work.states[after] if after else "done"
            if state == "waiting" and before in ("failed", "blocked") and not self.ready(name):
                self.set(name, "blocked", f"{after} {before}")


def _ended_by(code: int) -> str:
    """How a process ended, in words."""
    if code == -signal.SIGKILL:
        return "killed (out of memory?)"
    return f"ended by {signal.Signals(-code).name}" if -code in {*signal.Signals} else f"exit {code}"
