"""Bytes from wherever they lie: a local path, http(s), or any address that fsspec knows.

Every read is retried with growing pauses; when it fails for good, the error says which address and why.
"""

from __future__ import annotations

import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from scalevit.artifacts.remote import filesystem, short

#: Pauses in seconds between the tries of a remote read.
PAUSES = (0.25, 1.0, 4.0)
TIMEOUT = 30
#: Where fsspec's clients say which version of a file there is.
_CHANGED = ("ETag", "etag", "blob_id", "LastModified", "mtime")
T = TypeVar("T")


class Away(ValueError):
    """A store did not answer, however often it was asked: later it may."""


class Stamp(NamedTuple):
    """What a file is known by: its size and when, or as what, it was last changed."""

    size: int
    changed: str


def is_remote(path: str) -> bool:
    return "://" in path


def stamp(path: str) -> Stamp:
    """Size and time of change of a file; raises ValueError when there is none."""
    if not is_remote(path):
        try:
            facts = os.stat(path)  # noqa: PTH116  (a source may have many shards)
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        return Stamp(facts.st_size, str(facts.st_mtime_ns))
    return _insist(path, lambda: _remote_stamp(path))


def read(path: str, start: int, length: int) -> bytes:
    """`length` bytes from `start`; fewer only where the file ends. Raises ValueError naming the path."""
    if is_remote(path):
        return _insist(path, lambda: _remote_read(path, start, length))
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            return os.pread(file, length, start)
        finally:
            os.close(file)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


def expand(pattern: str) -> list[str]:
    """The files of a pattern with {000..127} and, where a listing is possible, * and ?; sorted."""
    numbers = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if numbers:
        first, last = numbers.groups()
        head, tail = pattern[: numbers.start()], pattern[numbers.end() :]
        every = range(int(first), int(last) + 1)
        return [path for one in every for path in expand(f"{head}{one:0{len(first)}d}{tail}")]
    if not set(pattern) & set("*?["):
        return [pattern]
    if is_remote(pattern):
        found = _insist(pattern, lambda: _glob(pattern))
    else:
        parent = Path(pattern).parent
        found = [str(path) for path in parent.glob(Path(pattern).name)]
    if not found:
        raise ValueError(f"{pattern}: no file matches")
    return sorted(found)


def _insist(path: str, attempt: Callable[[], T]) -> T:
    for pause in (*PAUSES, None):
        try:
            return attempt()
        except Exception as error:  # each of fsspec's backends raises its own kinds
            hopeless = _hopeless(error)
            if hopeless or pause is None:
                if hopeless:
                    raise ValueError(f"{path}: {hopeless}") from None
                raise Away(f"{path}: {short(error)} after {len(PAUSES) + 1} tries") from None
            time.sleep(pause)
    raise AssertionError


def _hopeless(error: Exception) -> str:
    """Why trying again is of no use; empty when it may be."""
    code = _status(error)
    if code in (401, 403) or isinstance(error, PermissionError) or "credential" in str(error).lower():
        return "access refused; give credentials, or make it public"
    if code == 404 or isinstance(error, FileNotFoundError):
        return "there is no such file"
    return str(error) if isinstance(error, ValueError | ImportError) else ""


def _status(error: Exception) -> int | None:
    """The HTTP status that an error tells of, as urllib, aiohttp and huggingface_hub keep it."""
    answer = getattr(error, "response", None)
    found = (
        getattr(error, "code", None),
        getattr(error, "status", None),
        getattr(answer, "status_code", None),
    )
    return next((code for code in found if isinstance(code, int)), None)


def _remote_stamp(path: str) -> Stamp:
    if path.startswith(("http://", "https://")):
        with urllib.request.urlopen(urllib.request.Request(path, method="HEAD"), timeout=TIMEOUT) as answer:
            changed = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            return Stamp(int(answer.headers["Content-Length"]), changed)
    facts = _filesystem(path).info(path)
    changed = next((str(facts[k]) for k in _CHANGED if facts.get(k)), "")
    return Stamp(int(facts["size"]), changed)


def _remote_read(path: str, start: int, length: int) -> bytes:
    if path.startswith(("http://", "https://")):
        return _http_read(path, start, length)
    return _filesystem(path).cat_file(path, start=start, end=start + length)


def _http_read(path: str, start: int, length: int) -> bytes:
    if length == 0:
        return b""
    request = urllib.request.Request(path, headers={"Range": f"bytes={start}-{start + length - 1}"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            if answer.status != 206 and start:
                raise ValueError("the server ignores ranges; samples cannot be read one by one")
            data = answer.read(length)
            expected = min(length, int(answer.headers.get("Content-Length") or length))
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return b""
        raise
    if len(data) < expected:
        raise ConnectionError("the connection ended early")
    return data


def _glob(pattern: str) -> list[str]:
    filesystem = _filesystem(pattern)
    return [str(filesystem.unstrip_protocol(path)) for path in filesystem.glob(pattern)]


def _filesystem(path: str):
    return filesystem(path.split("://")[0])
