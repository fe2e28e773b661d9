"""Labelled images in an .npz file, under the names and in the layouts that people use.

x, y and optionally split; images, labels and split; x_train, y_train, x_test, y_test (Keras); train_images,
train_labels, test_images, test_labels (MedMNIST, whose validation images are left out).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scalevit.evals.probeset import ProbeSet, from_arrays

#: Names of (images, labels) of one array, and of the two halves where they are apart.
TOGETHER = (("x", "y"), ("images", "labels"))
APART = (
    (("x_train", "y_train"), ("x_test", "y_test")),
    (("train_images", "train_labels"), ("test_images", "test_labels")),
)
#: How a split says which half an image belongs to.
SUPPORT, QUERY = ("support", "train", "training"), ("query", "test", "val", "valid", "validation")


def holds_images(path: Path) -> bool:
    """Whether an .npz file has arrays of labelled images, rather than weights."""
    with np.load(path) as file:
        return _names(file.files) is not None


def open_npz(path: Path) -> ProbeSet:
    """The probe set of a file; ValueError in one line where its arrays are none."""
    with np.load(path, allow_pickle=False) as file:
        halves = _names(file.files)
        if halves is None:
            raise ValueError(f"{path}: no arrays x and y; there: {', '.join(file.files)}")
        try:
            parts = [(_pixels(file[x], f"{path}: {x}"), _labels(file[y])) for x, y in halves]
            split = file["split"] if len(halves) == 1 and "split" in file.files else None
        except ValueError as error:
            if "allow_pickle" in str(error):
                message = f"{path}: x, y and split must be plain arrays, not Python objects"
                raise ValueError(message) from None
            raise
    if len(halves) == 1:
        ((x, y),) = parts
        return from_arrays(path.stem, x, y, None if split is None else _halves(split), where=str(path))
    (a, y), (b, z) = parts
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"{path}: images of {a.shape[1:]} and of {b.shape[1:]} in its two halves")
    split = np.repeat([0, 1], [len(a), len(b)])
    return from_arrays(path.stem, np.concatenate([a, b]), np.concatenate([y, z]), split, where=str(path))


def _names(there: list[str]) -> list[tuple[str, str]] | None:
    """Names of images and labels: of everything, or of support and of query."""
    for pair in TOGETHER:
        if set(pair) <= set(there):
            return [pair]
    for support, query in APART:
        if {*support, *query} <= set(there):
            return [support, query]
    return None


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
    """(n,) from (n,) or (n, 1), floats that are whole numbers as such."""
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    return y.astype(np.int64) if y.dtype.kind == "f" and (y == np.rint(y)).all() else y


def _halves(split: np.ndarray) -> np.ndarray:
    """0 for support and 1 for query, from those numbers or from words; others are left as they are."""
    if split.dtype.kind not in "US":
        return split.astype(np.uint8) if split.dtype == bool else split
    words = np.char.lower(split.astype(str))
    return np.where(np.isin(words, SUPPORT), 0, np.where(np.isin(words, QUERY), 1, -1))
