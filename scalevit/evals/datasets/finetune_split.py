"""A labelled set as a source of training images, cropped as a store's photographs are.

Apart from finetune.py because image libraries cost a fifth of a second, which other runs need not pay.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import UInt8

from scalevit.config.run import Run
from scalevit.data.crops import eval_view, inception_box, mirrored, resize, square_view
from scalevit.data.loader import Batches, Samples
from scalevit.data.order import Order
from scalevit.data.procedural.hashing import key, uniform_one
from scalevit.data.registry import augmented
from scalevit.evals.finetune import FinetunePart, finetune_split
from scalevit.evals.in_training import open_set_cached

_CROPS = 8


def _inception(image: np.ndarray, side: int, one: int) -> np.ndarray:
    box = inception_box(image.shape[0], image.shape[1], one)
    part = image[box.top : box.top + box.height, box.left : box.left + box.width]
    view = resize(np.ascontiguousarray(part), side, side)
    return mirrored(view) if uniform_one(one, 0) < 0.5 else view


VIEWS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "inception": _inception,
    "central": lambda image, side, one: eval_view(image, side),
    "none": lambda image, side, one: square_view(image, side),
}


class FinetuneImages:
    """The training images of a part, seen through the run's transform."""

    is_cacheable = False
    class_cycle = 0

    def __init__(self, part: FinetunePart, side: int, transform: str, seed: int) -> None:
        self.part, self.side, self.seed, self.view = part, side, seed, VIEWS[transform]

    @property
    def samples(self) -> int:
        return len(self.part)

    def get(self, indices: np.ndarray, positions: np.ndarray) -> Samples:
        """Views of the images of these numbers."""
        images = np.empty((len(indices), self.side, self.side, 3), np.uint8)
        keys = key(self.seed, _CROPS, positions)
        for place, (index, one) in enumerate(zip(indices.tolist(), keys.tolist())):
            images[place] = self.view(to_rgb(self.part[index]), self.side, one)
        return Samples(torch.from_numpy(images), torch.from_numpy(self.part.labels[indices]))


def to_rgb(image: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """A grey image three times, a coloured one as it is."""
    return (
        np.ascontiguousarray(np.broadcast_to(image[..., None], (*image.shape, 3)))
        if image.ndim == 2
        else image
    )


def finetune_batches(run: Run, rank: int, world: int, pin: bool) -> Batches:
    """The batches of a run on a labelled set. Raises ValueError when its classes are not the model's."""
    data, found = run.data, open_set_cached(run.data.source)
    if found.classes != run.model.classes:
        raise ValueError(
            f"{data.source} has {found.classes} classes, the model {run.model.classes}; "
            f"set model.classes={found.classes}"
        )
    source = FinetuneImages(finetune_split(found, data.part)[0], run.model.image, data.transform, data.seed)
    order = Order(source.samples, data.images, data.seed)
    source = augmented(source, order, data, found.classes)
    return Batches(
        source, order, batch=run.train.batch, rank=rank, world=world, workers=data.workers, pin=pin
    )
