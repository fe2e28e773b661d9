"""What a command gives back: data for `--json`, text for people, and the exit status."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DONE, CHECK_FAILED, USER_ERROR, RESUMABLE = 0, 1, 2, 3


@dataclass(frozen=True)
class CommandResult:
    """`data` is one JSON object; `text` is what a person reads; `code` is 0 done, 1 a check failed,
    2 the user's mistake, 3 stopped early but resumable."""

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    code: int = DONE
