"""Image dataset: encoded images by number with their labels, over one or many shards of one format.

`open_dataset` and `open_splits` open whatever listing.py finds, and use the indexes beside the shards.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType

import numpy as np

from scalevit.data.class_names import class_map, listed
from scalevit.data.decode import BrokenImage
from scalevit.data.formats import arrow, folder, idx, image_list, npz, parquet, tar
from scalevit.data.index.cache import UNCACHED, CachedReader, sequential_reader
from scalevit.data.index.manifest import (
    DatasetSummary,
    LazyShards,
    read_manifest,
    shard_offsets,
    summarise,
)
from scalevit.data.index.read import ShardIndex, open_index, shard_stamp
from scalevit.data.left_out import LeftOut
from scalevit.data.listing import Listing, list_source
from scalevit.data.options import DEFAULTS, ListingOptions

#: Each scans a shard, and names and reads one of its samples.
FORMATS: dict[str, ModuleType] = {
    "folder": folder, "list": image_list, "tar": tar, "parquet": parquet, "arrow": arrow, "npz": npz,
    "idx": idx,
}  # fmt: skip
#: Samples whose bytes are part of the content hash, evenly spread.
_HASHED = 64


@dataclass(frozen=True)
class ImageDataset:
    """Encoded images numbered through all shards. starts: the number of each shard's first sample, and the
    total. reader: gives bytes of shards. source: as the user gave it. split: which split this is, "" where
    nothing names one; others: further splits of the source. left_out: what lies beside the shards."""

    shards: list[ShardIndex] | LazyShards
    starts: np.ndarray
    facts: DatasetSummary
    reader: CachedReader = UNCACHED
    source: str = ""
    split: str = ""
    others: tuple[str, ...] = ()
    beside: LeftOut = field(default_factory=LeftOut)
    boundary: str = ""
    _maps: dict[int, np.ndarray | None] = field(default_factory=dict, compare=False)

    @property
    def samples(self) -> int:
        return int(self.starts[-1])

    @property
    def classes(self) -> int:
        """Number of classes: of names, or one more than the largest label."""
        return self.facts.classes

    @property
    def multi(self) -> bool:
        """Whether any sample has several labels, or is known to have none."""
        return self.facts.multi

    @property
    def unlabelled(self) -> int:
        return self.facts.unlabelled

    @property
    def measured(self) -> bool:
        """Whether every shard was indexed: sizes, hashes and checksums are known."""
        return self.facts.measured

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their numbers; () where classes are plain numbers."""
        return self.facts.names

    @property
    def left_out(self) -> LeftOut:
        """Files, rows and members that are no samples of this dataset, by reason."""
        return LeftOut.of_dict(self.facts.left_out).merge([self.beside])

    def notes(self) -> list[str]:
        """Lines for the user: which split this is, and what was left out."""
        lines = self.left_out.lines()
        if self.split:
            others = f" (others: {', '.join(self.others)})" if self.others else ""
            lines.insert(0, f"{self.source} has splits: the {self.split} split is used{others}")
        return lines

    def locate(self, number: int) -> tuple[ShardIndex, int]:
        """(shard, number within it)."""
        shard, inside = self._locate(number)
        return self.shards[shard], inside

    def _locate(self, number: int) -> tuple[int, int]:
        which = int(np.searchsorted(self.starts, number, side="right")) - 1
        return which, number - int(self.starts[which])

    def encoded(self, number: int) -> bytes:
        """The bytes of an image as stored; BrokenImage when they cannot be read."""
        shard, inside = self.locate(number)
        if self.boundary and shard.boundary != self.boundary:
            shard = replace(shard, boundary=self.boundary)
        return FORMATS[shard.header.form].encoded(shard, inside, self.reader)

    def name(self, number: int) -> str:
        """Where the sample lies, for messages."""
        shard, inside = self.locate(number)
        return FORMATS[shard.header.form].name(shard, inside)

    def labels(self, number: int) -> np.ndarray:
        """Class numbers of a sample: none, one or several."""
        which, inside = self._locate(number)
        labels, numbers = self.shards[which].labels_of(inside), self.class_map(which)
        return labels if numbers is None else numbers[labels]

    def class_map(self, shard: int) -> np.ndarray | None:
        """The class number of each of a shard's own classes; None where they are the same."""
        if shard not in self._maps:
            names = self.shards[shard].header.names
            same = names == self.class_names
            where = self.shards[shard].header.path
            self._maps[shard] = None if same or not names else class_map(names, self.class_names, where)
        return self._maps[shard]

    def is_labelled(self, number: int) -> bool:
        """Whether its classes are known, though they may be none."""
        shard, inside = self.locate(number)
        return shard.is_labelled(inside)

    def class_counts(self) -> np.ndarray:
        """(classes,) how many samples carry each label."""
        counts = np.zeros(self.classes, np.int64)
        for number, shard in enumerate(self.shards):
            labels, places = shard.label_list(), self.class_map(number)
            labels = labels if places is None else places[labels]
            if labels.max(initial=0) >= max(1, self.classes):
                raise ValueError(f"the index of {shard.header.path} is damaged; remove it")
            counts += np.bincount(labels, minlength=self.classes)[: self.classes]
        return counts

    def label_array(self) -> np.ndarray:
        """(samples,) the class number of each sample. Raises ValueError for a sample that has none or
        several."""
        parts = []
        for number, shard in enumerate(self.shards):
            odd = np.flatnonzero(shard.records["labels"] != 1)
            if len(odd):
                where = int(self.starts[number]) + int(odd[0])
                count = len(self.labels(where))
                raise ValueError(f"{self.name(where)} has {count} labels, where one is needed{self.hint()}")
            labels, places = shard.records["label"].astype(np.int64), self.class_map(number)
            parts.append(labels if places is None else places[labels])
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def hint(self) -> str:
        """What may be done about missing labels of a table or list."""
        if not self.facts.columns or "label" in self.facts.options:
            return ""
        return f"; its columns: {listed(self.facts.columns)}; choose one with data.label="

    def records(self) -> np.ndarray:
        """The index records of all samples, in one array."""
        return np.concatenate([shard.records for shard in self.shards])

    def sequential(self, threads: int = 1) -> ImageDataset:
        """The same, to be read from the first sample to the last."""
        return replace(self, reader=sequential_reader(threads))

    def with_classes(self, names: Sequence[str]) -> ImageDataset:
        """The same with classes numbered as in `names`. Raises ValueError for a class that is none of them,
        or for classes that have numbers but no names and do not fit."""
        if not self.class_names:
            if self.classes > len(names):
                most = self.classes - 1
                raise ValueError(f"{self.source}: label {most}, where there are {len(names)} classes")
            return self
        class_map(self.class_names, names, self.source)
        return replace(self, facts=replace(self.facts, names=tuple(names), classes=len(names)), _maps={})

    def content_id(self) -> str:
        """Content hash: SHA-256 of the class names in order, the number of samples, the labels, and the bytes
        of 64 samples. The same wherever the samples lie and however they are cut into shards."""
        numbers = np.unique(np.linspace(0, self.samples - 1, _HASHED).astype(np.int64)).tolist()
        labels = self.facts.labels_hash
        facts = [list(self.class_names), self.samples, labels, *map(self._checksum, numbers)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _checksum(self, number: int) -> int:
        try:
            return zlib.crc32(self.encoded(number))
        except BrokenImage:
            return -1


def dataset_of_shards(shards: list[ShardIndex], reader: CachedReader = UNCACHED) -> ImageDataset:
    """Several shards as one dataset."""
    headers = [shard.header for shard in shards]
    return ImageDataset(shards, shard_offsets(headers), summarise(headers), reader)


def open_dataset(source: str, options: ListingOptions = DEFAULTS, split: str = "train") -> ImageDataset:
    """The dataset at a path or address (docs/data.md says what may lie there); of a source with splits the
    one named `split`. Uses the indexes beside the shards; a shard without one is scanned first. Raises
    ValueError for a source that is none, that changed after it was indexed, or that lacks the split."""
    listing = list_source(source, options)
    if "" in listing.splits:
        dataset = _open_split(listing, "", options)
        if not dataset.facts.splits:
            return dataset
        return _of_row_split(dataset, _require(split, dataset.facts.splits, source))
    return _open_split(listing, _require(split, tuple(listing.splits), source), options)


def open_splits(source: str, options: ListingOptions = DEFAULTS) -> dict[str, ImageDataset]:
    """Every split of a source by its name (train, val, test), or the whole source under ""."""
    listing = list_source(source, options)
    found = {split: _open_split(listing, split, options) for split in listing.splits}
    if "" in found and (splits := found[""].facts.splits):
        return {split: _of_row_split(found[""], split) for split in splits}
    return found


def _require(split: str, splits: Sequence[str], source: str) -> str:
    if split in splits:
        return split
    raise ValueError(f"{source} has no {split} split; it has {', '.join(splits)}: give the one that you mean")


def _open_split(listing: Listing, split: str, options: ListingOptions) -> ImageDataset:
    shards = listing.splits[split]
    manifest = read_manifest(shards.folder, shards.paths, options, split) if len(shards.paths) > 1 else None
    if manifest:
        facts, lazy = manifest
        dataset = ImageDataset(lazy, lazy.starts, facts)
    else:
        dataset = dataset_of_shards([_open_shard(p, shards.form, options, listing) for p in shards.paths])
    others = tuple(other for other in listing.splits if other != split)
    return replace(
        dataset, source=listing.source, split=split, others=others, beside=listing.left_out,
        boundary=listing.boundary if shards.form in ("folder", "list") else "",
    )  # fmt: skip


def _open_shard(
    path: str, form: str, options: ListingOptions = DEFAULTS, listing: Listing | None = None
) -> ShardIndex:
    index = open_index(path, form, shard_stamp(path, form), options)
    return index or FORMATS[form].scan(path, options, listing.boundary if listing else "")


def _of_row_split(dataset: ImageDataset, split: str) -> ImageDataset:
    """The samples of a dataset whose rows name this split; rows that name none are left out."""
    shards = [shard.of_split(split) for shard in dataset.shards]
    rest = dataset.samples - sum(int((shard.records["flags"] >> 3 > 0).sum()) for shard in dataset.shards)
    beside = dataset.beside.merge([])
    if rest:
        beside.add("a row that names no split", dataset.source, rest)
    others = tuple(other for other in dataset.facts.splits if other != split)
    facts = replace(dataset_of_shards(shards).facts, left_out=dataset.facts.left_out)
    return replace(
        dataset, shards=shards, starts=shard_offsets([shard.header for shard in shards]),
        facts=replace(facts, names=dataset.facts.names, classes=dataset.facts.classes),
        split=split, others=others, beside=beside, _maps={},
    )  # fmt: skip
