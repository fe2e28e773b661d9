"""Interleaved timing: candidates run in alternation, so that whatever slows the machine down slows all.

A single CPU thread is timed in process time, which leaves neighbours out; otherwise in wall-clock time, and
accelerators are synchronised.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path

import torch

#: Runs in a row on an accelerator, synchronised after the last one: as in training, where the next step is
#: launched before the last one has ended.
STEPS_PER_ROUND = 4


#: Relative difference of a candidate's rounds above which the machine counts as shared with other processes.
BUSY_SPREAD = 0.25
#: When no new round, row or candidate begins any more (time.monotonic).
_DEADLINE: ContextVar[float] = ContextVar("deadline", default=math.inf)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Context in which measurements end after so many seconds: what has begun is finished, with at least one
    round, and nothing else begins. 0: no limit."""
    token = _DEADLINE.set(min(_DEADLINE.get(), time.monotonic() + (seconds or math.inf)))
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def out_of_time() -> bool:
    """Whether the time limit has passed."""
    return time.monotonic() >= _DEADLINE.get()


def rounds_spread(seconds: Mapping[str, Sequence[float]]) -> float:
    """Disagreement of repeats: (largest − smallest) / median of each candidate's rounds, its median."""
    spreads = [(max(s) - min(s)) / statistics.median(s) for s in seconds.values() if len(s) > 1]
    return statistics.median(spreads) if spreads else 0.0


def busy_note(spread: float) -> list[str]:
    """One line for people where repeats disagree as beside a busy neighbour, else none."""
    if spread <= BUSY_SPREAD:
        return []
    return [
        f"repeats differ by {spread:.0%}: other processes use this machine; "
        "speeds are too low, ratios within a table hold better"
    ]


def time_interleaved(
    candidates: Mapping[str, Callable[[], object]], rounds: int, threads: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every round of every candidate; a first round that warms up is left out. Past the time limit
    no further round begins; there is at least one."""
    clock = time.process_time if uses_process_time(threads, device) else time.perf_counter
    repeats = STEPS_PER_ROUND if device.type == "cuda" else 1
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        if turn > 1 and out_of_time():
            break
        for name, run in candidates.items():
            _wait(device)
            began = clock()
            for _ in range(repeats):
                run()
            _wait(device)
            if turn:
                spent[name].append((clock() - began) / repeats)
    return spent


def uses_process_time(threads: int, device: torch.device) -> bool:
    """Whether process time is measured, not wall-clock time: on a CPU with one thread."""
    return threads == 1 and device.type == "cpu"


def bench_device() -> torch.device:
    """Device that benchmarks run on: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """Name of the accelerator, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def _processor() -> str:
    """Name of the processor on Linux, with family and model, which virtual machines' names often hide."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "cpu"
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    numbers = [
        f"{word} {said[key]}" for word, key in (("family", "cpu family"), ("model", "model")) if key in said
    ]
    return " ".join([said.get("model name", "cpu"), *numbers])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
