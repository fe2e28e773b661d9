"""Runs a study's nodes as processes of this machine, so that a crash costs one run and never the study.

A node is a folder. A process that works on a node holds a lock on the folder's `lock` file until it ends,
even when the launcher dies: the next launcher sees the lock, waits for the process and takes its result
over, so no node is ever done by two. What a node has finished is read from its folder, never remembered here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, Protocol, runtime_checkable

from scalevit import config, records
from scalevit.answer import MISTAKE
from scalevit.study import grid

#: Seconds a process needs before its first step, for estimates of the time left.
STARTUP = 3.0

#: Lines of a failed node's log that are shown.
TAIL = 8

State = Literal["waiting", "running", "done", "failed", "blocked"]


@dataclass(frozen=True)
class Worker:
    """How a node's process is started and how its folder is read.

    command: the process's words. finished: whether the folder holds the node's result. reached: whether a
    trunk's folder holds the checkpoint of a step. steps: how far a run has come, for progress only."""

    command: Callable[[grid.Node, Path], Sequence[str]]
    finished: Callable[[Path], bool]
    reached: Callable[[Path, int], bool]
    steps: Callable[[Path], int] = lambda folder: 0


@runtime_checkable
class Watcher(Protocol):
    """Who is told what happens: a progress display, or a study that forecasts between two nodes."""

    def changed(self, node: grid.Node, state: State, detail: str) -> None: ...

    def tick(self, work: Work) -> None: ...


@dataclass
class Work:
    """Where a study stands: each node's state and the processes that are running."""

    nodes: dict[str, grid.Node]
    folder: Path
    states: dict[str, State] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes] | None] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    stopping: bool = False

    def of(self, name: str) -> Path:
        return self.folder / "runs" / name

    def count(self, *states: State) -> int:
        return sum(state in states for state in self.states.values())

    def signal(self, name: str, number: int) -> None:
        """Send a signal to the node's process; one of an earlier launcher left its number in the lock."""
        process = self.processes[name]
        if process is not None:
            process.send_signal(number)
            return
        with contextlib.suppress(ValueError, OSError):
            os.kill(int((self.of(name) / "lock").read_text()), number)


@dataclass(frozen=True)
class Outcome:
    """states: each node's last state. errors: the last lines of what failed. stopped: asked to stop."""

    states: Mapping[str, State]
    errors: Mapping[str, str]
    stopped: bool

    @property
    def complete(self) -> bool:
        return all(state == "done" for state in self.states.values())


# --------------------------------------------------------------------------- scalevit's own node


def pretrain(node: grid.Node, folder: Path) -> Sequence[str]:
    """The process of a node: one training run, started exactly as a user would start it."""
    words = ["pretrain", str(folder / "run.yaml"), "--out", str(folder)]
    return [sys.executable, "-m", "scalevit", *words]


def checkpointed(folder: Path, step: int) -> bool:
    """Whether the run has committed the checkpoint of `step` (a checkpoint's folder appears when whole)."""
    return (folder / "checkpoints" / f"step_{step}").is_dir()


def ended(folder: Path) -> bool:
    """Whether a run has come to its end: the row that it writes last, about itself, is there."""
    return any(row.get("kind") == "run" for row in records.read(folder))


def steps_of(folder: Path) -> int:
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


LOCAL = Worker(pretrain, ended, checkpointed, steps_of)


# --------------------------------------------------------------------------- locks and folders


@contextlib.contextmanager
def lock_study(folder: Path) -> Iterator[None]:
    """One launcher a study. Raises ValueError naming the process that already works on it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        if not _lock(file):
            file.seek(0)
            who = file.read().strip() or "unknown"
            raise ValueError(
                f"{folder}: another launcher (process {who}) works on this study; wait or stop it"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def held(home: Path) -> bool:
    """Whether a process works on the node in this folder."""
    path = home / "lock"
    if not path.exists():
        return False
    with path.open("a+") as lock:
        return not _lock(lock)


def refuse_changes(nodes: Sequence[grid.Node], folder: Path) -> None:
    """Raises ValueError when a node's folder already holds another run: what is done keeps its meaning."""
    changed = [node.name for node in nodes if _other(folder / "runs" / node.name, node.run)]
    if changed:
        names = ", ".join(changed[:3]) + (", …" if len(changed) > 3 else "")
        raise ValueError(
            f"{folder}: the study now means something else by {len(changed)} of its runs ({names}); "
            "choose another --out, or undo the change"
        )


def prepare(nodes: Sequence[grid.Node], folder: Path) -> None:
    """Write every node's run.yaml, unless one of the folders holds another run."""
    refuse_changes(nodes, folder)
    for node in nodes:
        home = folder / "runs" / node.name
        home.mkdir(parents=True, exist_ok=True)
        path, text = home / "run.yaml", config.dump(config.resolved(node.run))
        if not path.exists() or path.read_text() != text:
            write_whole(path, text)


def _other(home: Path, run: config.Run) -> bool:
    path = home / "run.yaml"
    return path.exists() and config.run_id(config.load(str(path))) != config.run_id(run)


def write_whole(path: Path, text: str) -> None:
    """All of the file or nothing of it."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)


# --------------------------------------------------------------------------- the loop


def launch(
    nodes: Sequence[grid.Node],
    folder: Path,
    watcher: Watcher,
    worker: Worker = LOCAL,
    slots: int = 0,
    attempts: int = 2,
) -> Outcome:
    """Run every node that is not finished yet, `slots` at a time (0: one a core), each at most `attempts`
    times; a node that keeps failing blocks only what branches off it. SIGINT and SIGTERM are passed on to
    the processes, which save and end; then this returns with `stopped`."""
    work = Work({node.name: node for node in nodes}, folder)
    slots = slots or os.cpu_count() or 1
    loop = _Loop(work, worker, watcher, slots, attempts, grid.urgencies(nodes))
    with lock_study(folder), _stopping(work):
        prepare(nodes, folder)
        loop.look()
        while loop.step():
            watcher.tick(work)
            time.sleep(loop.pause)
        watcher.tick(work)
    return Outcome(dict(work.states), dict(work.errors), work.stopping)


@contextlib.contextmanager
def _stopping(work: Work) -> Iterator[None]:
    """While this holds, the first SIGINT or SIGTERM asks all processes to save and end; a second kills."""

    def stop(number: int, frame: object) -> None:
        harder = work.stopping
        work.stopping = True
        for name in [*work.processes]:
            work.signal(name, signal.SIGKILL if harder else signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class _Loop:
    work: Work
    worker: Worker
    watcher: Watcher
    slots: int
    attempts: int
    urgency: Mapping[str, float]
    pause: float = 0.005

    def look(self) -> None:
        """The state of each node as its folder tells it."""
        for name in self.work.nodes:
            done = self.worker.finished(self.work.of(name))
            self.set(name, "done" if done else "waiting", "found finished" if done else "")

    def set(self, name: str, state: State, detail: str = "") -> None:
        self.work.states[name] = state
        self.watcher.changed(self.work.nodes[name], state, detail)

    def step(self) -> bool:
        """Collect what ended, start what can; whether anything is left to wait for."""
        moved = self.collect()
        moved |= not self.work.stopping and self.start()
        self.pause = 0.005 if moved else min(0.1, self.pause * 1.3)
        if self.work.processes:
            return True
        self.block()
        return not self.work.stopping and self.work.count("waiting") > 0

    def collect(self) -> bool:
        ended = [name for name, process in self.work.processes.items() if self.gone(name, process)]
        for name in ended:
            process = self.work.processes.pop(name)
            self.settle(name, 0 if process is None else process.returncode)
        return bool(ended)

    def gone(self, name: str, process: subprocess.Popen[bytes] | None) -> bool:
        """Whether the node's process has ended; one that an earlier launcher left is known by its lock."""
        if process is not None:
            return process.poll() is not None
        return not held(self.work.of(name))

    def settle(self, name: str, code: int) -> None:
        if self.worker.finished(self.work.of(name)):
            self.set(name, "done")
        elif self.work.stopping:
            self.set(name, "waiting", "stopped, can go on")
        else:
            self.fail(name, code)

    def fail(self, name: str, code: int) -> None:
        """Wait for another attempt, or give the node up with its log's last lines; a process that says that
        its input is wrong will not do better next time."""
        tail = log_tail(self.work.folder, name)
        if code == MISTAKE or self.work.attempts.get(name, 0) >= self.attempts:
            self.work.errors[name] = tail
            self.set(name, "failed", f"exit {code}\n{tail}")
        else:
            self.set(name, "waiting", f"exit {code}, will be tried again\n{tail}")

    def start(self) -> bool:
        """Fill the free slots with the ready nodes that have the most work behind them."""
        ready = [name for name, state in self.work.states.items() if state == "waiting" and self.ready(name)]
        ready.sort(key=lambda name: -self.urgency[name])
        room = self.slots - len(self.work.processes)
        for name in ready[:room]:
            if not self.work.stopping:
                self.run(name)
        return bool(ready[:room])

    def ready(self, name: str) -> bool:
        node = self.work.nodes[name]
        if node.after is None or self.work.states[node.after] == "done":
            return True
        return self.worker.reached(self.work.of(node.after), node.at)

    def run(self, name: str) -> None:
        """Start the node's process, which inherits the lock; or wait for one that still holds it."""
        node, home = self.work.nodes[name], self.work.of(name)
        logs = self.work.folder / "logs"
        logs.mkdir(exist_ok=True)
        with (home / "lock").open("a+") as lock, (logs / f"{name}.txt").open("ab") as log:
            if not _lock(lock):
                self.work.processes[name] = None
                self.set(name, "running", "started by an earlier launcher")
                return
            if self.worker.finished(home):
                self.set(name, "done", "found finished")
                return
            self.work.attempts[name] = self.work.attempts.get(name, 0) + 1
            process = subprocess.Popen(
                self.worker.command(node, home), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=_environment(self.slots), pass_fds=(lock.fileno(),), start_new_session=True,
            )  # fmt: skip
            lock.truncate(0)
            lock.write(str(process.pid))
        self.work.processes[name] = process
        if self.work.stopping:
            self.work.signal(name, signal.SIGTERM)
        self.set(name, "running")

    def block(self) -> None:
        """Give up the nodes whose trunk failed before it reached their branch point."""
        for name, state in self.work.states.items():
            after = self.work.nodes[name].after
            if state == "waiting" and after and self.work.states[after] == "failed" and not self.ready(name):
                self.set(name, "blocked", f"its trunk {after} failed")


def _environment(slots: int) -> dict[str, str]:
    """All cores, divided among the slots."""
    threads = str(max(1, (os.cpu_count() or 1) // slots))
    return {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}


def log_tail(folder: Path, name: str, lines: int = TAIL) -> str:
    """The last lines that a node's process printed."""
    try:
        text = (folder / "logs" / f"{name}.txt").read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
