"""Several views of each image, whose predictions are averaged: the centre, four corners, and all mirrored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from scalevit.evals.datasets.probe_set import Images

#: How many views there can be: the centre alone, with the corners, each mirrored too.
VIEW_COUNTS = (1, 5, 10)

#: (down, right): the side of the image at which a corner's square lies.
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


class Corner:
    """The square at a corner of each image whose side is `crop` × the image's short side."""

    def __init__(self, images: Images, crop: float, corner: tuple[int, int]) -> None:
        self.images, self.crop, self.corner = images, crop, corner

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        image = self.images[index]
        side = max(1, round(self.crop * min(image.shape[:2])))
        top, left = ((size - side) * far for size, far in zip(image.shape[:2], self.corner))
        return image[top : top + side, left : left + side]


class Mirrored:
    """Left and right exchanged."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index][:, ::-1]


def views(images: Images, *, whole: bool, crop: float, count: int) -> list[tuple[Images, bool]]:
    """`count` of `COUNTS` views, each with whether it is resized whole to the model's square. crop: the share
    of the short side that the model's own central crop keeps."""
    found: list[tuple[Images, bool]] = [(images, whole)]
    if count > 1:
        found += [(Corner(images, crop, corner), True) for corner in CORNERS]
    if count > len(found):
        found += [(Mirrored(view), resized) for view, resized in found]
    return found


def average_predictions(logits: Sequence[Float[np.ndarray, "n c"]]) -> Float[np.ndarray, "n c"]:
    """Logarithms of the mean over views of the softmax probabilities; of one view, its logits as they are."""
    if len(logits) == 1:
        return logits[0]
    stacked = np.stack(logits).astype(np.float64)
    logs = stacked - np.logaddexp.reduce(stacked, axis=-1, keepdims=True)
    return (np.logaddexp.reduce(logs, axis=0) - np.log(len(logits))).astype(np.float32)
