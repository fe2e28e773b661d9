"""Interleaved timing: candidates run in alternation, so that whatever slows the machine down slows all.

A single CPU thread is timed in process time, which leaves neighbours out; otherwise in wall-clock time, and
accelerators are synchronised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

#: Runs in a row on an accelerator, synchronised after the last one: as in training, where the next step is
#: launched before the last one has ended.
STEPS_PER_ROUND = 4


def time_interleaved(
    candidates: Mapping[str, Callable[[], object]], rounds: int, threads: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every round of every candidate; a first round that warms up is left out."""
    clock = time.process_time if uses_process_time(threads, device) else time.perf_counter
    repeats = STEPS_PER_ROUND if device.type == "cuda" else 1
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
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
