"""Environment of torchrun: rank and number of processes, read and checked together.

An empty variable counts as unset. A WORLD_SIZE that some other job left behind is reported in one line.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

_HINT = "start with torchrun, or unset WORLD_SIZE for a single process"
_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class LaunchEnvironment:
    """rank: of this process among all; size: number of processes; local_rank: among those of this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def read(cls) -> LaunchEnvironment:
        """What the launcher set; a single process without it. Raises ValueError when that is incomplete or
        contradicts itself."""
        size = _integer("WORLD_SIZE", 1, 1, 1 << 20)
        if size == 1:
            return cls(local_rank=_integer("LOCAL_RANK", 0, 0, 1 << 20))
        missing = [name for name in _NEEDED if not os.environ.get(name)]
        if missing:
            raise ValueError(f"WORLD_SIZE={size} is set, but {', '.join(missing)} is not; {_HINT}")
        _integer("MASTER_PORT", 0, 0, 65535)
        return cls(_integer("RANK", 0, 0, size - 1), size, _integer("LOCAL_RANK", 0, 0, size - 1))


def _integer(name: str, default: int, low: int, high: int) -> int:
    """An integer from the environment within a range."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ValueError(f"{name}={text}: an integer from {low} to {high} is needed; {_HINT}")
    return int(text)
