"""A model on its way between formats: what it is, its tensors under our names, and how its images came."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace

import torch
from torch import Tensor

from scalevit.config.model_sizes import LETTERS
from scalevit.config.run import Model, Preprocessing
from scalevit.model.formats import name_mapping
from scalevit.model.formats.name_mapping import SourceTensors, Tensors
from scalevit.model.vit import ViT


@dataclass(frozen=True)
class ModelPackage:
    """`state` fits `ViT(config)` exactly."""

    config: Model
    state: Mapping[str, Tensor]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


def package_of(
    config: Model,
    source: Tensors,
    places: Callable[[ViT], dict[str, SourceTensors]],
    preprocessing: Preprocessing,
    implied: tuple[str, ...] = (),
) -> ModelPackage:
    """Everything in `source`, under our names, in float32. `implied`: parameters of ours that this format
    does not store because they are zero."""
    config = with_shape_name(config)
    model = ViT(config, device="meta")
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    state = name_mapping.to_ours(
        {name: value.float() for name, value in source.items()}, places(model), shapes
    )
    state |= {name: torch.zeros(shapes[name]) for name in implied}
    return ModelPackage(config, state, preprocessing)


def with_shape_name(config: Model) -> Model:
    """`config` under the name of its shape, where that has one."""
    shape = config.resolve()
    same = [name for name, dims in LETTERS.items() if dims == astuple(shape)[:4]]
    return replace(config, shape=f"{same[0]}/{shape.patch}") if same else config
