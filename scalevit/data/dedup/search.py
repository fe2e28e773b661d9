"""`scalevit data dedup`: near-duplicates of evaluation images in training data (paper §2: 927k).

Every training hash is looked up among the hashes of what copies of the evaluation images may look like (each
crop and its mirror image). Hashes within the radius are candidates; unless hashes alone are asked for, both
images are then decoded and laid over each other (verify.py), so that images that share only their layout
stay.

The search is exact: two hashes within radius r < 8 agree in one of four 16-bit parts up to one bit. The table
of evaluation hashes by those parts is made once, and training hashes stream past it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from scalevit.data.dataset import ImageDataset
from scalevit.data.decode import BrokenImage, decode
from scalevit.data.dedup.phash import CROPS, distance, luminance, phash, views
from scalevit.data.dedup.verify import Grey, is_duplicate, mirrored, thumbnail

#: Bits that may differ.
RADIUS = 7
#: Candidates of one training image that are compared.
TRIED = 8
_PARTS, _BITS = 4, 16
_NEAR = np.array([0, *(1 << bit for bit in range(_BITS))], np.uint64)
_BLOCK = 4096
#: Thumbnails of evaluation images kept, of 16 kB.
_KEPT = 4096


class Match(NamedTuple):
    """A training sample and the evaluation image that it copies."""

    train: int
    evaluation: int
    bits: int
    view: int


class HashTable:
    """Hashes of evaluation views, found by any near hash. `hashes` (n,) uint64."""

    def __init__(self, hashes: np.ndarray) -> None:
        self.hashes = hashes
        self.parts = [
            _bucketed((hashes >> np.uint64(_BITS * part)) & np.uint64(0xFFFF)) for part in range(_PARTS)
        ]

    def near(self, queries: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(query, entry, bits) of all pairs within the radius, at most 7; some pairs come several times."""
        assert 0 <= radius < 2 * _PARTS
        found = []
        for part, (starts, entries) in enumerate(self.parts):
            values = ((queries >> np.uint64(_BITS * part)) & np.uint64(0xFFFF)).astype(np.int64)
            counts = starts[values + 1] - starts[values]
            who = np.repeat(np.arange(len(queries)), counts)
            first = np.repeat(starts[values] - np.cumsum(counts) + counts, counts)
            entry = entries[first + np.arange(len(who))]
            bits = distance(queries[who], self.hashes[entry])
            close = bits <= radius
            found.append((who[close], entry[close], bits[close]))
        who, entry, bits = (np.concatenate(column) for column in zip(*found))
        return who, entry, bits


def _bucketed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(starts (65537,), entries): every entry in the buckets of its value and of those one bit away."""
    spread = (values[:, None] ^ _NEAR[None, :]).astype(np.int64)
    entries = np.repeat(np.arange(len(values)), len(_NEAR))
    order = np.argsort(spread.ravel(), kind="stable")
    starts = np.searchsorted(spread.ravel()[order], np.arange(2**_BITS + 1))
    return starts, entries[order]


def evaluation_table(
    store: ImageDataset, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[HashTable, np.ndarray]:
    """Table of all views of the evaluation images that can be read, and which image each entry is of."""
    hashes, owners, store = [], [], store.sequential()
    for number in range(store.samples):
        progress(number, store.samples)
        try:
            grey = luminance(decode(store.encoded(number), store.name(number)))
        except BrokenImage:
            continue
        hashes += [phash(view) for view in views(grey)]
        owners += [number] * (2 * len(CROPS))
    return HashTable(np.array(hashes, np.uint64)), np.array(owners, np.int64)


def candidates(
    train: np.ndarray, table: HashTable, owners: np.ndarray, radius: int = RADIUS, first: int = 0
) -> Iterator[list[Match]]:
    """For every training hash that has any, the evaluation views within the radius, nearest first. `first`:
    the number of the first hash."""
    kinds = 2 * len(CROPS)
    for start in range(0, len(train), _BLOCK):
        who, entry, bits = table.near(train[start : start + _BLOCK], radius)
        order = np.lexsort((entry, bits, who))
        who, entry, bits = who[order], entry[order], bits[order]
        edges = np.flatnonzero(np.diff(who, prepend=-1, append=-1))
        for edge, end in pairwise(edges):
            chosen = dict.fromkeys(zip(entry[edge:end].tolist(), bits[edge:end].tolist()))
            number = first + start + int(who[edge])
            yield [Match(number, int(owners[e]), int(b), e % kinds) for e, b in [*chosen][:TRIED]]


def thumbnails(store: ImageDataset) -> Callable[[int], Grey]:
    """Thumbnails of a store's images by number; those asked for last are kept. BrokenImage where one is."""
    return lru_cache(_KEPT)(
        lambda number: thumbnail(luminance(decode(store.encoded(number), store.name(number))))
    )


def confirmed(matches: list[Match], train: ImageDataset, evaluation: Callable[[int], Grey]) -> Match | None:
    """The first of one training sample's candidates of which it is a copy; `evaluation`: their thumbnails."""
    try:
        mine = thumbnails(train)(matches[0].train)
        return next((m for m in matches if is_copy(mine, evaluation(m.evaluation), m.view)), None)
    except BrokenImage:
        return None


def is_copy(mine: Grey, theirs: Grey, view: int) -> bool:
    """Whether `mine` is a copy of `theirs` as this view, a number in what `views` gives, shows it."""
    crop = CROPS[view // 2]
    return is_duplicate(mine, *mirrored(theirs, crop)) if view % 2 else is_duplicate(mine, theirs, crop)


def seconds_for(
    train: ImageDataset,
    table: HashTable,
    owners: np.ndarray,
    radius: int = RADIUS,
    seen: Callable | None = None,
) -> float:
    """How long it will take to search all training hashes, from a few thousand of up to eight shards, and to
    compare as many candidates as these have, from timing a few; `seen`: thumbnails, if they are compared."""
    shards = [*range(0, len(train.shards), -(-len(train.shards) // 8))]
    matches, hashes, searched, compared = list[list[Match]](), 0, 0.0, 0.0
    for number in shards:
        some = train.shards[number].records["phash"][: 2 * _BLOCK // len(shards)]
        began = time.perf_counter()
        matches += candidates(some, table, owners, radius, int(train.starts[number]))
        searched, hashes = searched + time.perf_counter() - began, hashes + len(some)
    if seen and matches:
        few, began = matches[:: -(-len(matches) // 8)], time.perf_counter()
        for one in few:
            confirmed(one, train, seen)
        compared = (time.perf_counter() - began) / len(few) * len(matches)
    return (searched + compared) * train.samples / hashes


# --------------------------------------------------------------------------- the list that sources honour
