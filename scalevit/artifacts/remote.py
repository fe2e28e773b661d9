"""Remote stores (s3://, gs://, hf://, http://, …) through fsspec: ranged reads with retries, and paths.

`read_range` and `file_version` read data of any local or remote path and retry with growing pauses.
`RemotePath` has the methods of pathlib.Path that checkpoints need. A store that does not answer raises
`StoreUnavailable`; a file that does not exist or may not be read raises ValueError.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

#: fsspec's protocols that need a package of their own, and which.
PACKAGES = {
    "s3": "scalevit[remote]",
    "s3a": "scalevit[remote]",
    "gs": "scalevit[remote]",
    "gcs": "scalevit[remote]",
    "hf": "huggingface-hub",
    "abfs": "adlfs",
}
#: A pattern such as {000..127} of more files is refused.
MOST_FILES = 1_000_000
#: Pauses in seconds between the tries of a remote read.
RETRY_PAUSES = (0.25, 1.0, 4.0)
#: Seconds after which an HTTP request has failed.
TIMEOUT = 30
#: Where fsspec's clients say which version of a file there is.
_VERSION_KEYS = ("ETag", "etag", "blob_id", "LastModified", "mtime")
#: Errors of fsspec's clients that found no credentials.
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
T = TypeVar("T")


class StoreUnavailable(OSError):
    """A remote store did not answer after all retries. The same command may succeed later (exit status 3)."""


class FileVersion(NamedTuple):
    """Version of a file: its size in bytes, and its ETag or time of modification."""

    size: int
    changed: str


@lru_cache(maxsize=16)
def filesystem(protocol: str) -> Any:
    """fsspec's client of a protocol. Raises ValueError with what to install where it is missing."""
    import fsspec

    try:
        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        package = PACKAGES.get(protocol)
        hint = f'pip install "{package}"' if package else "see fsspec's list of protocols"
        raise ValueError(f"{protocol}:// cannot be used here ({one_line_error(error)}); {hint}") from None


def one_line_error(error: Exception) -> str:
    """An error in one line."""
    reason = getattr(error, "reason", None) or error
    return (" ".join(str(reason).split()) or type(error).__name__)[:160]


@dataclass(frozen=True)
class RemotePath:
    """protocol://…, without a slash at its end."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        return RemotePath(self.url.rpartition("/")[0])

    @contextlib.contextmanager
    def open(self, mode: str = "rb") -> Iterator[IO[bytes]]:
        """A file; what is written is there when this ends, and not before."""
        with self._client() as store, store.open(self.url, mode) as file:
            yield file

    def read_text(self) -> str:
        with self.open() as file:
            return file.read().decode()

    def write_text(self, text: str) -> None:
        with self.open("wb") as file:
            file.write(text.encode())

    def size(self) -> int | None:
        """Bytes of a file, None where there is none."""
        with self._client() as store:
            try:
                info = store.info(self.url)
            except FileNotFoundError:
                return None
            return None if info["type"] == "directory" else int(info["size"])

    def iterdir(self) -> Iterator[RemotePath]:
        """Entries of a folder; none where there is no such folder."""
        with self._client() as store:
            try:
                names = store.ls(self.url, detail=False)
            except FileNotFoundError:
                names = []
        yield from (self / str(name).rstrip("/").rpartition("/")[2] for name in names)

    def remove(self) -> None:
        """Remove a file, or a folder with all that is in it; nothing where there is none."""
        with self._client() as store, contextlib.suppress(FileNotFoundError):
            store.rm(self.url, recursive=True)

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        store = filesystem(self.url.partition("://")[0])
        store.invalidate_cache()  # others write, too
        try:
            yield store
        except (OSError, AssertionError, GeneratorExit):
            raise
        except Exception as error:  # each of fsspec's clients raises its own kinds
            raise StoreUnavailable(f"{self.url}: {one_line_error(error)}") from error


#: Where checkpoints lie.
Folder = Path | RemotePath


def path_or_remote(text: str) -> Folder:
    """A path, or an address where there is a protocol; file:// is a path, whose folders can be renamed."""
    text = text.removeprefix("file://")
    return RemotePath(text.rstrip("/")) if "://" in text else Path(text)


# --------------------------------------------------------------------------- reading with retries


def is_remote(path: str) -> bool:
    return "://" in path


def file_version(path: str) -> FileVersion:
    """Size and time of change of a file; raises ValueError when there is none."""
    if not is_remote(path):
        try:
            facts = os.stat(path)  # noqa: PTH116  (a source may have many shards)
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        return FileVersion(facts.st_size, str(facts.st_mtime_ns))
    return _retry(path, lambda: _remote_stamp(path))


def read_range(path: str, start: int, length: int) -> bytes:
    """`length` bytes from `start`; fewer only where the file ends. Raises ValueError naming the path."""
    if is_remote(path):
        return _retry(path, lambda: _remote_read(path, start, length))
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            return os.pread(file, length, start)
        finally:
            os.close(file)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


def expand_glob(pattern: str) -> list[str]:
    """The files of a pattern with {000..127} and, where a listing is possible, * and ?; sorted."""
    numbers = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if numbers:
        first, last = numbers.groups()
        head, tail = pattern[: numbers.start()], pattern[numbers.end() :]
        every = range(int(first), int(last) + 1)
        if len(last) > 9 or len(every) > MOST_FILES:
            raise ValueError(f"{pattern}: more than {MOST_FILES} files")
        return [path for one in every for path in expand_glob(f"{head}{one:0{len(first)}d}{tail}")]
    if not set(pattern) & set("*?["):
        return [pattern]
    if is_remote(pattern):
        paths = _retry(pattern, lambda: _glob(pattern))
    else:
        parent = Path(pattern).parent
        paths = [str(path) for path in parent.glob(Path(pattern).name)]
    if not paths:
        raise ValueError(f"{pattern}: no file matches")
    return sorted(paths)


def _retry(path: str, attempt: Callable[[], T]) -> T:
    for pause in (*RETRY_PAUSES, None):
        try:
            return attempt()
        except Exception as error:  # each of fsspec's backends raises its own kinds
            hopeless = _permanent_failure(error)
            if hopeless or pause is None:
                if hopeless:
                    raise ValueError(f"{path}: {hopeless}") from None
                raise StoreUnavailable(
                    f"{path}: {one_line_error(error)} after {len(RETRY_PAUSES) + 1} tries"
                ) from None
            time.sleep(pause)
    raise AssertionError


def _permanent_failure(error: Exception) -> str:
    """Why a retry is of no use; empty when one may help."""
    code = _status(error)
    if code in (401, 403) or isinstance(error, PermissionError) or _lacks_credentials(error):
        return "access refused; give credentials, or make it public"
    if code == 404 or isinstance(error, FileNotFoundError):
        return "there is no such file"
    return str(error) if isinstance(error, ValueError | ImportError) else ""


def _lacks_credentials(error: BaseException | None) -> bool:
    """Whether a client, or what it met before, found no credentials at all. Credentials that cannot be
    fetched or refreshed just now are no reason to give up."""
    if error is None:
        return False
    return type(error).__name__ in _NO_CREDENTIALS or _lacks_credentials(error.__cause__ or error.__context__)


def _status(error: Exception) -> int | None:
    """The HTTP status that an error tells of, as urllib, aiohttp and huggingface_hub keep it."""
    answer = getattr(error, "response", None)
    codes = (
        getattr(error, "code", None),
        getattr(error, "status", None),
        getattr(answer, "status_code", None),
    )
    return next((code for code in codes if isinstance(code, int)), None)


def _remote_stamp(path: str) -> FileVersion:
    if path.startswith(("http://", "https://")):
        import urllib.request  # 20 ms that a start without remote data does not pay

        with urllib.request.urlopen(urllib.request.Request(path, method="HEAD"), timeout=TIMEOUT) as answer:
            changed = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            return FileVersion(int(answer.headers["Content-Length"]), changed)
    facts = _filesystem(path).info(path)
    changed = next((str(facts[k]) for k in _VERSION_KEYS if facts.get(k)), "")
    return FileVersion(int(facts["size"]), changed)


def _remote_read(path: str, start: int, length: int) -> bytes:
    if path.startswith(("http://", "https://")):
        return _http_read(path, start, length)
    return _filesystem(path).cat_file(path, start=start, end=start + length)


def _http_read(path: str, start: int, length: int) -> bytes:
    import urllib.error
    import urllib.request

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
