"""Weights in and out: which format something is, positions for another resolution, and nothing left over.

`load` takes a run's folder or its `model/`, a big_vision npz, folders of timm, transformers and open_clip,
and names at timm or the Hugging Face hub. No file is ever unpickled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from scalevit.config.run import Model
from scalevit.model.formats import bigvision, files, hf, onnx, openclip, scalevit, timm
from scalevit.model.formats.name_mapping import require_finite
from scalevit.model.formats.package import ModelPackage, with_shape_name
from scalevit.model.initialisation import sincos2d
from scalevit.model.vit import ViT

if TYPE_CHECKING:
    import numpy as np


def load(source: str | Path, *, image: int = 0) -> ViT:
    """The model that `source` holds, on the CPU, in float32, ready to evaluate or to train.

    source: a path, "timm:NAME", or "hf-hub:OWNER/NAME". image: side in pixels to resample the positions to;
    0 keeps the source's. `model.preprocessing` says how its images must be scaled.
    Raises ValueError, in one line, for whatever is no such thing, is damaged, or does not fit."""
    try:
        package = _package(str(source), image)
        require_finite(package.state)
        model = ViT(package.config, device="meta")
        model.load_state_dict(package.state, assign=True)
    except ValueError as error:
        raise ValueError(_named(str(source), str(error))) from None
    model.preprocessing = package.preprocessing
    return resized(model, image) if image and image != package.config.image else model


def save(model: ViT, path: str | Path) -> None:
    """Write `model` to a folder at `path`: model.safetensors and config.json, which `load` reads, and timm
    too wherever it can build such a model."""
    scalevit.write_folder(model, Path(path))


def write(model: ViT, path: Path, target: str) -> dict[str, float]:
    """Write `model` as `target`: scalevit, timm, hf, bigvision or onnx. Gives figures of the check, if made.

    Raises ValueError when that format cannot hold a model that computes the same, and writes nothing then."""
    if target == "onnx":
        return {"largest_difference": onnx.write(model, path)}
    writers: dict[str, Callable[[ViT, Path], None]] = {
        "scalevit": scalevit.write_folder,
        "timm": _write_timm,
        "hf": hf.write_folder,
        "bigvision": _write_npz,
    }
    writers[target](model, path)
    return {}


def without_head(model: ViT) -> ViT:
    """The same model without its classifier: logits are then the features."""
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("head.")}
    return _rebuilt(model, replace(model.config, classes=0), state)


def resized(model: ViT, image: int) -> ViT:
    """The same model for images of `image` pixels, its positions resampled (Dosovitskiy et al. 2021)."""
    s, state = model.config.resolve(), dict(model.state_dict())
    if image % s.patch:
        raise ValueError(f"image={image} is not divisible by patches of {s.patch} pixels")
    grid = image // s.patch
    prefix = model.prefix if model.config.prefix_positions else 0
    positions = state["pos_embed"]
    if model.config.positions == "sincos2d":
        moved = sincos2d(grid, s.width).to(positions)
    else:
        moved = resample_positions(positions[:, prefix:], grid)
    state["pos_embed"] = torch.cat([positions[:, :prefix], moved], dim=1)
    return _rebuilt(model, replace(model.config, image=image), state)


def resample_positions(positions: Float[Tensor, "1 n d"], grid: int) -> Float[Tensor, "1 m d"]:
    """A square grid of positions at grid × grid points, bilinear, corners kept on corners (the authors' way:
    scipy's zoom of order 1)."""
    old = math.isqrt(positions.shape[1])
    if old**2 != positions.shape[1]:
        raise ValueError(f"{positions.shape[1]} positions are no square grid")
    square = positions.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    moved = torch.nn.functional.interpolate(
        square.double(), size=(grid, grid), mode="bilinear", align_corners=True
    )
    return moved.permute(0, 2, 3, 1).reshape(1, grid * grid, -1).to(positions.dtype)


# --------------------------------------------------------------------------- which format it is


def _package(source: str, image: int) -> ModelPackage:
    scheme, colon, rest = source.partition(":")
    if colon and scheme in SCHEMES:
        return SCHEMES[scheme](rest)
    path = Path(source)
    if path.suffix == ".npz" and path.is_file():
        return _bigvision(bigvision.read(path), image)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _bare(path)
    raise ValueError(
        f"no such file or folder; names elsewhere begin with {', '.join(f'{s}:' for s in SCHEMES)}"
    )


def _folder(folder: Path) -> ModelPackage:
    if (folder / openclip.CONFIG).is_file():
        return openclip.read_folder(folder)
    if (folder / "config.json").is_file():
        about = files.read_json(folder / "config.json")
        if "scalevit" in about:
            return scalevit.read_folder(folder)
        if "model_type" in about:
            return hf.read_folder(folder)
        if "architecture" in about or "architecture" in about.get("pretrained_cfg", {}):
            return timm.read_folder(folder)
        raise ValueError("config.json names neither an architecture of timm nor a model_type of transformers")
    if (folder / "model").is_dir():
        return _folder(folder / "model")
    raise ValueError("a folder without config.json, open_clip_config.json or model/: no model in it")


def _bare(path: Path) -> ModelPackage:
    """A file of tensors, described by the config.json beside it."""
    if path.suffix not in (".safetensors", ".bin", ".pt", ".pth"):
        raise ValueError("not a format of weights: expected .npz, .safetensors or a folder")
    files.read_tensors(path)
    if not ((path.parent / "config.json").is_file() or (path.parent / openclip.CONFIG).is_file()):
        raise ValueError(
            "tensors alone do not say how many heads they have: put their config.json beside them"
        )
    return _folder(path.parent)


def _bigvision(flat: dict[str, np.ndarray], image: int) -> ModelPackage:
    config = with_shape_name(bigvision.infer(flat, image))
    state = bigvision.to_ours(flat, ViT(config, device="meta"))
    return ModelPackage(config, {name: value.float() for name, value in state.items()})


def _hub(name: str) -> ModelPackage:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError('downloading needs huggingface-hub: pip install "scalevit[hub]"') from None
    try:
        wanted = ["*.json", "*.safetensors"]
        return _folder(Path(snapshot_download(name, allow_patterns=wanted)))
    except OSError as error:
        raise ValueError(f"cannot download {name}: {str(error).splitlines()[0]}") from None


def _local(path: str) -> ModelPackage:
    return _folder(Path(path))


SCHEMES: dict[str, Callable[[str], ModelPackage]] = {
    "timm": timm.read_name,
    "hf-hub": _hub,
    "timm-local": _local,
    "local-dir": _local,
}


# --------------------------------------------------------------------------- out


def _write_timm(model: ViT, path: Path) -> None:
    timm.description(model.config, model.preprocessing)
    scalevit.write_folder(model, path)


def _write_npz(model: ViT, path: Path) -> None:
    import numpy as np

    if path.suffix != ".npz":
        raise ValueError(f"a big_vision file ends in .npz, not {path.name!r}")
    arrays = bigvision.write(model)
    with files.atomic_file(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)


def _rebuilt(model: ViT, config: Model, state: dict[str, Any]) -> ViT:
    other = ViT(config, device="meta")
    other.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
    other.preprocessing = model.preprocessing
    return other.train(model.training)


def _named(source: str, message: str) -> str:
    return message if source in message else f"{source}: {message}"
