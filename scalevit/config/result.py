"""Command result: data for `--json`, text for people, and the exit status."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DONE, CHECK_FAILED, USER_ERROR, RESUMABLE = 0, 1, 2, 3


class RunFailed(Exception):
    """A run has ended for a reason that the same command would meet again: no memory, or a loss that is not
    finite. One line for the user; exit status 1. local: other processes of the run know nothing of it."""

    def __init__(self, reason: str, local: bool = False) -> None:
        super().__init__(reason)
        self.local = local


@dataclass(frozen=True)
class CommandResult:
    """`data`: one JSON object. `text`: what a person reads. `code`: exit status, 0 done, 1 a check or a run
    failed, 2 the user's mistake, 3 stopped early but resumable."""

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    code: int = DONE
