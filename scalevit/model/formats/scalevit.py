"""scalevit's own folder: `model.safetensors` and `config.json`, in timm's layout, so that timm can load it.

`config.json` describes the model twice: to timm, where timm can build it, and to us under "scalevit".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from scalevit.config.dataclass_io import from_dict
from scalevit.config.run import Model, Preprocessing
from scalevit.model.formats import files, preprocessing, schema, timm
from scalevit.model.formats.files import WeightSource
from scalevit.model.formats.package import ModelPackage, package_of
from scalevit.model.vit import ViT

#: The files of a folder.
NAMES = ("model.safetensors", "config.json")


def read(source: WeightSource, about: Mapping[str, Any]) -> ModelPackage:
    """Package of what `write_folder` wrote."""
    ours = schema.JsonObject(about, "config.json").mapping("scalevit")
    errors: list[str] = []
    config = from_dict(Model, ours.mapping("model").values, errors, "model.")
    stored = dict(ours.mapping("preprocessing").values)
    if isinstance(stored.get("interpolation"), str):
        stored["interpolation"] = preprocessing.interpolation(stored["interpolation"], files.tell)
    scaling = from_dict(Preprocessing, stored, errors, "preprocessing.")
    if errors:
        raise ValueError("; ".join(errors))
    schema.require_model_ranges(config)
    names = schema.class_names(ours.values.get("class_names"), config.classes)
    return package_of(
        config, source.tensors(NAMES[:1]), timm.places, preprocessing.check(scaling, config.channels),
        class_names=names,
    )  # fmt: skip


def write_folder(model: ViT, folder: Path, read: Callable[[str], Tensor] | None = None) -> None:
    """Write everything that `read`, and timm where it can, needs to build the model again.

    read: gives the tensors by name, one at a time, for a model that has no memory itself."""
    state = model.state_dict()
    described = {**asdict(model.config), **asdict(model.config.resolve())}
    about: dict[str, Any] = {"model": described, "preprocessing": asdict(model.preprocessing)}
    about |= {"class_names": list(model.class_names)} if model.class_names else {}
    with files.atomic_folder(folder) as temporary:
        files.stream_tensors(temporary / "model.safetensors", state, read or state.__getitem__)
        files.write_json(temporary / "config.json", {**_for_timm(model), "scalevit": about})


def _for_timm(model: ViT) -> dict[str, Any]:
    try:
        return timm.description(model.config, model.preprocessing, model.class_names)
    except ValueError as error:
        return {"timm": f"cannot build this model: {error}"}
