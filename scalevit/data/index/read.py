"""Index of a shard: what is known of every sample without reading it, 40 bytes each, memory-mapped.

A sidecar is one JSON line (`Header`, padded to a multiple of 64 bytes), then the records, then what does not
fit a record: the labels of samples that have several (uint32), and the names of files, compressed. An index
may come from a stranger: its facts are checked before they are used.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from scalevit.artifacts.atomic_write import atomic_write
from scalevit.artifacts.cache_folder import cache_location
from scalevit.artifacts.remote import FileVersion, file_version, is_remote
from scalevit.data.class_names import MAX_CLASSES, order_class_names
from scalevit.data.formats.image_files import is_system_name
from scalevit.data.index.content import hash_of_labels
from scalevit.data.left_out import LeftOut
from scalevit.data.options import DEFAULTS, ListingOptions
from scalevit.data.splits import SPLITS, named_splits

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
#: The flag of each split that a row can belong to.
SPLIT_FLAGS = {split: 8 << number for number, split in enumerate(SPLITS)}
SUFFIX = ".scalevit-index"
#: The fourth version: labels may be words, and what was left out is kept.
_MAGIC = "scalevit index 4"
#: Most bytes of the line of facts, and of the names that are compressed together.
_MOST_FACTS, _MOST_NAMES = 1 << 27, 1 << 22
#: File names that are compressed together, and unpacked to find one of them.
_TOGETHER = 128


@dataclass(frozen=True)
class Header:
    """Facts of a whole shard. classes: one more than its largest label. names: of the classes, in the order
    of their numbers. splits: those that its rows name. columns: of a table. labels_hash: see content.py.
    left_out: as LeftOut.as_dict. options: as ListingOptions.as_dict."""

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
    splits: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    labels_hash: int = 0
    left_out: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    magic: str = _MAGIC


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one shard: `records` (RECORD), `labels` of those that have several, `text`: packed names
    of files. boundary: the folder that files may lie in. rows: which samples of the shard these are, where
    they are not all."""

    header: Header
    records: np.ndarray
    labels: np.ndarray
    text: np.ndarray
    boundary: str = ""
    rows: np.ndarray | None = None

    def labels_of(self, number: int) -> np.ndarray:
        """Classes of one sample: none, one or several."""
        record = self.records[number]
        count, first = int(record["labels"]), int(record["label"])
        return np.array([first]) if count == 1 else self.labels[first : first + count].astype(np.int64)

    def is_labelled(self, number: int) -> bool:
        """Whether it is known which classes a sample has; they may be none."""
        return not int(self.records[number]["flags"]) & UNLABELLED

    def text_of(self, number: int) -> str:
        """The file name of one sample of a folder or list. Raises ValueError where the index is damaged."""
        number = number if self.rows is None else int(self.rows[number])
        block, place = divmod(number, _TOGETHER)
        try:
            start, stop = np.frombuffer(self.text[8 * block : 8 * block + 16].tobytes(), "<u8").tolist()
            names = zlib.decompressobj().decompress(self.text[start:stop].tobytes(), _MOST_NAMES)
            return names.split(b"\0")[place].decode(*_AS_BYTES)
        except (ValueError, IndexError, zlib.error):
            raise ValueError(f"the index of {self.header.path} is damaged; remove it") from None

    def label_list(self) -> np.ndarray:
        """Class numbers of all samples, one after another."""
        single = self.records["label"][self.records["labels"] == 1]
        if self.rows is None:
            return np.concatenate([single, self.labels]).astype(np.int64)
        several = np.flatnonzero(self.records["labels"] > 1).tolist()
        return np.concatenate([single, *map(self.labels_of, several)]).astype(np.int64)

    def of_split(self, split: str) -> ShardIndex:
        """Only the samples of one split."""
        rows = np.flatnonzero(self.records["flags"] & SPLIT_FLAGS[split])
        records = self.records[rows]
        unlabelled = int(((records["flags"] & UNLABELLED) > 0).sum())
        hashed = hash_of_labels(records, self.labels, self.header.names)
        header = replace(self.header, samples=len(rows), unlabelled=unlabelled, splits=(), labels_hash=hashed)
        return replace(self, header=header, records=records, rows=rows)


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
    words: dict[str, int] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)
    splits: set[str] = field(default_factory=set)
    unlabelled: int = 0
    multi: bool = False

    def add(
        self,
        offset: int,
        length: int,
        labels: Sequence[int | str] | None,
        *,
        row: int = 0,
        name: str = "",
        split: str = "",
    ) -> None:
        """One more sample. labels: numbers or names of its classes, None where they are not known. Raises
        ValueError for labels that are no class numbers."""
        known = () if labels is None else [self._number(label) for label in labels]
        if len(known) > 65535:
            raise ValueError(f"{self.header.path}: a sample has {len(known)} labels, at most 65535 fit")
        first = known[0] if len(known) == 1 else len(self.extra)
        if len(known) > 1:
            self.extra.extend(known)
        self.multi |= labels is not None and len(known) != 1
        if name:
            self.names.append(name)
        self.unlabelled += labels is None
        self.splits |= {split} - {""}
        flags = (UNLABELLED if labels is None else 0) | SPLIT_FLAGS.get(split, 0)
        self.rows.append((offset, length, first, row, len(known), flags))

    def _number(self, label: int | str) -> int:
        """A class number; words stand above all numbers until their order is known."""
        if isinstance(label, str):
            return MAX_CLASSES + self.words.setdefault(label, len(self.words))
        if not 0 <= label < MAX_CLASSES:
            raise ValueError(f"{self.header.path}: label {label} is out of range 0 to {MAX_CLASSES - 1}")
        return label

    def done(self) -> ShardIndex:
        """The index of all that was added."""
        records = np.zeros(len(self.rows), RECORD)
        if self.rows:
            columns = np.array(self.rows, np.uint64).T
            for name, column in zip(("offset", "length", "label", "row", "labels", "flags"), columns):
                records[name] = column
        extra, single = np.array(self.extra, np.uint32), records["labels"] == 1
        names = self.header.names
        if self.words:
            names, numbered = self._ordered({*records["label"][single].tolist(), *extra.tolist()})
            records["label"][single] = numbered(records["label"][single])
            extra = numbered(extra)
        largest = max(records["label"][single].max(initial=0), extra.max(initial=0))
        labelled = bool(single.any() or len(extra))
        header = replace(
            self.header, samples=len(self.rows), extra_labels=len(extra), unlabelled=self.unlabelled,
            multi=self.multi, classes=max((int(largest) + 1) * labelled, len(names)), names=names,
            splits=named_splits(self.splits), left_out=self.left_out.as_dict(),
            labels_hash=hash_of_labels(records, extra, names),
        )  # fmt: skip
        return ShardIndex(header, records, extra, np.frombuffer(_packed(self.names), np.uint8))

    def _ordered(self, used: set[int]) -> tuple[tuple[str, ...], Callable[[np.ndarray], np.ndarray]]:
        """(class names in their order, from the numbers in `used` to their places there)."""
        words = list(self.words)
        name_of = {n: words[n - MAX_CLASSES] if n >= MAX_CLASSES else str(n) for n in used}
        names = order_class_names(name_of.values())
        if len(names) > MAX_CLASSES:
            raise ValueError(f"{self.header.path}: {len(names)} classes, at most {MAX_CLASSES} are possible")
        place = {name: number for number, name in enumerate(names)}
        keys = np.array(sorted(name_of), np.uint32)
        values = np.array([place[name_of[int(key)]] for key in keys], np.uint32)
        return names, lambda numbers: values[np.searchsorted(keys, numbers)]


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
        line = file.readline(_MOST_FACTS)
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
            lists = {name: tuple(map(str, facts[name])) for name in ("names", "splits", "columns")}
            header = Header(**{**facts, **lists})
            numbers = (header.samples, header.extra_labels, header.classes, header.unlabelled)
            LeftOut.of_dict(header.left_out)
            sizes = all(type(n) is int and n >= 0 for n in numbers) and header.samples > 0
            if sizes and header.classes <= MAX_CLASSES:
                return header
            raise ValueError("numbers out of range")
        path = str(facts["path"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{target} is no index; remove it and run scalevit data index again") from None
    raise ValueError(f"{target} is of another version of scalevit; run scalevit data index {path}")


def open_index(
    path: str, form: str, now: FileVersion | None, options: ListingOptions = DEFAULTS
) -> ShardIndex | None:
    """The index beside a shard, None when there is none of these options; ValueError when the shard, as it is
    `now`, changed after it."""
    target = index_path(path, form)
    if not target.is_file():
        return None
    index = read_index(target)
    if index.header.form != form or index.header.options != options.as_dict():
        return None
    if now and (index.header.size, index.header.changed) != tuple(now):
        raise ValueError(f"{path} changed after it was indexed; run scalevit data index {path}")
    return replace(index, header=replace(index.header, path=path))  # a shard may have moved with its index


def shard_stamp(path: str, form: str) -> FileVersion:
    """Size and time of change that a shard is known by; of a folder, how many entries it has, the latest
    change of a class's listing, and a checksum of the classes' names."""
    if form != "folder":
        return file_version(path)
    items = [item for item in os.scandir(path) if not is_system_name(item.name)]
    folders = [item for item in items if item.is_dir()]
    names = "/".join(sorted(item.name for item in folders)).encode("utf-8", "surrogateescape")
    latest = max((item.stat().st_mtime_ns for item in folders), default=0)
    return FileVersion(len(items), f"{latest} {zlib.crc32(names):08x}")
