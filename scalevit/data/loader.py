"""Batch number `step` of a run: a pure function of the step, whatever the devices and workers.

batches = Batches(source, order, batch=4096, rank=0, world=8, workers=4)
for step, batch in batches.iter_from(12_000):        # resuming costs nothing
    loss(model(as_floats(batch.images.to(device))), batch.labels.to(device))
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from scalevit.data.corrupt import CorruptCounter, CorruptSample, ReplacedSamples
from scalevit.data.order import Positions

#: A finite source that renders its images and fits in this many bytes is rendered once and kept.
KEEP_BYTES = 256 * 2**20


class Samples(NamedTuple):
    """images (n, side, side, 3); labels int64 (n,) or multi-hot float32 (n, classes); broken: samples that
    were replaced to make them."""

    images: UInt8[Tensor, "n s s 3"]
    labels: Tensor
    broken: tuple[CorruptSample, ...] = ()


@runtime_checkable
class Source(Protocol):
    """Images ready for the model, by index. `positions` key the random crops; a renderer ignores them."""

    @property
    def samples(self) -> int:
        """How many there are; 0 means endless."""
        ...

    @property
    def class_cycle(self) -> int:
        """Image i is of class i mod this; 0 where labels follow no rule."""
        ...

    @property
    def is_cacheable(self) -> bool:
        """Whether an index always gives the same pixels, dear to make, so that they are worth keeping."""
        ...

    def get(self, indices: np.ndarray, positions: np.ndarray) -> Samples:
        """The samples of these numbers."""
        ...


class Batch(NamedTuple):
    """One device's share of a step. positions: which images of the run these are. broken: samples that were
    replaced to make it."""

    images: UInt8[Tensor, "b h w 3"]
    labels: Tensor
    positions: Int64[np.ndarray, " b"]
    broken: tuple[CorruptSample, ...] = ()


def as_floats(images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Pixels as the model takes them: channels first, [-1, 1] (paper.md §2). Call it on the device.

    In memory the channels stay last: patches are cut from there as well, and turning is dear."""
    return images.to(torch.float32).mul_(1 / 127.5).sub_(1).permute(0, 3, 1, 2)


class Batches:
    """Every batch of a run, by its step.

    batch counts images over all `world` devices; this one takes the share number `rank`. workers=0 makes
    batches in the calling thread when they are asked for; otherwise that many threads work ahead. tolerate:
    the share of broken samples above which iterating is a ValueError that points at `where`. pin: into
    memory that a GPU copies from while it computes. notes: lines for the user when a run begins."""

    def __init__(
        self,
        source: Source,
        order: Positions,
        *,
        batch: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        tolerate: float = 1.0,
        where: str = "",
        pin: bool = False,
        notes: tuple[str, ...] = (),
    ) -> None:
        if batch % world:
            raise ValueError(f"a batch of {batch} images cannot be shared evenly by {world} devices")
        assert 0 <= rank < world
        self.source, self.order, self.batch, self.rank, self.world = source, order, batch, rank, world
        self.workers, self.pin, self.tally = workers, pin, CorruptCounter(tolerate, where)
        self.notes = notes
        self._kept: Samples | None = None
        self._rendering = threading.Lock()

    def __getitem__(self, step: int) -> Batch:
        """This rank's share of the batch of `step`, counted from 0; any step, in any order, at equal cost."""
        share = self.batch // self.world
        first = step * self.batch + self.rank * share
        positions = np.arange(first, first + share, dtype=np.int64)
        _, indices = self.order.at(positions)
        images, labels, broken = self._get(indices, positions)
        if self.pin:
            images, labels = images.pin_memory(), labels.pin_memory()
        return Batch(images, labels, positions, broken)

    def iter_from(self, step: int) -> Iterator[tuple[int, Batch]]:
        """(step, batch) for this step and all that follow, endlessly."""
        ahead = self._ahead(step) if self.workers else ((s, self[s]) for s in _count(step))
        for step, batch in ahead:
            self.tally.add(len(batch.positions), batch.broken)
            yield step, batch

    @property
    def replaced(self) -> ReplacedSamples:
        """Broken samples that were replaced in the batches given out so far, not in those read ahead."""
        return self.tally.replaced

    def _ahead(self, step: int) -> Iterator[tuple[int, Batch]]:
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="scalevit-data")
        queue: deque[tuple[int, Future[Batch]]] = deque()
        try:
            for following in _count(step):
                queue.append((following, pool.submit(self.__getitem__, following)))
                if len(queue) > 2 * self.workers:
                    ready, future = queue.popleft()
                    yield ready, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _get(self, indices: np.ndarray, positions: np.ndarray) -> Samples:
        with self._rendering:
            if self._kept is None and self._worth_keeping():
                self._kept = self._render_all()
        if self._kept:
            chosen = torch.from_numpy(indices)
            return Samples(self._kept.images[chosen], self._kept.labels[chosen])
        return self.source.get(indices, positions)

    def _worth_keeping(self) -> bool:
        if not (self.source.is_cacheable and self.order.images):
            return False
        one = self.source.get(np.zeros(1, np.int64), np.zeros(1, np.int64))
        return self.order.images * one.images.numel() <= KEEP_BYTES

    def _render_all(self) -> Samples:
        every = np.arange(self.order.images, dtype=np.int64)
        parts = [self.source.get(part, part) for part in np.array_split(every, len(every) // 256 + 1)]
        return Samples(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


def _count(step: int) -> Iterator[int]:
    while True:
        yield step
        step += 1
