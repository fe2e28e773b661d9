"""A model on its way between formats: what it is, its tensors under our names, and how its images came."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace

import torch
from torch import Tensor

from scalevit.config import Model, Preprocessing
from scalevit.formats import mapping
from scalevit.formats.mapping import Held, Tensors
from scalevit.model import ViT
from scalevit.shapes import LETTERS


@dataclass(frozen=True)
class Package:
    """`state` fits `ViT(config)` exactly."""

    config: Model
    state: Mapping[str, Tensor]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


def packed(
    config: Model,
    source: Tensors,
    places: Callable[[ViT], dict[str, Held]],
    preprocessing: Preprocessing,
    implied: tuple[str, ...] = (),
) -> Package:
    """Everything in `source`, under our names, in float32. `implied`: parameters of ours that this format
    does not store because they are zero."""
    config = checked(config)
    model = ViT(config, device="meta")
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    state = mapping.to_ours({name: value.float() for name, value in source.items()}, places(model), shapes)
    state |= {name: torch.zeros(shapes[name]) for name in implied}
    return Package(config, state, preprocessing)


def checked(config: Model) -> Model:
    """`config` under the name of its shape, where it has one. Raises ValueError when it cannot be built."""
    shape = config.resolve()
    if min(shape.width, shape.depth, shape.mlp, shape.heads, shape.patch) < 1:
        raise ValueError(f"impossible shape {shape}")
    if shape.width % shape.heads:
        raise ValueError(f"{shape.heads} heads do not divide the width {shape.width}")
    if config.image % shape.patch:
        raise ValueError(f"an image of {config.image} pixels is not divisible by patches of {shape.patch}")
    same = [name for name, dims in LETTERS.items() if dims == astuple(shape)[:4]]
    return replace(config, shape=f"{same[0]}/{shape.patch}") if same else config
