"""One try at a node: a process, on whatever machine, that holds the node's lock until it ends.

The lock is a lock on the file `lock` in the node's folder, inherited by the process: it outlives whoever
started it, so a node is never worked on by two. What each try cost is a line of `attempts.jsonl` beside it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from scalevit.config.result import DONE

LOCK, ATTEMPTS_FILE = "lock", "attempts.jsonl"

#: How a try can begin without a process of its own.
FROM_EARLIER_LAUNCHER, ALREADY_FINISHED = "started by an earlier launcher", "found finished"

#: How often a lock is tried before it counts as held, and seconds in between.
LOCK_TRIES, LOCK_PAUSE = 10, 0.005

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
        with os.fdopen(open_without_links(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**_thread_environment(), **clean_environment(), **environment, "PYTHONUNBUFFERED": "1"},
                pass_fds=(lock.fileno(),), start_new_session=True,
            )  # fmt: skip
        write_owner(lock, self.process.pid)
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


def clean_environment() -> dict[str, str]:
    """The environment without ways to import modules from the current folder, which may be a stranger's."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    absolute = os.pathsep.join(path for path in paths if Path(path).is_absolute())
    return {**os.environ, "PYTHONPATH": absolute, "PYTHONSAFEPATH": "1"}


def open_without_links(path: Path, flags: int) -> int:
    """A file descriptor; what is created belongs to the user alone to write. Raises ValueError for a link:
    a study's folder may come from elsewhere, and nothing is written through a link in it."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise ValueError(f"{path}: is a link; nothing is written through it") from None
        raise


def open_lock(path: Path) -> IO[str]:
    """The lock file, created when it is missing."""
    return os.fdopen(open_without_links(path, os.O_RDWR | os.O_CREAT), "r+")


@contextmanager
def wait_for_lock(home: Path) -> Iterator[IO[str]]:
    """Hold the node's lock; waits until it is free."""
    with open_lock(home / LOCK) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def try_lock(file: IO[str]) -> bool:
    """Take the file's lock unless somebody holds it; whether it was taken. Tried for a moment, because a
    process that only looks (`is_locked`) shares the lock for an instant."""
    for _ in range(LOCK_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(LOCK_PAUSE)
    return False


def is_locked(home: Path) -> bool:
    """Whether a process works on the node in this folder. A look at a lock that is free holds a shared lock
    for an instant; it never creates the file."""
    try:
        descriptor = open_without_links(home / LOCK, os.O_RDONLY)
    except (OSError, ValueError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@dataclass(frozen=True)
class LockOwner:
    """The process that holds, or last held, a lock: its number, its machine, and when it started."""

    pid: int
    host: str
    started: str

    @property
    def is_running_here(self) -> bool:
        """Whether this very process runs on this machine: a number alone may belong to another by now."""
        return self.host == socket.gethostname() and self.started == start_time(self.pid) != ""


def start_time(pid: int) -> str:
    """When a process of this machine started, as text that no two processes of one number share; empty where
    there is no such process."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()[:8]}-{ticks}"
    except (OSError, IndexError):
        pass
    words = ["ps", "-o", "lstart=", "-p", str(pid)]  # systems without /proc
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "-".join(done.stdout.split()) if done.returncode == 0 else ""


def write_owner(lock: IO[str], pid: int) -> None:
    """Write into a lock file which process holds the lock."""
    lock.seek(0)
    lock.truncate()
    lock.write(f"{pid} {socket.gethostname()} {start_time(pid)}")
    lock.flush()


def lock_owner(path: Path) -> LockOwner | None:
    """The owner that a lock file names; None where there is none or it is damaged."""
    try:
        with os.fdopen(open_without_links(path, os.O_RDONLY)) as file:
            words = file.read(1024).split()
    except (OSError, ValueError):
        return None
    known = len(words) == 3 and words[0].isdigit() and 1 < int(words[0]) < 1 << 31
    return LockOwner(int(words[0]), words[1], words[2]) if known else None


def signal_owner(path: Path, number: int) -> bool:
    """Send a signal to the process that holds a lock, when it is verifiably the one that the lock file names;
    whether it was sent."""
    owner = lock_owner(path)
    if owner is None or not is_locked(path.parent) or not owner.is_running_here:
        return False
    with suppress(OSError):
        os.kill(owner.pid, number)
    return True


# --------------------------------------------------------------------------- what tries cost


def record_attempt(attempt: Attempt, began: float, code: int, environment: Mapping[str, str]) -> None:
    """Write a try down. threads and devices: what it held for so many seconds."""
    given = {**os.environ, **environment}
    row = {
        "began": round(began, 3), "seconds": round(time.time() - began, 3), "exit": code,
        "executor": attempt.where, "machine": socket.gethostname(), "job": given.get("SLURM_JOB_ID"),
        "restarts": int(given.get("SLURM_RESTART_COUNT") or 0),
        "threads": _threads(given),
        "devices": len([one for one in given.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]),
    }  # fmt: skip
    path = attempt.home / ATTEMPTS_FILE
    with os.fdopen(open_without_links(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a") as file:
        file.write(json.dumps(row) + "\n")


def _threads(environment: Mapping[str, str]) -> int:
    """Threads of an attempt: the first of OMP_NUM_THREADS, which may list a number for each nesting level."""
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        first = environment.get(name, "").partition(",")[0].strip()
        if first.isdigit() and int(first):
            return int(first)
    return 1


def read_attempts(home: Path) -> list[dict[str, Any]]:
    """Every attempt at the node that could write how it ended; lines that are no attempt are left out."""
    try:
        lines = (home / ATTEMPTS_FILE).read_bytes().splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and all(_is_count(row.get(k)) for k in NUMBERS)]


#: Numbers of an attempt that readers rely on.
NUMBERS = ("seconds", "exit", "threads", "devices")


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
