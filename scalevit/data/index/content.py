"""Content hash of labels: the same for the same samples in the same order, however they are cut into shards.

Each sample has a 64-bit value, made of its classes' names (numbers where they have none). The hash is the sum
of value i × BASE^i modulo 2^64, so that hashes of shards can be joined without reading the shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

_BASE, _WORD = 0x9E3779B97F4A7C15, 1 << 64
_UNLABELLED, _SEVERAL = 0x5851F42D4C957F2D, 0xD6E8FEB86659FD93


def hash_of_name(name: str) -> int:
    """64 bits of a class's name."""
    data = name.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def hash_of_labels(records: np.ndarray, extra: np.ndarray, names: Sequence[str]) -> int:
    """The hash of a shard's labels. records: of an index; extra: labels of samples that have several."""
    if not len(records):
        return 0
    single = records["labels"] == 1
    numbers = np.unique(np.concatenate([records["label"][single], extra]))
    words = [names[n] if n < len(names) else str(n) for n in map(int, numbers)]
    hashes = np.array([hash_of_name(word) for word in words], np.uint64)
    values = np.full(len(records), _UNLABELLED, np.uint64)
    if single.any():
        values[single] = hashes[np.searchsorted(numbers, records["label"][single])]
    for place in np.flatnonzero(records["labels"] > 1).tolist():
        first, count = int(records["label"][place]), int(records["labels"][place])
        own = hashes[np.searchsorted(numbers, extra[first : first + count])]
        values[place] = (sum(map(int, own)) * _SEVERAL + count) % _WORD
    powers = np.full(len(records), _BASE, np.uint64)
    powers[0] = 1
    return int((values * np.cumprod(powers, dtype=np.uint64)).sum(dtype=np.uint64))


def join_hashes(hashes: Sequence[int], counts: Sequence[int]) -> int:
    """The hash of shards one after another, from their own hashes and numbers of samples."""
    total, samples = 0, 0
    for part, count in zip(hashes, counts):
        total = (total + part * pow(_BASE, samples, _WORD)) % _WORD
        samples += count
    return total
