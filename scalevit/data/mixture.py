"""Several sources as one, in fixed proportions: sample i of a run is a pure function of (seed, i), too.

A sample's number says which source it is of, in its upper bits, and which sample there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import one_hot

from scalevit.data.corrupt import CorruptSample
from scalevit.data.loader import Samples, Source
from scalevit.data.order import Indices, Mixture, Positions

#: Bits of a number within its source: more than the longest run has images.
_BITS = 48


class MixedOrder:
    """The order of a mixture: each source's own order, which goes on from epoch to epoch at its own pace."""

    images = 0

    def __init__(self, mixture: Mixture, orders: Sequence[Positions]) -> None:
        assert len(mixture.shares()) == len(orders)
        self.mixture, self.orders = mixture, orders

    def at(self, positions: Indices) -> tuple[Indices, Indices]:
        """(epoch of the source, number) of the images at these positions of the run."""
        sources, places = self.mixture.at(positions)
        epochs, numbers = np.empty_like(places), np.empty_like(places)
        for which, order in enumerate(self.orders):
            mine = sources == which
            epochs[mine], inside = order.at(places[mine])
            numbers[mine] = inside + (which << _BITS)
        return epochs, numbers


class Mixed:
    """The sources of a mixture, by the numbers of a `MixedOrder`. Where one has samples of several labels,
    all labels are multi-hot."""

    is_cacheable = False
    class_cycle = 0

    def __init__(self, sources: Sequence[Source], classes: int) -> None:
        self.sources, self.classes = sources, classes

    @property
    def notes(self) -> list[str]:
        """Lines for the user on all sources."""
        return [note for source in self.sources for note in getattr(source, "notes", ())]

    @property
    def samples(self) -> int:
        """Of all together; 0 when one is endless."""
        counts = [source.samples for source in self.sources]
        return sum(counts) if all(counts) else 0

    def get(self, indices: np.ndarray, positions: np.ndarray) -> Samples:
        """Each sample from its source, in the order asked for."""
        which, inside = indices >> _BITS, indices & ((1 << _BITS) - 1)
        rows = [np.flatnonzero(which == number) for number in range(len(self.sources))]
        used = [(source, mine) for source, mine in zip(self.sources, rows) if len(mine)]
        parts = [(mine, source.get(inside[mine], positions[mine])) for source, mine in used]
        hot = any(part.labels.is_floating_point() for _, part in parts)
        labels = [self._hot(part.labels) if hot else part.labels for _, part in parts]
        back = torch.from_numpy(np.argsort(np.concatenate(rows), kind="stable"))
        broken: tuple[CorruptSample, ...] = sum((part.broken for _, part in parts), ())
        return Samples(torch.cat([part.images for _, part in parts])[back], torch.cat(labels)[back], broken)

    def _hot(self, labels: torch.Tensor) -> torch.Tensor:
        return labels if labels.is_floating_point() else one_hot(labels, self.classes).float()
