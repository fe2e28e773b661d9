"""Hashing writer: a file that counts and hashes (SHA-256) what is written, for a checkpoint's manifest."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class WrittenFile:
    """A file on disk with its size in bytes and its SHA-256."""

    file: str
    bytes: int
    sha256: str


def no_progress() -> None:
    """Progress that nobody waits for."""


class HashingWriter:
    """A file that hashes (SHA-256) and counts what is written to it, and reports progress at each write."""

    def __init__(self, file: Any, progress: Callable[[], None]) -> None:
        self.file, self.sha256, self.bytes, self.progress = file, hashlib.sha256(), 0, progress
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.bytes += memoryview(data).nbytes
        self.progress()
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def fsync_open_file(file: Any) -> None:
    """Write through to the disk, where there is one: a store has the content when the file is closed."""
    file.flush()
    with contextlib.suppress(io.UnsupportedOperation):
        os.fsync(file.fileno())
