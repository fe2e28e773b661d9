"""Augmentation of views that are ready, whatever they come from: RandAugment, then mixup.

Both are functions of the seed and of an image's position in the run alone: a resumed run, another number of
devices or of workers sees the same images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.nn.functional import one_hot

from scalevit.data.loader import Samples, Source
from scalevit.data.order import Positions
from scalevit.data.procedural.hashing import key, uniform, uniform_one

_BEND, _MIX = 10, 11
#: Operations on each image (AugReg, arXiv 2106.10270: two), and the magnitude of their full strength.
OPERATIONS, FULL = 2, 10
GREY = (128, 128, 128)


class Augmented:
    """`source` with RandAugment of a magnitude (0: none) and mixup of a parameter (0.0: none)."""

    is_cacheable = False

    def __init__(
        self, source: Source, order: Positions, *, classes: int, seed: int, randaugment: int, mixup: float
    ) -> None:
        self.source, self.order, self.classes, self.seed = source, order, classes, seed
        self.randaugment, self.mixup = randaugment, mixup

    @property
    def samples(self) -> int:
        return self.source.samples

    @property
    def class_cycle(self) -> int:
        return self.source.class_cycle

    def get(self, indices: np.ndarray, positions: np.ndarray) -> Samples:
        """Labels are single, or with mixup shares of classes (n, classes)."""
        images, labels, broken = self._bent(indices, positions)
        if not self.mixup:
            return Samples(images, labels, broken)
        others = np.setdiff1d(positions ^ 1, positions)  # partners that are no part of what was asked
        if len(others):
            more, theirs, _ = self._bent(self.order.at(others)[1], others)
            images, labels = torch.cat([images, more]), torch.cat([labels, theirs])
        every = np.concatenate([positions, others])
        sort = np.argsort(every)
        partners = torch.from_numpy(sort[np.searchsorted(every, positions ^ 1, sorter=sort)])
        share = torch.from_numpy(shares(key(self.seed, _MIX, positions), self.mixup))
        own = torch.arange(len(positions))
        return Samples(*mixed(images, _hot(labels, self.classes), own, partners, share), broken)

    def _bent(self, indices: np.ndarray, positions: np.ndarray) -> Samples:
        images, labels, broken = self.source.get(indices, positions)
        if self.randaugment:
            keys = key(self.seed, _BEND, positions).tolist()
            bent = [rand_augment(x, one, self.randaugment) for x, one in zip(images.numpy(), keys)]
            images = torch.from_numpy(np.stack(bent))
        return Samples(images, labels, broken)


def _hot(labels: Tensor, classes: int) -> Tensor:
    return labels if labels.is_floating_point() else one_hot(labels, classes).float()


# --------------------------------------------------------------------------- mixup


def shares(keys: np.ndarray, parameter: float) -> Float[np.ndarray, " n"]:
    """Each image's own share: the larger of λ and 1 - λ for λ from Beta(parameter, parameter)
    (Zhang et al. 2018, arXiv 1710.09412)."""
    from scipy.special import betaincinv

    share = betaincinv(parameter, parameter, uniform(keys, 0))
    return np.maximum(share, 1 - share).astype(np.float32)


def mixed(
    images: UInt8[Tensor, "m y x 3"],
    labels: Float[Tensor, "m c"],
    own: Tensor,
    partners: Tensor,
    share: Float[Tensor, " n"],
) -> tuple[UInt8[Tensor, "n y x 3"], Float[Tensor, "n c"]]:
    """share × own + (1 - share) × partner, of pixels and labels; own, partners (n,): which of the images."""
    of_image = share[:, None, None, None]
    pixels = of_image * images[own] + (1 - of_image) * images[partners]
    of_label = share[:, None]
    return pixels.round().to(torch.uint8), of_label * labels[own] + (1 - of_label) * labels[partners]


# --------------------------------------------------------------------------- RandAugment


def rand_augment(image: UInt8[np.ndarray, "y x 3"], one: int, magnitude: int) -> UInt8[np.ndarray, "y x 3"]:
    """Two operations drawn by the key `one`, each at this magnitude (10: full strength), with a random sign
    where it has one (Cubuk et al. 2020, arXiv 1909.13719, their 14 operations)."""
    view, names = Image.fromarray(image), list(OPS)
    for k in range(OPERATIONS):
        name = names[int(uniform_one(one, 2 * k) * len(names))]
        sign = 1 if uniform_one(one, 2 * k + 1) < 0.5 else -1
        view = OPS[name](view, sign * magnitude / FULL)
    return np.asarray(view)


#: An operation on an image at a strength: 0 changes nothing, ±1 is full.
Op = Callable[[Image.Image, float], Image.Image]


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Op:
    return lambda image, strength: kind(image).enhance(max(0.0, 1 + 0.9 * strength))


def _moved(of_side: Callable[[float, int], tuple[float, ...]]) -> Op:
    def move(image: Image.Image, strength: float) -> Image.Image:
        places = of_side(strength, image.width)
        return image.transform(
            image.size, Image.Transform.AFFINE, places, Image.Resampling.BILINEAR, fillcolor=GREY
        )

    return move


OPS: dict[str, Op] = {
    "identity": lambda image, strength: image,
    "autocontrast": lambda image, strength: ImageOps.autocontrast(image),
    "equalize": lambda image, strength: ImageOps.equalize(image),
    "rotate": lambda image, strength: image.rotate(30 * strength, Image.Resampling.BILINEAR, fillcolor=GREY),
    "solarize": lambda image, strength: ImageOps.solarize(image, round(256 * max(0, 1 - abs(strength)))),
    "posterize": lambda image, strength: ImageOps.posterize(image, max(1, 8 - round(4 * abs(strength)))),
    "colour": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear x": _moved(lambda strength, side: (1, 0.3 * strength, 0, 0, 1, 0)),
    "shear y": _moved(lambda strength, side: (1, 0, 0, 0.3 * strength, 1, 0)),
    "move x": _moved(lambda strength, side: (1, 0, 0.3 * strength * side, 0, 1, 0)),
    "move y": _moved(lambda strength, side: (1, 0, 0, 0, 1, 0.3 * strength * side)),
}
