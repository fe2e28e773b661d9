"""Labelled images to probe with: from anything that data/listing.py lists, or a built-in set by its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scalevit.artifacts import run_folder
from scalevit.config.dataclass_io import nearest_names
from scalevit.data.options import DEFAULTS, ListingOptions
from scalevit.evals.datasets.builtin import BUILTIN
from scalevit.evals.datasets.probe_set import (
    DatasetImages,
    ProbeSet,
    digest_of_files,
    from_arrays,
    label_bytes,
    split_by_class,
    validate_probe_set,
)

if TYPE_CHECKING:
    from scalevit.data.dataset import ImageDataset
    from scalevit.data.formats.npz import LabelledArrays

#: Splits to query, the first that is there and has labels.
QUERY_SPLITS = ("test", "val")


def open_probe_set(target: str, options: ListingOptions = DEFAULTS) -> ProbeSet:
    """The probe set that a word names: one of `BUILTIN`, or a source of labelled images (docs/data.md).

    The train split is support; its test split is the query set, or where that has no labels, its val split.
    Without splits the first half of each class in the order of seed 0 is support. Raises ValueError when
    there is no such thing or it cannot be probed."""
    if target in BUILTIN:
        return BUILTIN[target](target)
    path = Path(target)
    if not path.exists() and "://" not in target and not set("*{") & set(target):
        near = ", ".join(nearest_names(target, [*BUILTIN]))
        raise ValueError(f"no data set, .npz or folder {target!r}; nearest names: {near}")
    from scalevit.data.dataset import open_splits

    arrays = arrays_at(path)
    if arrays:
        return _of_arrays(path, arrays)
    return _of_splits(path, open_splits(target, options))


def arrays_at(path: Path) -> dict[str, LabelledArrays]:
    """Labelled images in memory by split, of an .npz file or a folder of idx files; {} for any other path."""
    from scalevit.data.formats import idx, npz

    if path.suffix == ".npz" and path.is_file():
        return {"": npz.read_arrays(path)}
    if not path.is_dir():
        return {}
    return {split: idx.read_arrays(images) for split, (images, _) in idx.idx_files(path).items()}


def is_probe_set(target: str) -> bool:
    """Whether a word looks like images to probe with, rather than like a model."""
    from scalevit.data.formats.npz import holds_weights
    from scalevit.data.listing import is_source

    path = Path(target)
    if path.suffix == ".npz" and path.is_file():
        return not holds_weights(path)
    if is_source(path):
        return True
    return target in BUILTIN or (path.is_dir() and not any((path / name).exists() for name in _OF_MODELS))


_OF_MODELS = (
    "model.safetensors",
    "config.json",
    "open_clip_config.json",
    run_folder.CONFIG,
    "model/config.json",
)


# --------------------------------------------------------------------------- splits


def query_split(splits: dict[str, ImageDataset]) -> str:
    """The split to query or test on: test, or val where no image of test has a label; "" without any."""
    labelled = [name for name in QUERY_SPLITS if name in splits and _has_labels(splits[name])]
    return next(iter(labelled), "")


def _has_labels(dataset: ImageDataset) -> bool:
    return dataset.unlabelled < dataset.samples


def _of_splits(path: Path, splits: dict[str, ImageDataset]) -> ProbeSet:
    query = query_split(splits)
    if "train" in splits and query:
        support, queried = splits["train"], splits[query]
        a, b = (DatasetImages(one, np.arange(one.samples)) for one in (support, queried))
        y, z = labels_of(support), labels_of(queried)
        names = support.class_names
    else:
        whole = splits[query or next((name for name in ("train", "") if name in splits), next(iter(splits)))]
        labels = labels_of(whole)
        half = split_by_class(labels)
        a, b = DatasetImages(whole, np.flatnonzero(half)), DatasetImages(whole, np.flatnonzero(~half))
        y, z, names = labels[half], labels[~half], whole.class_names
    files = [Path(shard) for one in splits.values() for shard in _files(one)]
    images = [(half.dataset, int(number)) for half in (a, b) for number in half.numbers]
    fingerprint = digest_of_files(
        files, lambda i: images[i][0].encoded(images[i][1]), len(images), label_bytes(y) + label_bytes(z)
    )
    name = path.name if path.is_dir() else path.stem
    return validate_probe_set(ProbeSet(name, a, y, b, z, False, fingerprint, names), str(path))


def labels_of(dataset: ImageDataset) -> np.ndarray:
    """(samples,) names of the samples' classes, or their numbers where they have no names."""
    numbers = dataset.label_array()
    return np.array(dataset.class_names)[numbers] if dataset.class_names else numbers


def _files(dataset: ImageDataset) -> list[str]:
    """Files that hold a dataset: its shards, or its images."""
    if dataset.facts.form in ("folder", "list"):
        return [dataset.name(number) for number in range(dataset.samples)]
    return [shard.header.path for shard in dataset.shards]


def _of_arrays(path: Path, arrays: dict[str, LabelledArrays]) -> ProbeSet:
    """The probe set of images in memory; validation images are left out where there are test images."""
    parts = list(arrays.values())
    x, y = np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts])
    said = [
        np.full(len(part.y), split) if part.split is None else part.split for split, part in arrays.items()
    ]
    words = np.concatenate(said)
    if not words.any():
        return from_arrays(path.stem if path.is_file() else path.name, x, y, where=str(path))
    query = next((split for split in QUERY_SPLITS if (words == split).any()), "")
    kept = (words == "train") | (words == query)
    halves = (words[kept] == query).astype(np.uint8)
    return from_arrays(path.stem if path.is_file() else path.name, x[kept], y[kept], halves, where=str(path))
