"""Manifest of a source of many shards: facts of all together, so that opening it opens none of them.

`scalevit data index` writes it: one JSON line (`DatasetSummary`, padded to a multiple of 64 bytes), where
each shard's samples start and end (uint64), a hash of each shard's version (uint64), and the shards' paths.
It lies inside a folder of shards, and in the cache for patterns and what is remote or not ours to write.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scalevit.artifacts.remote import FileVersion, file_version, is_remote
from scalevit.data.class_names import order_class_names
from scalevit.data.index.cache import LRUCache
from scalevit.data.index.content import join_hashes
from scalevit.data.index.read import Header, ShardIndex, cache_path, open_index, write_arrays
from scalevit.data.left_out import LeftOut
from scalevit.data.options import DEFAULTS, ListingOptions
from scalevit.data.splits import named_splits

SUFFIX = ".scalevit-manifest"
_MAGIC = "scalevit manifest 2"
#: Indexes of shards that stay open.
_OPEN = 4096
_LOOKED_AT = 4096
#: Most bytes of the line of facts.
_MOST_FACTS = 1 << 27


@dataclass(frozen=True)
class DatasetSummary:
    """Facts of all shards. classes: one more than the largest label. measured: whether each has its
    index. names: of the classes, where they have any. splits: those that rows name. labels_hash: see
    content.py. left_out: as LeftOut.as_dict. options: as ListingOptions.as_dict."""

    form: str
    shards: int
    classes: int
    unlabelled: int
    multi: bool
    measured: bool
    names: tuple[str, ...]
    splits: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    labels_hash: int = 0
    left_out: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    magic: str = _MAGIC


def summarise(headers: Sequence[Header]) -> DatasetSummary:
    """The facts of some shards. Classes of shards with other names are joined by name. Raises ValueError
    where some shards name their classes, and others number them."""
    first = headers[0]
    named = [header for header in headers if header.names]
    odd = next((header for header in headers if header.classes and not header.names), None)
    if named and odd is not None:
        raise ValueError(f"{odd.path} numbers its classes, {named[0].path} names them")
    names = first.names
    if any(header.names != names for header in named):
        names = order_class_names(name for header in named for name in header.names)
    counts = [header.samples for header in headers]
    return DatasetSummary(
        form=first.form,
        shards=len(headers),
        classes=max(len(names), *(header.classes for header in headers)) if not named else len(names),
        unlabelled=sum(header.unlabelled for header in headers),
        multi=any(header.multi for header in headers),
        measured=all(header.measured for header in headers),
        names=names or (named[0].names if named else ()),
        splits=named_splits(split for header in headers for split in header.splits),
        columns=first.columns,
        labels_hash=join_hashes([header.labels_hash for header in headers], counts),
        left_out=LeftOut().merge(LeftOut.of_dict(header.left_out) for header in headers).as_dict(),
        options=first.options,
    )


def shard_offsets(headers: Sequence[Header]) -> np.ndarray:
    """The number of each shard's first sample, and the total."""
    return np.cumsum([0, *(header.samples for header in headers)])


class LazyShards:
    """Indexes of shards by number, opened when they are asked for. Raises ValueError for a shard that changed
    since."""

    def __init__(
        self, form: str, paths: list[str], starts: np.ndarray, options: ListingOptions = DEFAULTS
    ) -> None:
        self.form, self.paths, self.starts, self.options = form, paths, starts, options
        self._open, self._seen = LRUCache(_OPEN), bytearray(len(paths))

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[ShardIndex]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> ShardIndex:
        return self._open.get(number, lambda: self._opened(number))

    def _opened(self, number: int) -> ShardIndex:
        path = self.paths[number]
        version = None if self._seen[number] else file_version(path)
        index = open_index(path, self.form, version, self.options)
        samples = int(self.starts[number + 1] - self.starts[number])
        if index is None or index.header.samples != samples:
            raise ValueError(f"{path} has another index than before; run scalevit data index for the source")
        self._seen[number] = 1
        return index


def manifest_path(source: str, split: str = "") -> Path:
    """Where the manifest of a source, or of one of its splits, lies."""
    suffix = f"{SUFFIX}-{split}" if split else SUFFIX
    if not is_remote(source) and Path(source).is_dir() and os.access(source, os.W_OK):
        return Path(source) / suffix
    return cache_path(source, suffix)


def write_manifest(source: str, paths: list[str], headers: Sequence[Header], split: str = "") -> None:
    """Put the manifest of a source's shards there, whole or not at all; a single shard needs none."""
    target = manifest_path(source, split)
    if len(paths) == 1:
        target.unlink(missing_ok=True)
        return
    stamps = np.array([_hashed(FileVersion(header.size, header.changed)) for header in headers], np.uint64)
    starts = shard_offsets(headers).astype("<u8")
    text = "\n".join(_below(source, paths)).encode("utf-8", "surrogateescape")
    write_arrays(
        target, asdict(summarise(headers)), (starts, stamps.astype("<u8"), np.frombuffer(text, np.uint8))
    )


def read_manifest(
    source: str, paths: list[str], options: ListingOptions = DEFAULTS, split: str = ""
) -> tuple[DatasetSummary, LazyShards] | None:
    """The manifest of a source whose shards are these; None when there is none, when it is of other shards or
    options, or of some that changed since: of those on a disk _LOOKED_AT at most are looked at, others when
    they are opened."""
    try:
        with manifest_path(source, split).open("rb") as file:
            line = file.readline(_MOST_FACTS)
            rest = np.memmap(file, np.uint8, mode="r")[len(line) :]
        facts = json.loads(line)
        lists = {name: tuple(map(str, facts[name])) for name in ("names", "splits", "columns")}
        facts = DatasetSummary(**{**facts, **lists})
        LeftOut.of_dict(facts.left_out)
        middle, end = 8 * (facts.shards + 1), 8 * (2 * facts.shards + 1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    text = rest[end:].tobytes()
    same = facts.magic == _MAGIC and facts.shards == len(paths) and facts.options == options.as_dict()
    if not same or text.decode("utf-8", "surrogateescape").split("\n") != _below(source, paths):
        return None
    stamps = rest[middle:end].view("<u8")
    for number in range(0, 0 if is_remote(source) else len(paths), len(paths) // _LOOKED_AT + 1):
        if _hashed(file_version(paths[number])) != int(stamps[number]):
            return None
    return facts, LazyShards(facts.form, paths, rest[:middle].view("<i8"), options)


def _below(source: str, paths: list[str]) -> list[str]:
    """A folder's shards by their names: it may be moved."""
    return [path.removeprefix(source.rstrip("/") + "/") for path in paths]


def _hashed(what: FileVersion) -> int:
    return int.from_bytes(
        hashlib.blake2b(f"{what.size} {what.changed}".encode(), digest_size=8).digest(), "little"
    )
