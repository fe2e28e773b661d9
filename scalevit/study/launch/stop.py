"""Stops a study from outside: the launcher first, then processes or jobs that have none any more."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from scalevit.study.design import grid
from scalevit.study.launch import attempt

#: Seconds between two looks, and after which waiting is given up: a save may take minutes.
POLL_SECONDS, STOP_SECONDS = 0.2, 900.0


def stop_study(folder: Path, nodes: Sequence[grid.Node], executor: str) -> int:
    """Ask everything that works on the study to save and end, and wait until it has; how many nodes were
    being worked on. Raises ValueError when the launcher is on another machine, or nothing ends."""
    homes = [folder / "runs" / node.name for node in nodes]
    working = sum(map(attempt.is_locked, homes))
    if attempt.is_locked(folder):
        _stop_launcher(folder)
    for home in homes:
        attempt.signal_owner(home / attempt.LOCK, signal.SIGTERM)
    if executor == "slurm":
        _stop_jobs(folder)
    _wait(lambda: any(map(attempt.is_locked, homes)), f"{folder}: some nodes have not ended")
    return working


def _stop_launcher(folder: Path) -> None:
    path = folder / attempt.LOCK
    if not attempt.signal_owner(path, signal.SIGTERM):
        owner = attempt.lock_owner(path)
        where = owner.host if owner else "a machine that it did not name"
        raise ValueError(
            f"{folder}: its launcher runs on {where}, or in another container; say `scalevit study stop "
            f"{folder}` there"
        )
    _wait(lambda: attempt.is_locked(folder), f"{folder}: its launcher has not ended")


def _stop_jobs(folder: Path) -> None:
    from scalevit.study.launch.executors import slurm

    slurm.cancel(slurm.jobs_in_queue(folder), kill=False)
    _wait(lambda: bool(slurm.jobs_in_queue(folder)), f"{folder}: some jobs have not ended", slurm.POLL)


def _wait(busy: Callable[[], bool], complaint: str, pause: float = POLL_SECONDS) -> None:
    until = time.monotonic() + STOP_SECONDS
    while busy():
        if time.monotonic() > until:
            raise ValueError(f"{complaint} after {STOP_SECONDS / 60:.0f} minutes; look at its logs")
        time.sleep(pause)
