"""Labelled images to probe with, from files and folders in many forms, or by a name."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scalevit.config.dataclass_io import nearest_names
from scalevit.evals.datasets.arrays import holds_weights, open_npz
from scalevit.evals.datasets.builtin import BUILTIN
from scalevit.evals.datasets.idx import idx_files, open_idx
from scalevit.evals.datasets.probe_set import (
    SUFFIXES,
    ImageFiles,
    ProbeSet,
    digest_of_files,
    label_bytes,
    split_by_class,
    split_folders,
    validate_probe_set,
)
from scalevit.evals.datasets.shards import open_shards, shards_at


def open_probe_set(target: str) -> ProbeSet:
    """The probe set that a word names: one of `NAMES`, an .npz file, tars, parquet tables, or a folder.

    An .npz holds images x (n, h, w[, 3]), labels y (n,), and optionally split (n,), 0 support, 1 query; other
    spellings are in arrays.py. A folder holds one folder of images a class, or two folders of such (train and
    val, …), tars or tables named so or in such folders, or idx files as MNIST's. Where nothing says to which
    half an image belongs, the first half of each class in the order of seed 0 is support. Names of `NAMES`
    come with packages.
    Raises ValueError when there is no such thing or it cannot be probed."""
    path = Path(target)
    if target in BUILTIN:
        return BUILTIN[target](target)
    if path.suffix == ".npz" and path.is_file():
        return open_npz(path)
    if shards_at(path):
        return open_shards(path)
    if path.is_dir():
        return open_idx(path.name, path) if idx_files(path) else _folder(path)
    near = ", ".join(nearest_names(target, [*BUILTIN]))
    raise ValueError(f"no data set, .npz or folder {target!r}; nearest names: {near}")


def is_probe_set(target: str) -> bool:
    """Whether a word looks like images to probe with, rather than like a model."""
    path = Path(target)
    if path.suffix == ".npz" and path.is_file():
        return not holds_weights(path)
    if shards_at(path):
        return True
    if path.is_dir():
        return bool(idx_files(path)) or not any((path / name).exists() for name in _OF_MODELS)
    return target in BUILTIN


_OF_MODELS = ("model.safetensors", "config.json", "open_clip_config.json", "run.yaml", "model/config.json")


# --------------------------------------------------------------------------- folders


def _folder(path: Path) -> ProbeSet:
    both = split_folders(path)
    if both:
        (a, y), (b, z) = (_files(folder) for folder in both)
    else:
        paths, labels = _files(path)
        half = split_by_class(labels)
        a, y, b, z = [*np.array(paths)[half]], labels[half], [*np.array(paths)[~half]], labels[~half]
    files, labels = [*a, *b], label_bytes(y) + label_bytes(z)
    fingerprint = digest_of_files(files, lambda i: files[i].read_bytes(), len(files), labels)
    return validate_probe_set(
        ProbeSet(path.name, ImageFiles(a), y, ImageFiles(b), z, False, fingerprint), str(path)
    )


def _files(path: Path) -> tuple[list[Path], np.ndarray]:
    """Image files below each class's folder, in the order of their names, with that folder's name."""
    paths, labels = [], []
    for folder in sorted(p for p in path.iterdir() if p.is_dir()):
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        paths += found
        labels += [folder.name] * len(found)
    if not paths:
        raise ValueError(f"{path}: no images in folders of classes (CLASS/image.jpg)")
    return paths, np.array(labels)
