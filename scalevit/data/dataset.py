"""Encoded images by number, over one or many shards of one form: folder, tars or tables."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np

from scalevit.artifacts.remote import expand_glob, is_remote
from scalevit.data.formats import arrow, folder, parquet, tar
from scalevit.data.index.cache import UNCACHED, CachedReader, sequential_reader
from scalevit.data.index.manifest import DatasetSummary, LazyShards, read_manifest, shard_offsets, summarise
from scalevit.data.index.read import ShardIndex, open_index, shard_stamp

#: Each knows how to scan a shard, and to name and read one of its samples.
FORMATS: dict[str, ModuleType] = {"folder": folder, "tar": tar, "parquet": parquet, "arrow": arrow}
FORMAT_BY_SUFFIX = {".tar": "tar", ".parquet": "parquet", ".arrow": "arrow"}


@dataclass(frozen=True)
class ImageDataset:
    """Samples numbered through all shards. starts: the number of each shard's first sample, and the total.
    reader: how their bytes are got at."""

    shards: list[ShardIndex] | LazyShards
    starts: np.ndarray
    facts: DatasetSummary
    reader: CachedReader = UNCACHED

    @property
    def samples(self) -> int:
        return int(self.starts[-1])

    @property
    def classes(self) -> int:
        """One more than the largest label."""
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
        """Names of the classes where the form knows them, in the order of their numbers."""
        return self.facts.names

    def locate(self, number: int) -> tuple[ShardIndex, int]:
        """(shard, number within it)."""
        which = int(np.searchsorted(self.starts, number, side="right")) - 1
        return self.shards[which], number - int(self.starts[which])

    def encoded(self, number: int) -> bytes:
        """The bytes of an image as stored; BrokenImage when they cannot be read."""
        shard, inside = self.locate(number)
        return FORMATS[shard.header.form].encoded(shard, inside, self.reader)

    def name(self, number: int) -> str:
        """Where the sample lies, for messages."""
        shard, inside = self.locate(number)
        return FORMATS[shard.header.form].name(shard, inside)

    def labels(self, number: int) -> np.ndarray:
        """Its classes: none, one or several."""
        shard, inside = self.locate(number)
        return shard.labels_of(inside)

    def is_labelled(self, number: int) -> bool:
        """Whether its classes are known, though they may be none."""
        shard, inside = self.locate(number)
        return shard.is_labelled(inside)

    def records(self) -> np.ndarray:
        """What the index knows of all samples, in one array."""
        return np.concatenate([shard.records for shard in self.shards])

    def sequential(self, threads: int = 1) -> ImageDataset:
        """The same, to be read from the first sample to the last."""
        return replace(self, reader=sequential_reader(threads))


def dataset_of_shards(shards: list[ShardIndex]) -> ImageDataset:
    """Several shards as one store."""
    headers = [shard.header for shard in shards]
    return ImageDataset(shards, shard_offsets(headers), summarise(headers))


def open_dataset(source: str) -> ImageDataset:
    """The store at a path or address: a folder of classes, a tar, a table, a folder of tars or tables, or a
    pattern such as `s3://bucket/train-{00000..00127}.tar`. Uses the indexes beside the shards; a shard
    without one is scanned first. Raises ValueError saying what is missing or changed."""
    paths, form = shard_paths(source)
    known = read_manifest(source, paths) if len(paths) > 1 else None
    if known:
        facts, shards = known
        return ImageDataset(shards, shards.starts, facts)
    return dataset_of_shards([_open_shard(path, form) for path in paths])


def _open_shard(path: str, form: str) -> ShardIndex:
    return open_index(path, form, shard_stamp(path, form)) or FORMATS[form].scan(path)


def shard_paths(source: str) -> tuple[list[str], str]:
    """(paths of the shards, their form). Raises ValueError for a path that is none of ours."""
    if not is_remote(source) and Path(source).is_dir():
        here, names = source.rstrip("/") or "/", os.listdir(source)  # noqa: PTH208  (of names there are many)
        for ending, form in FORMAT_BY_SUFFIX.items():
            if found := [f"{here}/{name}" for name in names if name.endswith(ending) and name[0] != "."]:
                return sorted(found), form
        return [here], "folder"
    paths = expand_glob(source)
    form = FORMAT_BY_SUFFIX.get(Path(paths[0].split("?")[0]).suffix)
    if form is None:
        known = ", ".join(FORMAT_BY_SUFFIX)
        there = is_remote(source) or Path(source).exists()
        reason = f"no folder, and not one of {known}" if there else "there is no such file or folder"
        raise ValueError(f"{source}: {reason}")
    return paths, form
