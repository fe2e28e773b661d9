"""What is known of a source of many shards together, so that opening it opens none of them.

`scalevit data index` writes it: one JSON line (`Facts`, padded to a multiple of 64 bytes), where each shard's
samples start and end (uint64), a hash of each shard's stamp (uint64), and the shards' paths. It lies inside a
folder of shards, and in the cache for patterns and what is remote or not ours to write.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from scalevit.artifacts.remote import FileVersion, file_version, is_remote
from scalevit.data.index.cache import LRUCache
from scalevit.data.index.read import Header, ShardIndex, cache_path, open_index, write_arrays

SUFFIX = ".scalevit-catalogue"
_MAGIC = "scalevit catalogue 1"
#: Indexes of shards that stay open.
_OPEN = 4096
_LOOKED_AT = 4096


@dataclass(frozen=True)
class DatasetSummary:
    """What holds for all shards. classes: one more than the largest label. measured: whether each has its
    index."""

    form: str
    shards: int
    classes: int
    unlabelled: int
    multi: bool
    measured: bool
    names: tuple[str, ...]
    magic: str = _MAGIC


def summarise(headers: Sequence[Header]) -> DatasetSummary:
    """The facts of some shards. Raises ValueError where their classes have other names: a number would mean
    another class."""
    odd = next((header for header in headers if header.names != headers[0].names), None)
    if odd is not None:
        raise ValueError(f"{odd.path}: its classes have other names than those of {headers[0].path}")
    return DatasetSummary(
        form=headers[0].form,
        shards=len(headers),
        classes=max(header.classes for header in headers),
        unlabelled=sum(header.unlabelled for header in headers),
        multi=any(header.multi for header in headers),
        measured=all(header.measured for header in headers),
        names=headers[0].names,
    )


def shard_offsets(headers: Sequence[Header]) -> np.ndarray:
    """The number of each shard's first sample, and the total."""
    return np.cumsum([0, *(header.samples for header in headers)])


class LazyShards:
    """Indexes of shards by number, opened when they are asked for. Raises ValueError for a shard that changed
    since."""

    def __init__(self, form: str, paths: list[str], starts: np.ndarray) -> None:
        self.form, self.paths, self.starts = form, paths, starts
        self._open, self._seen = LRUCache(_OPEN), bytearray(len(paths))

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[ShardIndex]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> ShardIndex:
        return self._open.get(number, lambda: self._opened(number))

    def _opened(self, number: int) -> ShardIndex:
        path = self.paths[number]
        index = open_index(path, self.form, None if self._seen[number] else file_version(path))
        samples = int(self.starts[number + 1] - self.starts[number])
        if index is None or index.header.samples != samples:
            raise ValueError(f"{path} has another index than before; run scalevit data index for the source")
        self._seen[number] = 1
        return index


def manifest_path(source: str) -> Path:
    """Where the catalogue of a source lies."""
    if not is_remote(source) and Path(source).is_dir() and os.access(source, os.W_OK):
        return Path(source) / SUFFIX
    return cache_path(source, SUFFIX)


def write_manifest(source: str, paths: list[str], headers: Sequence[Header]) -> None:
    """Put the catalogue of a source's shards there, whole or not at all; a single shard needs none."""
    target = manifest_path(source)
    if len(paths) == 1:
        target.unlink(missing_ok=True)
        return
    stamps = np.array([_hashed(FileVersion(header.size, header.changed)) for header in headers], np.uint64)
    starts = shard_offsets(headers).astype("<u8")
    text = "\n".join(_below(source, paths)).encode("utf-8", "surrogateescape")
    write_arrays(
        target, asdict(summarise(headers)), (starts, stamps.astype("<u8"), np.frombuffer(text, np.uint8))
    )


def read_manifest(source: str, paths: list[str]) -> tuple[DatasetSummary, LazyShards] | None:
    """The catalogue of a source whose shards are these; None when there is none, when it is of other shards,
    or of some that changed since: of those on a disk _LOOKED_AT at most are looked at, others when they are
    opened."""
    try:
        with manifest_path(source).open("rb") as file:
            line = file.readline()
            rest = np.memmap(file, np.uint8, mode="r")[len(line) :]
        facts = json.loads(line)
        facts = DatasetSummary(**{**facts, "names": tuple(facts["names"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    middle, end = 8 * (facts.shards + 1), 8 * (2 * facts.shards + 1)
    text = rest[end:].tobytes()
    if facts.magic != _MAGIC or text.decode("utf-8", "surrogateescape").split("\n") != _below(source, paths):
        return None
    stamps = rest[middle:end].view("<u8")
    for number in range(0, 0 if is_remote(source) else len(paths), len(paths) // _LOOKED_AT + 1):
        if _hashed(file_version(paths[number])) != int(stamps[number]):
            return None
    return facts, LazyShards(facts.form, paths, rest[:middle].view("<i8"))


def _below(source: str, paths: list[str]) -> list[str]:
    """A folder's shards by their names: it may be moved."""
    return [path.removeprefix(source.rstrip("/") + "/") for path in paths]


def _hashed(what: FileVersion) -> int:
    return int.from_bytes(
        hashlib.blake2b(f"{what.size} {what.changed}".encode(), digest_size=8).digest(), "little"
    )
