"""Model package: a model on its way between formats, as configuration, tensors, preprocessing and class
names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace

import torch
from torch import Tensor

from scalevit.config.model_sizes import LETTERS
from scalevit.config.run import Model, Preprocessing
from scalevit.model.formats import name_mapping, schema
from scalevit.model.formats.name_mapping import SourceTensors, Tensors
from scalevit.model.vit import ViT


@dataclass(frozen=True)
class ModelPackage:
    """`state` fits `ViT(config)` exactly. class_names: of the head's outputs, () where they are unknown."""

    config: Model
    state: Mapping[str, Tensor]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: tuple[str, ...] = ()


def package_of(
    config: Model,
    source: Tensors,
    places: Callable[[ViT], dict[str, SourceTensors]],
    preprocessing: Preprocessing,
    implied: tuple[str, ...] = (),
    class_names: tuple[str, ...] = (),
) -> ModelPackage:
    """Package of all tensors in `source`, under our names, in float32. `implied`: parameters that this format
    does not store because they are zero. Raises ValueError for a model that the file cannot hold."""
    schema.require_model_ranges(config)
    shape = config.resolve()
    if shape.depth > len(source):
        raise ValueError(f"a depth of {shape.depth}, but the file holds {len(source)} tensors")
    config = with_shape_name(config)
    model = ViT(config, device="meta")
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    mapping = {name: held for name, held in places(model).items() if name not in implied}
    state = name_mapping.to_ours({name: value.float() for name, value in source.items()}, mapping, shapes)
    state |= {name: torch.zeros(shapes[name]) for name in implied if name in shapes}
    return ModelPackage(config, state, preprocessing, class_names)


def with_shape_name(config: Model) -> Model:
    """`config` under the name of its shape, where that has one."""
    shape = config.resolve()
    same = [name for name, dims in LETTERS.items() if dims == astuple(shape)[:4]]
    return replace(config, shape=f"{same[0]}/{shape.patch}") if same else config
