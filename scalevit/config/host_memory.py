"""Main memory that a process can still take: the machine's, or its control group's when that is less."""

from __future__ import annotations

import math
from pathlib import Path

#: Where the kernel tells a container its memory: limit, use, and the statistics that hold the page cache.
CGROUP = Path("/sys/fs/cgroup")


def available_memory(cgroup: Path = CGROUP) -> float:
    """GiB that processes can still take: the machine's, or its container's when that is less."""
    return min(_machine_memory(), _container_memory(cgroup))


def _machine_memory() -> float:
    """GiB that the system calls available, infinite where it does not tell."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kilobytes[0]) / 2**20 if kilobytes else math.inf


def _container_memory(cgroup: Path) -> float:
    """GiB between the limit of a control group (version 2) and its use, infinite without a limit. The page
    cache counts as free: the kernel drops it when processes need memory."""
    try:
        limit = float((cgroup / "memory.max").read_text())
        used = float((cgroup / "memory.current").read_text())
        pairs = (line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        statistics = {pair[0]: float(pair[1]) for pair in pairs if len(pair) == 2}
    except (OSError, ValueError):  # no control group, no limit ("max")
        return math.inf
    cache = statistics.get("file", 0.0) - statistics.get("shmem", 0.0)
    return (limit - max(0.0, used - cache)) / 2**30
