"""Atomic file writes: a reader finds the old content or the new one, also after a crash or a power cut.

The content goes into a temporary file beside the target, is synced to the disk, and is renamed onto the
target; then the folder is synced, so that the rename survives, too. The temporary file has an unpredictable
name and is created exclusively: nothing is written through a link that somebody else put there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

#: Prefix of temporary files; a process that was killed may leave one behind.
TEMPORARY_PREFIX = ".scalevit-"
#: What file systems answer that cannot sync a folder.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Temporary path for code that needs a file name to write to; it becomes `path` when the block ends
    without an error and is removed otherwise. Creates missing folders. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{path.suffix}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        fsync_file(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Binary file that becomes `path` when the block ends without an error. Raises OSError."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


def atomic_write_text(path: Path, text: str) -> None:
    """Replace a file's content by `text` (UTF-8) atomically. Raises OSError."""
    with atomic_write(path) as file:
        file.write(text.encode())


def atomic_write_bytes(path: Path, data: Any) -> None:
    """Replace a file's content by `data` atomically. Raises OSError."""
    with atomic_write(path) as file:
        file.write(data)


def fsync_file(path: Path) -> None:
    """Write a file's content through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Write a folder's list of names through to the disk, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Write the files of a folder, its subfolders and its names through to the disk."""
    for path in folder.iterdir():
        (fsync_tree if path.is_dir() else fsync_file)(path)
    fsync_folder(folder)
