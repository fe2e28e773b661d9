"""Pixel normalisation: uint8 images to a model's input, by the mean and standard deviation of its weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scalevit.config.run import Preprocessing
from scalevit.data.loader import as_floats


def normaliser(preprocessing: Preprocessing) -> Callable[[Tensor], Tensor]:
    """A function from pixels (b, h, w, 3), 0 to 255, to the input (b, 3, h, w) of a model with this
    preprocessing. For a mean and standard deviation of 0.5 it is `as_floats` itself."""
    if preprocessing.mean == preprocessing.std == (0.5, 0.5, 0.5):
        return as_floats
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))

    def normalise(images: Tensor) -> Tensor:
        return ((as_floats(images) + 1) / 2 - mean.to(images.device)) / std.to(images.device)

    return normalise
