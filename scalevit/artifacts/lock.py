"""File lock of a folder: one process at a time writes there, and others can ask without disturbing it.

Where the file system has locks, an open-file-description lock on the lock file is held, which goes with the
process however that ends, and which `is_locked` queries without taking it or creating a file. Where it has
none (Lustre without -o flock, some NFS), a file names the owner by host, process and start time, and is
touched every `HEARTBEAT` seconds; an owner that is dead, or whose file has not been touched for `STALE`
seconds, has lost the lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: Seconds between two touches of an owner's file, and after which it is stale.
HEARTBEAT, STALE = 10.0, 45.0
#: What file systems answer that have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.EIO)
_BUSY = (errno.EAGAIN, errno.EACCES)
#: struct flock of Linux: type, whence, start, length, process.
_FLOCK = "hhqqi4x"
_LARGEST_OWNER = 4096


class LockedError(ValueError):
    """Another process holds the lock."""


def describe_process() -> dict[str, Any]:
    """Host, process id and start time of this process, which together tell it from any other."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": process_start(os.getpid())}


def process_start(pid: int) -> str | None:
    """Start time of a process of this machine in clock ticks since its boot; None when there is none, or the
    system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError, ValueError):
        return None


def is_alive(process: dict[str, Any]) -> bool | None:
    """Whether a process that `describe_process` described still runs; None when it is of another machine."""
    if process.get("host") != socket.gethostname():
        return None
    pid, started = process.get("pid"), process.get("started")
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return started is None or process_start(pid) in (None, started)


@contextlib.contextmanager
def lock(path: Path, warn: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Hold the lock `path`, whose folder exists. warn: is told when the file system has no locks.

    Raises LockedError when another process holds the lock, OSError when the file cannot be created."""
    try:
        descriptor = _open_locked(path)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warn(
            f"{path.parent}: this file system has no locks ({error.strerror}); an owner file is used instead"
        )
        with _owner_file(path.with_name(path.name + ".owner")):
            yield
        return
    try:
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock `path`; takes no lock and creates no file."""
    owner = path.with_name(path.name + ".owner")
    return _is_held(path) or (owner.is_file() and not _is_stale(owner, wait=False))


# --------------------------------------------------------------------------- locks of the file system


def _open_locked(path: Path) -> int:
    """A descriptor of the lock file with its lock."""
    for _ in range(100):
        descriptor = _open(path)
        try:
            _set_lock(descriptor)
            if _is_same_file(descriptor, path):
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno in _BUSY:
                raise LockedError(f"{path.parent}: another process is working in this folder") from None
            raise
        os.close(descriptor)  # somebody replaced the file in between
    raise LockedError(f"{path.parent}: its lock {path.name} is replaced again and again")


def _open(path: Path) -> int:
    """The lock file, created when missing. One that another user left behind is replaced, unless it is held:
    whoever may write into the folder may lock it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o666)
    except PermissionError:
        if _is_held(path):
            raise LockedError(f"{path.parent}: another process is working in this folder") from None
        path.unlink()
        return os.open(path, flags, 0o666)


def _set_lock(descriptor: int) -> None:
    request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_held(path: Path) -> bool:
    """Whether another open file description holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, request)
        return struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK
    except OSError:
        return False
    finally:
        os.close(descriptor)


# --------------------------------------------------------------------------- owner files


@contextlib.contextmanager
def _owner_file(path: Path) -> Iterator[None]:
    """Own `path`: it exists with this process's description, and a thread touches it."""
    token = secrets.token_hex(8)
    text = json.dumps({**describe_process(), "token": token})
    _create_owner(path, text)
    done = threading.Event()

    def touch() -> None:
        while not done.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=touch, name="scalevit-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(OSError):
            if _read_owner(path).get("token") == token:
                path.unlink()


def _create_owner(path: Path, text: str) -> None:
    """Create the owner's file, after taking a stale one away."""
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        except FileExistsError:
            if not _is_stale(path, wait=True):
                owner = _read_owner(path)
                who = f"process {owner.get('pid')} on {owner.get('host')}"
                raise LockedError(f"{path.parent}: {who} is working in this folder") from None
            _take_away(path)
            continue
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        return


def _take_away(path: Path) -> None:
    """Remove a stale owner's file. It is renamed first and looked at again: a file that a quicker process has
    put there meanwhile is put back."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):
        before = path.stat()
        path.rename(aside)
        if not os.path.samestat(before, aside.stat()):
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _read_owner(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            owner = json.loads(file.read(_LARGEST_OWNER))
    except (OSError, ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_stale(path: Path, wait: bool) -> bool:
    """Whether the owner is dead. One of another machine is when its file is not touched for STALE seconds: by
    this machine's watch with `wait`, which no wrong clock can mislead, otherwise by the file's age."""
    alive = is_alive(_read_owner(path))
    if alive is not None:
        return not alive
    try:
        before = path.stat().st_mtime_ns
        if not wait:
            return abs(time.time() - before / 1e9) > STALE
        end = time.monotonic() + STALE
        while time.monotonic() < end:
            time.sleep(min(1.0, STALE / 10))
            if path.stat().st_mtime_ns != before:
                return False
    except FileNotFoundError:
        return True
    return True
