"""A store as a source of training images: read, decoded, cropped, and replaced where it is broken."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from scalevit.artifacts.remote import StoreUnavailable
from scalevit.data.corrupt import ENOUGH, CorruptCounter, CorruptSample
from scalevit.data.crops import eval_view, square_view, train_view
from scalevit.data.dataset import ImageDataset
from scalevit.data.decode import BrokenImage, decode
from scalevit.data.exclusions import NO_EXCLUSIONS, skip_excluded
from scalevit.data.loader import Samples
from scalevit.data.procedural.hashing import key

_AUGMENT = 7


def _inception(data: bytes, name: str, side: int, one: int) -> np.ndarray:
    return train_view(data, name, side, one)


def _central(data: bytes, name: str, side: int, one: int) -> np.ndarray:
    return eval_view(decode(data, name), side)


def _whole(data: bytes, name: str, side: int, one: int) -> np.ndarray:
    return square_view(decode(data, name), side)


VIEWS: dict[str, Callable[[bytes, str, int, int], np.ndarray]] = {
    "inception": _inception,
    "central": _central,
    "none": _whole,
}


class TrainingImages:
    """Views of `side` pixels of a store's images, with labels of `classes` classes.

    A broken sample is replaced by the next whole one, with that one's label, and told of. When of one batch
    more are broken than the share `tolerate` of a thousand or of the batch, that is a ValueError which says
    where to look: `source`. Samples in `excluded` (sorted numbers) are left out."""

    is_cacheable = False
    class_cycle = 0

    def __init__(
        self,
        store: ImageDataset,
        *,
        side: int,
        transform: str,
        seed: int,
        classes: int,
        source: str = "",
        tolerate: float = 0.001,
        excluded: np.ndarray = NO_EXCLUSIONS,
    ) -> None:
        self.store, self.side, self.seed, self.classes, self.tolerate = store, side, seed, classes, tolerate
        self.source, self.excluded = source, excluded
        self.view = VIEWS[transform]

    @property
    def notes(self) -> list[str]:
        """Lines for the user: the split that is used, and what is left out."""
        return self.store.notes()

    @property
    def samples(self) -> int:
        return self.store.samples - len(self.excluded)

    def get(self, indices: np.ndarray, positions: np.ndarray) -> Samples:
        """Views of the samples of these numbers, and which of them were replaced."""
        keys = key(self.seed, _AUGMENT, positions)
        images = np.empty((len(indices), self.side, self.side, 3), np.uint8)
        used, broken = np.empty(len(indices), np.int64), list[CorruptSample]()
        expected = self.tolerate * max(ENOUGH, len(indices))
        # a batch with more is no chance; below that the count of the whole run decides
        most = expected + 6 * expected**0.5 + 8 * (expected > 0)
        for place, (index, one) in enumerate(zip(indices.tolist(), keys.tolist())):
            images[place], used[place] = self._whole_one(index, one, broken, most)
        return Samples(torch.from_numpy(images), self._labels(used), tuple(broken))

    def number(self, index: int) -> int:
        """The store's number of a sample counted without the excluded ones."""
        return int(skip_excluded(np.array([index]), self.excluded)[0]) if len(self.excluded) else index

    def _whole_one(
        self, index: int, one: int, broken: list[CorruptSample], most: float
    ) -> tuple[np.ndarray, int]:
        for step in range(self.samples):
            number = self.number((index + step) % self.samples)
            name = self.store.name(number)
            try:
                return self.view(self.store.encoded(number), name, self.side, one), number
            except BrokenImage as error:
                broken.append(CorruptSample(name, str(error)))
                if len(broken) > most:
                    CorruptCounter(self.tolerate, self.source).add(0, broken)
            except Exception as error:  # whatever a codec or a store has to say, this is where
                kind = next(
                    (kind for kind in (StoreUnavailable, ValueError) if isinstance(error, kind)), RuntimeError
                )
                raise kind(f"sample {number}, {name}: {str(error) or type(error).__name__}") from error
        raise ValueError(f"{self.store.name(0)}: none of the {self.samples} samples can be decoded")

    def _labels(self, numbers: np.ndarray) -> Tensor:
        """int64 (n,), or where the store has samples of several labels, multi-hot float32 (n, classes)."""
        labels = [self.store.labels(number) for number in numbers.tolist()]
        if not self.store.multi:
            return torch.from_numpy(np.array([one[0] if len(one) else -1 for one in labels], np.int64))
        hot = torch.zeros(len(labels), self.classes)
        for row, one in zip(hot, labels):
            row[torch.from_numpy(one)] = 1
        return hot
