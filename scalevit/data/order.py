"""Which sample is image i of a run: a pure function of (seed, i), so nothing is ever lost.

There are no lists, no shuffle buffers and no state. An epoch is a keyed bijection of [0, n), computed for the
positions of one batch in memory and time that do not depend on n. Resuming at image i, changing the number of
devices or of workers, and jumping a billion images ahead are all the same thing: asking for other positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from scalevit.data.procedural.hashing import key, mix

#: Largest store that can be permuted.
LIMIT = 2**40
#: An endless source is shuffled in windows of this many images; each of its images comes exactly once.
WINDOW = 2**16

_ROUNDS = 10
#: Blocks whose samples are shuffled together.
GROUP = 16
#: Sizes up to this are ranked.
FEW = 64
#: A network over fewer bits does not reach all permutations equally often.
_LEAST_BITS = 8
_EPOCH, _SUBSET, _BLOCKS, _INSIDE, _SOURCES, _INSTANCES = range(1, 7)

Indices = Int64[np.ndarray, " n"]


def permute(positions: Indices, size: int, keys: np.ndarray) -> Indices:
    """Where a keyed bijection of [0, size) sends each position; `keys` (uint64) has one element or one each.

    A Feistel network over the least power of two that holds `size`, walked until it lands inside; a few are
    ranked by their hashes, since a network of 256 would be walked for ever to land in one of four."""
    assert 1 <= size <= LIMIT, size
    assert len(positions) == 0 or (positions.min() >= 0 and positions.max() < size)
    if size <= FEW:
        return _ranked(positions, size, np.broadcast_to(keys, positions.shape))
    bits = max(_LEAST_BITS, (size - 1).bit_length())
    keys = np.broadcast_to(keys, positions.shape)
    words = _feistel(positions.astype(np.uint64), bits, keys)
    outside = np.flatnonzero(words >= size)
    while len(outside):
        words[outside] = _feistel(words[outside], bits, keys[outside])
        outside = outside[words[outside] >= size]
    return words.astype(np.int64)


def _ranked(positions: Indices, size: int, keys: np.ndarray) -> Indices:
    """Each key's own order of [0, size), by sorting one hash for each."""
    hashes = mix(mix(keys)[:, None] ^ mix(np.arange(1, size + 1, dtype=np.uint64)))
    return np.argsort(hashes, axis=1, kind="stable")[np.arange(len(positions)), positions].astype(np.int64)


def _feistel(words: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """A bijection of `bits`-bit words: each half in turn is masked with a hash of the other."""
    low = bits // 2
    left, right = words >> np.uint64(low), words & np.uint64((1 << low) - 1)
    left_mask, right_mask = np.uint64((1 << (bits - low)) - 1), np.uint64((1 << low) - 1)
    for turn in range(0, _ROUNDS, 2):
        left = left ^ (mix(mix(right + np.uint64(turn << 48)) ^ keys) & left_mask)
        right = right ^ (mix(mix(left + np.uint64((turn + 1) << 48)) ^ keys) & right_mask)
    return (left << np.uint64(low)) | right


@runtime_checkable
class Positions(Protocol):
    """What a loader asks an order."""

    @property
    def images(self) -> int:
        """How many different ones are used; 0 means all there are."""
        ...

    def at(self, positions: Indices) -> tuple[Indices, Indices]:
        """(epoch, index in the source) of the images at these positions of the run, counted from 0."""
        ...


@dataclass(frozen=True)
class Order:
    """The sequence of samples of a run.

    samples: how many the store holds, 0 when it is endless. images: how many different ones are used; 0
    means all. Subsets of one seed are nested: 300 thousand images are contained in a million. block: 0
    shuffles freely; otherwise runs of `block` neighbours are shuffled as wholes, and then the samples inside
    each group of 16 blocks, so that an object store is read in few large pieces. class_cycle (class
    interleaving): where image i is of class i mod `class_cycle`, classes take turns: at equal intervals they
    train better than in any shuffled order
    (docs/lab-log.md, "Classes that take turns")."""

    samples: int
    images: int = 0
    seed: int = 0
    block: int = 0
    class_cycle: int = 0

    def __post_init__(self) -> None:
        if self.samples > LIMIT or self.images > LIMIT:
            raise ValueError(f"at most 2^40 samples can be ordered, found {max(self.samples, self.images)}")
        if self.samples and self.images > self.samples:
            raise ValueError(
                f"data.images={self.images} asks for more different images than the {self.samples} there are"
            )

    @property
    def unique(self) -> int:
        """Different images in the whole run; 0 when every image is new."""
        return self.images or self.samples

    def at(self, positions: Indices) -> tuple[Indices, Indices]:
        """(epoch, index in the store) of the images at these positions of the run, counted from 0."""
        if self.class_cycle and self.unique % self.class_cycle == 0:
            return self._stratified(positions)
        size = self.unique or WINDOW
        epochs, inside = positions // size, positions % size
        keys = key(self.seed, _EPOCH, epochs)
        if not self.unique:
            return np.zeros_like(epochs), epochs * WINDOW + permute(inside, WINDOW, keys)
        chosen = (
            _permute_blocks(inside, size, self.block, keys) if self.block else permute(inside, size, keys)
        )
        if 0 < self.images < self.samples:
            chosen = _subset(chosen, self.samples, self.block, key(self.seed, _SUBSET))
        return epochs, chosen

    def _stratified(self, positions: Indices) -> tuple[Indices, Indices]:
        """Classes take turns, always in the same order; each shows its instances in an order of its own."""
        size = self.unique
        epochs = positions // size if size else np.zeros_like(positions)
        rows, classes = np.divmod(positions - epochs * size, self.class_cycle)
        if size:
            rows = permute(rows, size // self.class_cycle, key(self.seed, _INSTANCES, epochs, classes))
        return epochs, rows * self.class_cycle + classes


def _subset(numbers: Indices, samples: int, block: int, keys: np.ndarray) -> Indices:
    """Which samples the first so many of a seed are: any, or whole blocks of neighbours."""
    if not block:
        return permute(numbers, samples, keys)
    blocks = -(-samples // block)
    result = numbers
    outside = np.arange(len(numbers))
    while len(outside):  # the last block may not be whole
        inside = result[outside]
        result = result.copy()
        result[outside] = permute(inside // block, blocks, keys) * block + inside % block
        outside = outside[result[outside] >= samples]
    return result


def _permute_blocks(positions: Indices, size: int, block: int, keys: np.ndarray) -> Indices:
    """A bijection of [0, size) that keeps positions of one group of blocks inside few blocks of the store.

    Made on a whole number of groups; what falls past the end is sent on until it lands inside, which costs
    only those few samples their neighbourhood."""
    group = GROUP if size >= 4 * GROUP * block else 1
    blocks = -(-size // (block * group)) * group
    keys = np.broadcast_to(keys, positions.shape)
    result = _one_block_walk(positions, block, blocks, group, keys)
    outside = np.flatnonzero(result >= size)
    while len(outside):
        result[outside] = _one_block_walk(result[outside], block, blocks, group, keys[outside])
        outside = outside[result[outside] >= size]
    return result


def _one_block_walk(positions: Indices, block: int, blocks: int, group: int, keys: np.ndarray) -> Indices:
    span = block * group
    groups, inside = positions // span, positions % span
    inside = permute(inside, span, key(_INSIDE, keys, groups))
    number = permute(groups * group + inside // block, blocks, key(_BLOCKS, keys))
    return number * block + inside % block


@dataclass(frozen=True)
class Mixture:
    """Several sources in fixed proportions: position → (which source, position within that source's order).

    In each stretch of 4096 images every source has exactly its rounded share, in a shuffled order."""

    weights: tuple[float, ...]
    seed: int = 0

    STRETCH = 4096

    def shares(self) -> np.ndarray:
        """Images of each source in one stretch, by largest remainder."""
        if not self.weights or min(self.weights) <= 0:
            raise ValueError(f"the weights of a mixture must be positive, found {self.weights}")
        wanted = np.asarray(self.weights) / sum(self.weights) * self.STRETCH
        shares = np.floor(wanted).astype(np.int64)
        largest = np.argsort(shares - wanted, kind="stable")[: self.STRETCH - int(shares.sum())]
        shares[largest] += 1
        if shares.min() == 0:
            raise ValueError(f"a weight of a mixture is below 1/{self.STRETCH} of the sum: {self.weights}")
        return shares

    def at(self, positions: Indices) -> tuple[Indices, Indices]:
        """(source, position within that source) of these positions of the run."""
        shares = self.shares()
        ends = np.cumsum(shares)
        stretch, inside = positions // self.STRETCH, positions % self.STRETCH
        slot = permute(inside, self.STRETCH, key(self.seed, _SOURCES, stretch))
        source = np.searchsorted(ends, slot, side="right").astype(np.int64)
        return source, stretch * shares[source] + slot - (ends - shares)[source]
