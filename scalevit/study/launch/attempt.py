"""One try at a node: a process, on whatever machine, that holds the node's lock until it ends.

The lock is a lock on the file `lock` in the node's folder, inherited by the process: it outlives whoever
started it, so a node is never worked on by two. What each try cost is a line of `attempts.jsonl` beside it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from scalevit.config.result import DONE

LOCK, ATTEMPTS_FILE = "lock", "attempts.jsonl"

#: How a try can begin without a process of its own.
FROM_EARLIER_LAUNCHER, ALREADY_FINISHED = "started by an earlier launcher", "found finished"

#: Seconds between two looks at a process.
POLL_SECONDS = 0.1


@dataclass
class Attempt:
    """A node's process, to be started here or somewhere else. home: the node's folder. log: where its output
    goes. finished: whether a folder holds the result. where: the executor's name."""

    name: str
    home: Path
    log: Path
    command: tuple[str, ...]
    finished: Callable[[Path], bool]
    where: str
    process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False, compare=False)

    def run(self) -> int:
        """Wait for whoever holds the node's lock, then do the node unless it is done; gives the exit status.
        An interrupt lets the process save and end."""
        with wait_for_lock(self.home) as lock:
            if self.finished(self.home):
                return DONE
            began = time.time()
            try:
                self.begin(lock, {})
                return self._wait()
            except KeyboardInterrupt:
                return self.stop()
            finally:
                record_attempt(self, began, self.stop(), {})

    def begin(self, lock: IO[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start the process with the lock in its hands."""
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**_thread_environment(), **os.environ, **environment, "PYTHONUNBUFFERED": "1"},
                pass_fds=(lock.fileno(),), start_new_session=True,
            )  # fmt: skip
        lock.seek(0)
        lock.truncate()
        lock.write(f"{self.process.pid} {socket.gethostname()}")
        lock.flush()
        return self.process

    def _wait(self) -> int:
        assert self.process is not None
        while (code := self.process.poll()) is None:
            time.sleep(POLL_SECONDS)
        return code

    def stop(self) -> int:
        """Ask the process to save and end, wait for it, give its exit status."""
        if self.process is None:
            return DONE
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait()


def _thread_environment() -> dict[str, str]:
    """The cores that a job was given; an environment that names its threads already decides itself."""
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    return {"OMP_NUM_THREADS": cores} if cores else {}


@contextmanager
def wait_for_lock(home: Path) -> Iterator[IO[str]]:
    """The node's lock, waited for."""
    with (home / LOCK).open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def try_lock(file: IO[str]) -> bool:
    """Take the file's lock unless somebody holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(home: Path) -> bool:
    """Whether a process works on the node in this folder."""
    path = home / LOCK
    if not path.exists():
        return False
    with path.open("a+") as lock:
        return not try_lock(lock)


def lock_owner(path: Path) -> tuple[int, str] | None:
    """Process number and machine of who holds, or last held, a lock."""
    words = path.read_text().split() if path.exists() else []
    return (int(words[0]), words[1]) if len(words) == 2 and words[0].isdigit() else None


# --------------------------------------------------------------------------- what tries cost


def record_attempt(attempt: Attempt, began: float, code: int, environment: Mapping[str, str]) -> None:
    """Write a try down. threads and devices: what it held for so many seconds."""
    given = {**os.environ, **environment}
    row = {
        "began": round(began, 3), "seconds": round(time.time() - began, 3), "exit": code,
        "executor": attempt.where, "machine": socket.gethostname(), "job": given.get("SLURM_JOB_ID"),
        "restarts": int(given.get("SLURM_RESTART_COUNT", 0)),
        "threads": int(given.get("OMP_NUM_THREADS") or given.get("SLURM_CPUS_PER_TASK") or 1),
        "devices": len([one for one in given.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]),
    }  # fmt: skip
    with (attempt.home / ATTEMPTS_FILE).open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_attempts(home: Path) -> list[dict[str, Any]]:
    """Every try at the node that could say how it ended; a cut line is left out."""
    path = home / ATTEMPTS_FILE
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def resources_used(homes: Sequence[Path]) -> dict[str, float]:
    """What the tries at these nodes held: their number, core-hours and device-hours."""
    rows = [row for home in homes for row in read_attempts(home)]
    hours = [row["seconds"] / 3600 for row in rows]
    return {
        "attempts": len(rows),
        "core_hours": sum(h * row["threads"] for h, row in zip(hours, rows)),
        "device_hours": sum(h * row["devices"] for h, row in zip(hours, rows)),
    }


def log_tail(log: Path, lines: int = 8) -> str:
    """The last lines that a node's process printed."""
    try:
        text = log.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
