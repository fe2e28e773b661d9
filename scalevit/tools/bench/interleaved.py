"""Candidates that take turns: whatever slows the machine down slows all of them.

One CPU thread is timed by the process's own time, so that neighbours do not count; else the clock on the wall
counts, and an accelerator is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

#: Runs in a row on an accelerator, which is waited for after the last one: as in training, where the next
#: step is on its way before the last one is done.
STEPS_PER_ROUND = 4


def time_interleaved(
    ways: Mapping[str, Callable[[], object]], rounds: int, threads: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every round of every way; a first round that warms up is left out."""
    clock = time.process_time if uses_process_time(threads, device) else time.perf_counter
    repeats = STEPS_PER_ROUND if device.type == "cuda" else 1
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            _wait(device)
            began = clock()
            for _ in range(repeats):
                way()
            _wait(device)
            if turn:
                spent[name].append((clock() - began) / repeats)
    return spent


def uses_process_time(threads: int, device: torch.device) -> bool:
    """Whether the process's own time counts, and not the clock on the wall."""
    return threads == 1 and device.type == "cpu"


def bench_device() -> torch.device:
    """The device that benches run on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The accelerator's name, or the processor's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def _processor() -> str:
    """As Linux knows it; family and model tell virtual machines' processors apart."""
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
