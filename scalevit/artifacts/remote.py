"""A place at a store that fsspec knows, with the few words of pathlib that checkpoints need.

Whatever a store's client raises comes out as OSError, as a disk's would.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

#: fsspec's protocols that need a package of their own, and which.
PACKAGES = {
    "s3": "scalevit[remote]",
    "s3a": "scalevit[remote]",
    "gs": "scalevit[remote]",
    "gcs": "scalevit[remote]",
    "hf": "huggingface-hub",
    "abfs": "adlfs",
}


@lru_cache(maxsize=16)
def filesystem(protocol: str) -> Any:
    """fsspec's client of a protocol. Raises ValueError with what to install where it is missing."""
    import fsspec

    try:
        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        package = PACKAGES.get(protocol)
        hint = f'pip install "{package}"' if package else "see fsspec's list of protocols"
        raise ValueError(f"{protocol}:// cannot be used here ({short(error)}); {hint}") from None


def short(error: Exception) -> str:
    """An error in one line."""
    reason = getattr(error, "reason", None) or error
    return (" ".join(str(reason).split()) or type(error).__name__)[:160]


@dataclass(frozen=True)
class Address:
    """protocol://…, without a slash at its end."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Address:
        return Address(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> Address:
        return Address(self.url.rpartition("/")[0])

    @contextlib.contextmanager
    def open(self, mode: str = "rb") -> Iterator[IO[bytes]]:
        """A file; what is written is there when this ends, and not before."""
        with self._told() as store, store.open(self.url, mode) as file:
            yield file

    def read_text(self) -> str:
        with self.open() as file:
            return file.read().decode()

    def write_text(self, text: str) -> None:
        with self.open("wb") as file:
            file.write(text.encode())

    def size(self) -> int | None:
        """Bytes of a file, None where there is none."""
        with self._told() as store:
            try:
                found = store.info(self.url)
            except FileNotFoundError:
                return None
            return None if found["type"] == "directory" else int(found["size"])

    def iterdir(self) -> Iterator[Address]:
        """What lies in a folder; nothing where there is none."""
        with self._told() as store:
            try:
                names = store.ls(self.url, detail=False)
            except FileNotFoundError:
                names = []
        yield from (self / str(name).rstrip("/").rpartition("/")[2] for name in names)

    def remove(self) -> None:
        """Remove a file, or a folder with all that is in it; nothing where there is none."""
        with self._told() as store, contextlib.suppress(FileNotFoundError):
            store.rm(self.url, recursive=True)

    @contextlib.contextmanager
    def _told(self) -> Iterator[Any]:
        store = filesystem(self.url.partition("://")[0])
        store.invalidate_cache()  # others write, too
        try:
            yield store
        except (OSError, AssertionError, GeneratorExit):
            raise
        except Exception as error:  # each of fsspec's clients raises its own kinds
            raise OSError(f"{self.url}: {short(error)}") from error


#: Where checkpoints lie.
Folder = Path | Address


def folder_of(text: str) -> Folder:
    """A path, or an address where there is a protocol; file:// is a path, whose folders can be renamed."""
    text = text.removeprefix("file://")
    return Address(text.rstrip("/")) if "://" in text else Path(text)
