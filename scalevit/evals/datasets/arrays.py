"""Labelled images in an .npz file, under the names and in the layouts that people use.

x, y and optionally split; or images, data and labels, targets; or the two halves apart, as x_train, y_train,
x_test, y_test (Keras) or train_images, train_labels, test_images, test_labels (MedMNIST). Where there are
both validation and test images, the former are left out.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scalevit.evals.datasets.probe_set import QUERY, SUPPORT, ProbeSet, from_arrays, parse_split_words

#: Names of arrays, in lower case.
IMAGES, LABELS = ("x", "images", "image", "data"), ("y", "labels", "label", "targets", "target")


def holds_weights(path: Path) -> bool:
    """Whether an .npz file has a tree of weights, as big_vision writes it, rather than labelled images."""
    if not zipfile.is_zipfile(path):
        return False
    with np.load(path) as file:
        return any("/" in name for name in file.files)


def open_npz(path: Path) -> ProbeSet:
    """The probe set of a file; ValueError in one line where its arrays are none."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a whole .npz file")
    with np.load(path, allow_pickle=False) as file:
        there = {name.lower(): name for name in file.files}
        halves = _names(there)
        if halves is None:
            raise ValueError(f"{path}: no arrays x and y; there: {', '.join(file.files)}")
        try:
            parts = [(_pixels(file[x], f"{path}: {x}"), _labels(file[y])) for x, y in halves]
            split = file[there["split"]] if len(halves) == 1 and "split" in there else None
        except ValueError as error:
            if "allow_pickle" in str(error):
                message = f"{path}: x, y and split must be plain arrays, not Python objects"
                raise ValueError(message) from None
            raise
    if len(halves) == 1:
        return _together(path, *parts[0], split)
    (a, y), (b, z) = parts
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"{path}: images of {a.shape[1:]} and of {b.shape[1:]} in its two halves")
    split = np.repeat([0, 1], [len(a), len(b)])
    return from_arrays(path.stem, np.concatenate([a, b]), np.concatenate([y, z]), split, where=str(path))


def _together(path: Path, x: np.ndarray, y: np.ndarray, split: np.ndarray | None) -> ProbeSet:
    """Of all images in one array. split: 0 and 1, False and True, or words."""
    if split is not None and split.dtype == bool:
        split = split.astype(np.uint8)
    if split is not None and split.dtype.kind in "US" and split.shape == y.shape == x.shape[:1]:
        said = parse_split_words(split)
        x, y, split = x[said != 2], y[said != 2], said[said != 2]
    return from_arrays(path.stem, x, y, split, where=str(path))


def _names(there: Mapping[str, str]) -> list[tuple[str, str]] | None:
    """Names of images and labels: of everything, or of support and of query. there: by their lower case."""
    together = _pair(there, "{}")
    if together:
        return [together]
    apart = [
        next(filter(None, (_pair(there, form) for word in words for form in _forms(word))), None)
        for words in (SUPPORT, QUERY)
    ]
    return None if None in apart else [pair for pair in apart if pair]


def _forms(half: str) -> tuple[str, ...]:
    return f"{{}}_{half}", f"{half}_{{}}", f"{{}}{half}"


def _pair(there: Mapping[str, str], form: str) -> tuple[str, str] | None:
    """The arrays of images and of labels that are called so, "{}" standing for "x", "images", …"""
    found = [
        next((there[n] for n in map(form.format, names) if n in there), None) for names in (IMAGES, LABELS)
    ]
    return (found[0], found[1]) if found[0] and found[1] else None


def _pixels(x: np.ndarray, where: str) -> np.ndarray:
    """uint8 (n, h, w[, c]) from whole numbers of 0 to 255 or floats of 0 to 1, channels last or first."""
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3):
        x = x.transpose(0, 2, 3, 1)
    if x.dtype == np.uint8 or x.dtype.kind not in "biuf" or not x.size:
        return x
    low, high = x.min(), x.max()
    if x.dtype.kind in "bf" and low >= 0 and high <= 1:
        return np.rint(x * 255.0).astype(np.uint8)
    if not (low >= 0 and high <= 255):  # also where there is a NaN
        raise ValueError(
            f"{where}: pixels must lie in 0 to 255, or as floats in 0 to 1; found {low} to {high}"
        )
    return np.rint(x).astype(np.uint8)


def _labels(y: np.ndarray) -> np.ndarray:
    """(n,) from (n,), (n, 1) or one-hot (n, c), floats that are whole numbers as such."""
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim == 2 and y.dtype.kind in "biuf" and np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all():
        return y.argmax(axis=1)
    return y.astype(np.int64) if y.dtype.kind == "f" and (y == np.rint(y)).all() else y
