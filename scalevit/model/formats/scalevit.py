"""Our own folder: `model.safetensors` and `config.json`, in timm's layout, so that it needs no code of ours.

`config.json` describes the model twice: to timm, where timm can build it, and to us under "scalevit".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from scalevit.config.dataclass_io import from_dict
from scalevit.config.run import Model, Preprocessing
from scalevit.model.formats import files, timm
from scalevit.model.formats.package import ModelPackage, package_of
from scalevit.model.vit import ViT


def read_folder(folder: Path) -> ModelPackage:
    """What `write_folder` wrote."""
    ours = files.read_json(folder / "config.json")["scalevit"]
    mistakes: list[str] = []
    config = from_dict(Model, ours["model"], mistakes, "model.")
    preprocessing = from_dict(Preprocessing, ours["preprocessing"], mistakes, "preprocessing.")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return package_of(config, files.read_folder(folder, ("model.safetensors",)), timm.places, preprocessing)


def write_folder(model: ViT, folder: Path, read: Callable[[str], Tensor] | None = None) -> None:
    """Everything that `read_folder`, and timm where it can, needs to build the model again.

    read: gives the tensors by name, one at a time, for a model that has no memory itself."""
    state = model.state_dict()
    described = {**asdict(model.config), **asdict(model.config.resolve())}
    about = {"scalevit": {"model": described, "preprocessing": asdict(model.preprocessing)}}
    with files.atomic_folder(folder) as temporary:
        files.stream_tensors(temporary / "model.safetensors", state, read or state.__getitem__)
        files.write_json(temporary / "config.json", {**_for_timm(model), **about})


def _for_timm(model: ViT) -> dict[str, Any]:
    try:
        return timm.description(model.config, model.preprocessing)
    except ValueError as error:
        return {"timm": f"cannot build this model: {error}"}
