"""Tars and parquet tables as labelled images to probe with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scalevit.evals.datasets.probe_set import (
    QUERY,
    SUPPORT,
    DatasetImages,
    ProbeSet,
    digest_of_files,
    label_bytes,
    parse_split_words,
    split_by_class,
    split_folders,
    validate_probe_set,
)

if TYPE_CHECKING:
    from scalevit.data.index.read import ShardIndex


def shards_at(path: Path) -> list[Path]:
    """The tars or parquet tables at a path, in a folder or its data/ folder, or in its folders train/ and
    test/, …; none of both kinds."""
    if path.suffix in (".tar", ".parquet") and path.is_file():
        return [path]
    if path.is_dir():
        for folders in ((path,), (path / "data",), split_folders(path) or ()):
            for ending in ("*.parquet", "*.tar"):
                found = [shard for folder in folders for shard in sorted(folder.glob(ending))]
                if found:
                    return found
    return []


def open_shards(path: Path) -> ProbeSet:
    """Shards whose names, or whose folders, say train, test, … are the two halves; else a table's column
    `split` tells them apart; others are halved by class."""
    shards = shards_at(path)
    support = _named(shards, SUPPORT, path)
    query = next(filter(None, (_with_labels(_named(shards, (word,), path)) for word in QUERY)), [])
    if support and query:
        (a, y), (b, z) = (_labelled(half) for half in (support, query))
    else:
        everything, labels = _labelled(shards)
        half = _split_column(shards)
        half = np.where(split_by_class(labels), 0, 1) if half is None else half
        a, b = (DatasetImages(everything.store, np.flatnonzero(half == side)) for side in (0, 1))
        y, z = labels[half == 0], labels[half == 1]
    images = [(half.store, int(number)) for half in (a, b) for number in half.numbers]
    labels = label_bytes(y) + label_bytes(z)
    fingerprint = digest_of_files(shards, lambda i: images[i][0].encoded(images[i][1]), len(images), labels)
    return validate_probe_set(ProbeSet(path.stem, a, y, b, z, False, fingerprint), str(path))


def _named(shards: list[Path], words: tuple[str, ...], where: Path) -> list[Path]:
    """Those that begin with one of the words, or lie in a folder below `where` that is called so."""
    return [
        p
        for p in shards
        if p.name.lower().startswith(words) or (p.parent != where and p.parent.name.lower() in words)
    ]


def _with_labels(shards: list[Path]) -> list[Path]:
    """The shards, unless none of their images has a label, as the test halves of competitions come."""
    headers = [_scanned(shard).header for shard in shards]
    return shards if any(header.unlabelled < header.samples for header in headers) else []


def _scanned(shard: Path) -> ShardIndex:
    from scalevit.data.dataset import FORMATS

    return FORMATS[shard.suffix[1:]].scan(str(shard))


def _labelled(shards: list[Path]) -> tuple[DatasetImages, np.ndarray]:
    from scalevit.data.dataset import dataset_of_shards

    indexes = [_scanned(shard) for shard in shards]
    # each table numbers the words that it has
    store = dataset_of_shards([replace(one, header=replace(one.header, names=())) for one in indexes])
    labels = []
    for index in indexes:
        for inside in range(index.header.samples):
            found, names = index.labels_of(inside), index.header.names
            if len(found) != 1:
                raise ValueError(f"{store.name(len(labels))} has {len(found)} labels; a probe needs one")
            labels.append(names[found[0]] if names else int(found[0]))
    return DatasetImages(store, np.arange(store.samples)), np.array(labels)


def _split_column(shards: list[Path]) -> np.ndarray | None:
    """What the tables' column `split` says of every image, as `halves_of`; None when there is none."""
    from scalevit.data.formats import parquet

    tables = [parquet.column(str(p), "split") for p in shards if p.suffix == ".parquet"]
    if not tables or any(table is None for table in tables):
        return None
    said = np.concatenate([np.array(table) for table in tables])
    said = said.astype(int) if said.dtype.kind in "biu" else parse_split_words(said)
    if not np.isin(said, (0, 1, 2)).all():
        raise ValueError(f"{shards[0]}: its column split must say train or test of every image")
    return said
