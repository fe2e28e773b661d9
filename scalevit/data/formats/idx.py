"""idx files, MNIST's format: files of images and of labels, gzipped or not, in a folder."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np

from scalevit.artifacts.remote import file_version
from scalevit.data.formats import npz
from scalevit.data.formats.image_files import read_regular
from scalevit.data.formats.npz import LabelledArrays, index_arrays
from scalevit.data.index.cache import UNCACHED, CachedReader
from scalevit.data.index.read import Header, ShardIndex
from scalevit.data.options import DEFAULTS, ListingOptions

#: The splits, and how their files' names begin.
_BEGINNINGS = {"train": "train", "test": "t10k"}
#: Arrays above this many bytes are refused where they are compressed by more than this factor.
_LARGE, _FACTOR = 1 << 29, 100


def idx_files(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The files of images and labels of a folder, by split; {} where those of no split are both there."""
    found = {}
    for split, word in _BEGINNINGS.items():
        patterns = (f"{word}-images-idx3-ubyte*", f"{word}-labels-idx1-ubyte*")
        pair = [next(iter(sorted(folder.glob(pattern))), None) for pattern in patterns]
        if pair[0] and pair[1]:
            found[split] = (pair[0], pair[1])
    return found


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes of any shape. Raises ValueError for a file that is no such thing."""
    data = read_regular(str(path), 1 << 33)
    shape, raw = _shape(path, data[: 1 << 16]), data
    size = math.prod(shape)
    if path.suffix == ".gz":
        if size > max(_LARGE, _FACTOR * len(data)):
            raise ValueError(f"{path} holds {size} values in {len(data)} bytes: refused")
        raw = _unpacked(path, data, 4 + 4 * len(shape) + size)
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape))
    if len(values) != size:
        raise ValueError(f"{path}: {len(values)} bytes of values, its header says {shape}")
    return values.reshape(shape)


def _unpacked(path: Path, data: bytes, most: int) -> bytes:
    """At most one byte more than `most`, so that a file that is too long shows."""
    try:
        return zlib.decompressobj(31).decompress(data, most + 1)
    except zlib.error as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _shape(path: Path, start: bytes) -> tuple[int, ...]:
    try:
        head = zlib.decompressobj(31).decompress(start, 64) if path.suffix == ".gz" else start
    except zlib.error as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if len(head) < 4 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 4 or len(head) < 4 + 4 * head[3]:
        raise ValueError(f"{path}: no idx file of bytes")
    return tuple(int(n) for n in np.frombuffer(head, ">u4", head[3], 4))


def read_arrays(images: Path) -> LabelledArrays:
    """The images of a file, and their labels from the file beside it."""
    labels = next(iter(pair[1] for pair in idx_files(images.parent).values() if pair[0] == images), None)
    if labels is None:
        raise ValueError(f"{images}: there is no file of its labels beside it")
    x, y = read_idx(images), read_idx(labels)
    if x.ndim != 3 or y.shape != x.shape[:1] or not x.size:
        raise ValueError(f"{images}: images {x.shape} and labels {y.shape} do not belong together")
    return LabelledArrays(x, y)


def arrays_of_idx(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(images, labels, 0 of the train split and 1 of the test split) of a folder's files; None where a split
    is missing."""
    pairs = idx_files(folder)
    if len(pairs) < len(_BEGINNINGS):
        return None
    (x, y, _), (z, t, _) = (read_arrays(images) for images, _ in pairs.values())
    return np.concatenate([x, z]), np.concatenate([y, t]), np.repeat([0, 1], [len(y), len(t)])


def scan(path: str, options: ListingOptions = DEFAULTS, boundary: str = "") -> ShardIndex:
    """Index of the images of a file."""
    header = Header("idx", path, *file_version(path), options=options.as_dict())
    return index_arrays(read_arrays(Path(path)), header)


name = npz.name


def encoded(index: ShardIndex, number: int, reader: CachedReader = UNCACHED) -> bytes:
    """The pixels of one image as PGM."""
    path = index.header.path
    arrays = reader.groups.get((path, index.header.changed), lambda: read_arrays(Path(path)))
    return npz.as_ppm(arrays.x[int(index.records[number]["row"])])
