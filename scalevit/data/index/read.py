"""What is known of every sample without reading it: 40 bytes each, memory-mapped beside the shard.

A sidecar is one JSON line (`Header`, padded to a multiple of 64 bytes), then the records, then what does not
fit a record: the labels of samples that have several (uint32), and the file names of a folder, compressed.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from scalevit.artifacts.atomic_write import atomic_write
from scalevit.artifacts.cache_folder import cache_location
from scalevit.artifacts.remote import FileVersion, file_version, is_remote

#: offset, length: bytes of the image in a tar; of a table, offset is the row group and `row` the row in it.
#: label: the class, or where the labels start when `labels` (how many there are) is not 1.
#: phash, checksum (CRC-32), width, height: 0 until measured.
RECORD = np.dtype(
    [
        ("offset", "<u8"), ("phash", "<u8"), ("length", "<u4"), ("label", "<u4"), ("checksum", "<u4"),
        ("row", "<u4"), ("labels", "<u2"), ("width", "<u2"), ("height", "<u2"), ("flags", "<u2"),
    ]
)  # fmt: skip
MEASURED, BROKEN, UNLABELLED = 1, 2, 4
SUFFIX = ".scalevit-index"
#: The third version: names were not compressed before.
_MAGIC = "scalevit index 3"
#: File names that are compressed together, and unpacked to find one of them.
_TOGETHER = 128


@dataclass(frozen=True)
class Header:
    """What holds for a whole shard. classes: one more than its largest label. names: of the classes."""

    form: str
    path: str
    size: int
    changed: str
    samples: int = 0
    extra_labels: int = 0
    classes: int = 0
    unlabelled: int = 0
    multi: bool = False
    measured: bool = False
    names: tuple[str, ...] = ()
    magic: str = _MAGIC


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one shard: `records` (RECORD), `labels` of those that have several, `text`: packed names
    of files."""

    header: Header
    records: np.ndarray
    labels: np.ndarray
    text: np.ndarray

    def labels_of(self, number: int) -> np.ndarray:
        """Classes of one sample: none, one or several."""
        record = self.records[number]
        count, first = int(record["labels"]), int(record["label"])
        return np.array([first]) if count == 1 else self.labels[first : first + count].astype(np.int64)

    def is_labelled(self, number: int) -> bool:
        """Whether it is known which classes a sample has; they may be none."""
        return not int(self.records[number]["flags"]) & UNLABELLED

    def text_of(self, number: int) -> str:
        """The file name of one sample of a folder."""
        block, place = divmod(number, _TOGETHER)
        start, stop = np.frombuffer(self.text[8 * block : 8 * block + 16].tobytes(), "<u8").tolist()
        return zlib.decompress(self.text[start:stop].tobytes()).split(b"\0")[place].decode(*_AS_BYTES)


#: Names are any bytes but zero.
_AS_BYTES = ("utf-8", "surrogateescape")


def _packed(names: list[str]) -> bytes:
    """Where each block begins and the last one ends (uint64), and the blocks."""
    parts = [names[start : start + _TOGETHER] for start in range(0, len(names), _TOGETHER)]
    blocks = [zlib.compress("\0".join(part).encode(*_AS_BYTES), 9) for part in parts]
    ends = 8 * (len(blocks) + 1) + np.cumsum([0, *map(len, blocks)])
    return ends.astype("<u8").tobytes() + b"".join(blocks)


@dataclass
class Builder:
    """Collects the samples of one shard into an index."""

    header: Header
    rows: list[tuple[int, ...]] = field(default_factory=list)
    extra: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    largest: int = -1
    unlabelled: int = 0
    multi: bool = False

    def add(
        self, offset: int, length: int, labels: Sequence[int] | None, *, row: int = 0, name: str = ""
    ) -> None:
        """One more sample; labels: None where they are not known. Raises ValueError for labels that are no
        class numbers."""
        known = () if labels is None else labels
        if any(not 0 <= label < 2**31 for label in known):
            raise ValueError(f"{self.header.path}: a label is out of range: {list(known)[:5]}")
        if len(known) > 65535:
            raise ValueError(f"{self.header.path}: a sample has {len(known)} labels, at most 65535 fit")
        first = known[0] if len(known) == 1 else len(self.extra)
        if len(known) > 1:
            self.extra.extend(known)
        self.multi |= labels is not None and len(known) != 1
        if name:
            self.names.append(name)
        self.unlabelled += labels is None
        self.largest = max(self.largest, *known, -1)
        self.rows.append((offset, length, first, row, len(known), UNLABELLED if labels is None else 0))

    def done(self) -> ShardIndex:
        """The index of all that was added."""
        records = np.zeros(len(self.rows), RECORD)
        if self.rows:
            columns = np.array(self.rows, np.uint64).T
            for name, column in zip(("offset", "length", "label", "row", "labels", "flags"), columns):
                records[name] = column
        header = replace(
            self.header, samples=len(self.rows), extra_labels=len(self.extra), unlabelled=self.unlabelled,
            multi=self.multi, classes=max(self.largest + 1, len(self.header.names)),
        )  # fmt: skip
        text = np.frombuffer(_packed(self.names), np.uint8)
        return ShardIndex(header, records, np.array(self.extra, np.uint32), text)


def index_path(path: str, form: str) -> Path:
    """Where the index of a shard lies: beside it, in a folder's case inside it; for what is remote or not
    ours to write, in the cache folder."""
    if not is_remote(path):
        beside = Path(path) / SUFFIX if form == "folder" else Path(path + SUFFIX)
        if beside.exists() or os.access(beside.parent, os.W_OK):
            return beside
    return cache_path(path, SUFFIX)


def cache_path(path: str, suffix: str) -> Path:
    """Where what is known of a path or address lies when it cannot lie there."""
    name = path if is_remote(path) else str(Path(path).resolve())
    return cache_location() / (hashlib.sha256(name.encode()).hexdigest()[:24] + suffix)


def write_index(index: ShardIndex, target: Path) -> None:
    """Put the index there, whole or not at all."""
    write_arrays(target, asdict(index.header), (index.records, index.labels, index.text))


def write_arrays(target: Path, facts: dict[str, Any], blocks: Sequence[np.ndarray]) -> None:
    """Put facts, as a line of JSON, and arrays into a file, whole or not at all."""
    line = json.dumps(facts).encode()
    with atomic_write(target) as file:
        file.write(line.ljust(-(-(len(line) + 1) // 64) * 64 - 1) + b"\n")
        for block in blocks:
            file.write(block.tobytes())


def read_index(target: Path) -> ShardIndex:
    """An index, mapped: what is not looked at is not read. Raises ValueError when it is none, of another
    version, or cut."""
    with target.open("rb") as file:
        line = file.readline()
    header = _header(line, target)
    whole = np.memmap(target, np.uint8, mode="r")
    start = len(line)
    middle = start + header.samples * RECORD.itemsize
    end = middle + 4 * header.extra_labels
    if len(whole) < end:
        raise ValueError(f"{target} is cut; run scalevit data index {header.path}")
    return ShardIndex(header, whole[start:middle].view(RECORD), whole[middle:end].view("<u4"), whole[end:])


def _header(line: bytes, target: Path) -> Header:
    try:
        facts = json.loads(line)
        if facts["magic"] == _MAGIC:
            return Header(**{**facts, "names": tuple(facts["names"])})
        path = facts["path"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{target} is no index; remove it and run scalevit data index again") from None
    raise ValueError(f"{target} is of another version of scalevit; run scalevit data index {path}")


def open_index(path: str, form: str, now: FileVersion | None) -> ShardIndex | None:
    """The index beside a shard, None when there is none; ValueError when the shard, as it is `now`, changed
    after it."""
    target = index_path(path, form)
    if not target.exists():
        return None
    index = read_index(target)
    if now and (index.header.size, index.header.changed) != tuple(now):
        raise ValueError(f"{path} changed after it was indexed; run scalevit data index {path}")
    return replace(index, header=replace(index.header, path=path))  # a shard may have moved with its index


def shard_stamp(path: str, form: str) -> FileVersion:
    """What the shard is known by; a folder by what lies in it, how much, and the latest change of a class's
    listing."""
    if form != "folder":
        return file_version(path)
    items = [item for item in os.scandir(path) if item.name[0] != "."]
    times = [item.stat().st_mtime_ns for item in items if item.is_dir()]
    return FileVersion(len(items), str(max(times, default=0)))
