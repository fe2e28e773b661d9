"""idx files, MNIST's format: four files, gzipped or not, in a folder."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from scalevit.evals.datasets.probe_set import ProbeSet, from_arrays


def idx_files(path: Path) -> dict[str, Path]:
    """The four files of an MNIST-like data set, when all are there."""
    found = {}
    for key in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        found[key] = next((p for p in sorted(path.glob(f"{key}-ubyte*"))), None)
    return {} if None in found.values() else {key: p for key, p in found.items() if p}


def open_idx(name: str, path: Path) -> ProbeSet:
    """The probe set of a folder's four files: the train files are support."""
    x, y, z, t = (read_idx(file) for file in idx_files(path).values())
    return from_arrays(
        name, np.concatenate([x, z]), np.concatenate([y, t]), np.repeat([0, 1], [len(y), len(t)]),
        where=str(path),
    )  # fmt: skip


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes of any shape. Raises ValueError for a file that is no such thing."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: no idx file of bytes")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", raw[3], 4))
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape))
    if len(values) != np.prod(shape):
        raise ValueError(f"{path}: {len(values)} bytes of values, its header says {shape}")
    return values.reshape(shape)
