"""Nodes as processes of this machine: so many at a time, each on its device and its share of the cores, and
none that the memory does not hold."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scalevit.config.host_memory import available_memory
from scalevit.config.result import DONE
from scalevit.study.design import grid
from scalevit.study.launch import attempt
from scalevit.study.launch.attempt import ALREADY_FINISHED, FROM_EARLIER_LAUNCHER, Attempt

#: GiB that a process takes before it holds a model: the interpreter, torch, scipy for the probe.
PROCESS_MEMORY = 0.6


def expected_memory(node: grid.Node) -> float:
    """GiB of main memory that the node's process should take where there is no accelerator."""
    from scalevit.study.planning.plan import step_memory

    run = node.run
    micro_batch = run.train.micro_batch or run.train.batch
    return PROCESS_MEMORY + step_memory(run, run.model.resolve(), micro_batch, 1).total


def devices() -> tuple[str, ...]:
    """The accelerators that nodes share out: those that CUDA_VISIBLE_DEVICES names, else all."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(one for one in named.split(",") if one)
    return tuple(str(n) for n, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*")))


@dataclass(frozen=True)
class _Running:
    """process: None for one that an earlier launcher started."""

    attempt: Attempt
    process: subprocess.Popen[bytes] | None
    began: float
    slot: int


@dataclass
class LocalExecutor:
    """Executor of this machine. workers: nodes at a time; 0: one a device, or one a core where there is none.
    memory: GiB that a node takes. available: GiB that are there when the study begins."""

    workers: int = 0
    memory: Callable[[grid.Node], float] = expected_memory
    available: float = field(default_factory=available_memory)
    devices: tuple[str, ...] = field(default_factory=devices)
    name: str = "local"
    running: dict[str, _Running] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    known: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.workers = self.workers or len(self.devices) or os.cpu_count() or 1

    def choose(self, ready: Sequence[grid.Node], running: Sequence[grid.Node]) -> list[grid.Node]:
        """The first of `ready` for which there is a slot and, beside what runs, memory. One that does not
        fit even alone is tried alone."""
        room = self.available - sum(map(self._memory, running))
        chosen: list[grid.Node] = []
        for node in ready:
            if len(chosen) + len(running) >= self.workers:
                break
            if self._memory(node) <= room or not (chosen or running):
                chosen.append(node)
                room -= self._memory(node)
        return chosen

    def _memory(self, node: grid.Node) -> float:
        if self.devices:
            return PROCESS_MEMORY
        if node.name not in self.known:
            self.known[node.name] = self.memory(node)
        return self.known[node.name]

    def start(self, tries: Sequence[Attempt]) -> Mapping[str, str]:
        return {one.name: self._start(one) for one in tries}

    def _start(self, one: Attempt) -> str:
        """Start the process, which inherits the lock; or wait for one that still holds it."""
        used = {held.slot for held in self.running.values()}
        slot = min(number for number in range(len(used) + 1) if number not in used)
        with attempt.open_lock(one.home / attempt.LOCK) as lock:
            if not attempt.try_lock(lock):
                self.running[one.name] = _Running(one, None, time.time(), slot)
                return FROM_EARLIER_LAUNCHER
            if one.finished(one.home):
                self.found.append(one.name)
                return ALREADY_FINISHED
            process = one.begin(lock, self._environment(slot))
        self.running[one.name] = _Running(one, process, time.time(), slot)
        return ""

    def _environment(self, slot: int) -> dict[str, str]:
        """A device of its own and a share of the cores."""
        found = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.workers))}
        if self.devices:
            found["CUDA_VISIBLE_DEVICES"] = self.devices[slot % len(self.devices)]
        return found

    def ended(self) -> dict[str, int]:
        found, self.found = dict.fromkeys(self.found, DONE), []
        for name, held in self.running.items():
            if held.process is None and not attempt.is_locked(held.attempt.home):
                found[name] = DONE
            elif held.process is not None and held.process.poll() is not None:
                found[name] = code = held.process.returncode
                attempt.record_attempt(held.attempt, held.began, code, self._environment(held.slot))
        self.running = {name: held for name, held in self.running.items() if name not in found}
        return found

    def stop(self, kill: bool) -> None:
        number = signal.SIGKILL if kill else signal.SIGTERM
        for held in self.running.values():
            if held.process is not None:
                held.process.send_signal(number)
            else:
                attempt.signal_owner(held.attempt.home / attempt.LOCK, number)
