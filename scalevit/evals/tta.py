"""Test-time augmentation: predictions averaged over crops (centre, four corners) and mirrored crops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from scalevit.evals.datasets.probe_set import Images

#: Numbers of views: the centre; with the four corners; with all five mirrored.
VIEW_COUNTS = (1, 5, 10)

#: (down, right): the side of the image at which a corner's square lies.
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


class Corner:
    """Corner crops: the square at one corner of each image, with sides of `crop` × the image's short side."""

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
    """Horizontally mirrored images."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index][:, ::-1]


def views(images: Images, *, whole: bool, crop: float, count: int) -> list[tuple[Images, bool]]:
    """`count` views of each image (one of `VIEW_COUNTS`), each with a flag: whether it is resized whole to
    the model's square. crop: the share of the short side that the model's own central crop keeps."""
    crops: list[tuple[Images, bool]] = [(images, whole)]
    if count > 1:
        crops += [(Corner(images, crop, corner), True) for corner in CORNERS]
    if count > len(crops):
        crops += [(Mirrored(view), resized) for view, resized in crops]
    return crops


def average_predictions(logits: Sequence[Float[np.ndarray, "n c"]]) -> Float[np.ndarray, "n c"]:
    """Average of predictions: the logarithm of the mean softmax probability over views; of one view, its
    logits unchanged."""
    if len(logits) == 1:
        return logits[0]
    stacked = np.stack(logits).astype(np.float64)
    logs = stacked - np.logaddexp.reduce(stacked, axis=-1, keepdims=True)
    return (np.logaddexp.reduce(logs, axis=0) - np.log(len(logits))).astype(np.float32)
