"""Labelled images in an .npz file, under the names and in the layouts that people use.

x, y and optionally split; or images, data and labels, targets; or the splits apart, as x_train, y_train,
x_test, y_test (Keras) or train_images, train_labels, test_images, test_labels (MedMNIST).
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scalevit.artifacts.remote import file_version
from scalevit.data.formats.labels import label_values
from scalevit.data.index.cache import UNCACHED, CachedReader
from scalevit.data.index.read import Builder, Header, ShardIndex
from scalevit.data.options import DEFAULTS, ListingOptions
from scalevit.data.splits import SPLIT_WORDS, SPLITS, split_value

#: Names of arrays, in lower case.
IMAGES, LABELS = ("x", "images", "image", "data"), ("y", "labels", "label", "targets", "target")
#: Arrays above this many bytes are refused where they are compressed by more than this factor.
_LARGE, _FACTOR = 1 << 29, 100
#: Errors of damaged, encrypted or unsupported zip files and arrays.
_DAMAGED = (
    ValueError, EOFError, OSError, KeyError, RuntimeError, SyntaxError, struct.error, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


class LabelledArrays(NamedTuple):
    """x: images uint8 (n, h, w[, 1 or 3]); y: labels (n,); split: of each image (n,), None where there are no
    splits."""

    x: np.ndarray
    y: np.ndarray
    split: np.ndarray | None = None


def holds_weights(path: Path) -> bool:
    """Whether an .npz file has a tree of weights, as big_vision writes it, rather than labelled images."""
    try:
        with zipfile.ZipFile(path) as file:
            return any("/" in name for name in file.namelist())
    except _DAMAGED:
        return False


def read_arrays(path: Path) -> LabelledArrays:
    """Images, labels and splits of an .npz file. Raises ValueError in one line where its arrays are none."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a whole .npz file")
    try:
        _refuse_bombs(path)
        with np.load(path, allow_pickle=False) as file:
            there = {name.lower(): name for name in file.files}
            pairs = array_names(there)
            if pairs is None:
                raise ValueError(f"{path}: no arrays x and y; there: {', '.join(file.files)}")
            parts = [(pixels_of(file[x], f"{path}: {x}"), labels_of(file[y])) for x, y in pairs.values()]
            split = file[there["split"]] if "" in pairs and "split" in there else None
    except _DAMAGED as error:
        if "allow_pickle" in str(error):
            message = f"{path}: x, y and split must be plain arrays, not Python objects"
            raise ValueError(message) from None
        reason = " ".join(str(error).split())[:200]
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {reason}") from None
    for x, y in parts:
        _check(x, y, str(path))
    if "" in pairs:
        return LabelledArrays(*parts[0], _splits(split, parts[0][1], str(path)))
    if len({x.shape[1:] for x, _ in parts}) > 1:
        shapes = " and of ".join(str(x.shape[1:]) for x, _ in parts)
        raise ValueError(f"{path}: images of {shapes} in its splits")
    words = np.repeat(list(pairs), [len(y) for _, y in parts])
    return LabelledArrays(np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]), words)


def _refuse_bombs(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        for member in file.infolist():
            if member.file_size > max(_LARGE, _FACTOR * member.compress_size):
                sizes = f"{member.file_size} bytes in {member.compress_size}"
                raise ValueError(f"{path}: {member.filename} holds {sizes}: refused")


def _check(x: np.ndarray, y: np.ndarray, where: str) -> None:
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or x.shape[3:] not in ((), (1,), (3,)) or 0 in x.shape:
        raise ValueError(f"{where}: x must be uint8 (n, h, w) or (n, h, w, 3), found {x.dtype} {x.shape}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"{where}: y must hold one label for each of {len(x)} images, found shape {y.shape}")


def _splits(split: np.ndarray | None, y: np.ndarray, where: str) -> np.ndarray | None:
    """The split of each image from 0 and 1, False and True, or words."""
    if split is None:
        return None
    words = np.array([split_value(value) for value in split.tolist()] if split.shape == y.shape else [])
    if split.shape != y.shape or (words == "").any():
        raise ValueError(f"{where}: split must hold a 0 (support) or 1 (query) for each of {len(y)} images")
    return words


def array_names(there: Mapping[str, str]) -> dict[str, tuple[str, str]] | None:
    """Names of images and labels by split, "" where all are together; None where there are no such arrays, or
    not those of a train half. there: names by their lower case."""
    together = _pair(there, "{}")
    if together:
        return {"": together}
    found = {
        split: pair
        for split in SPLITS
        for pair in [next(filter(None, (_pair(there, form) for form in _forms(split))), None)]
        if pair
    }
    return found if "train" in found else None


def _forms(split: str) -> list[str]:
    return [form for word in SPLIT_WORDS[split] for form in (f"{{}}_{word}", f"{word}_{{}}", f"{{}}{word}")]


def _pair(there: Mapping[str, str], form: str) -> tuple[str, str] | None:
    """The arrays of images and of labels that are called so, "{}" standing for "x", "images", …"""
    found = [
        next((there[n] for n in map(form.format, names) if n in there), None) for names in (IMAGES, LABELS)
    ]
    return (found[0], found[1]) if found[0] and found[1] else None


def pixels_of(x: np.ndarray, where: str) -> np.ndarray:
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


def labels_of(y: np.ndarray) -> np.ndarray:
    """(n,) from (n,), (n, 1) or one-hot (n, c), floats that are whole numbers as such."""
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim == 2 and y.dtype.kind in "biuf" and np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all():
        return y.argmax(axis=1)
    return y.astype(np.int64) if y.dtype.kind == "f" and (y == np.rint(y)).all() else y


# --------------------------------------------------------------------------- as samples of a data set


def index_arrays(arrays: LabelledArrays, header: Header) -> ShardIndex:
    """Index of images in arrays; each is a row."""
    builder = Builder(header)
    length = len(as_ppm(arrays.x[0]))
    splits = [""] * len(arrays.y) if arrays.split is None else arrays.split.tolist()
    for row, (label, split) in enumerate(zip(arrays.y.tolist(), splits)):
        builder.add(0, length, label_values(label, header.path), row=row, split=split)
    return builder.done()


def as_ppm(image: np.ndarray) -> bytes:
    """An image (h, w[, 1 or 3]) as an encoded file, PGM where it is grey."""
    height, width = image.shape[:2]
    kind = b"P6" if image.shape[2:] == (3,) else b"P5"
    return b"%s\n%d %d\n255\n" % (kind, width, height) + np.ascontiguousarray(image).tobytes()


def scan(path: str, options: ListingOptions = DEFAULTS, boundary: str = "") -> ShardIndex:
    """Index of the images of an .npz file."""
    header = Header("npz", path, *file_version(path), options=options.as_dict())
    return index_arrays(read_arrays(Path(path)), header)


def name(index: ShardIndex, number: int) -> str:
    """How a message names a sample: the file and the image's number in it."""
    return f"{index.header.path} image {int(index.records[number]['row'])}"


def encoded(index: ShardIndex, number: int, reader: CachedReader = UNCACHED) -> bytes:
    """The pixels of one image as PPM or PGM."""
    path = index.header.path
    arrays = reader.groups.get((path, index.header.changed), lambda: read_arrays(Path(path)))
    return as_ppm(arrays.x[int(index.records[number]["row"])])
