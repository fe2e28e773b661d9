"""Weights in and out: format detection, reading, writing with a check, and positions for another resolution.

`load` takes a run's folder or its `model/`, a big_vision npz, folders and files of timm, transformers and
open_clip, and names at timm or the Hugging Face hub. No file is ever unpickled.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from scalevit.config.run import Model
from scalevit.model.formats import bigvision, files, hf, hf_write, onnx, openclip, scalevit, timm
from scalevit.model.formats.files import WeightSource
from scalevit.model.formats.name_mapping import require_finite
from scalevit.model.formats.package import ModelPackage, with_shape_name
from scalevit.model.initialisation import sincos2d
from scalevit.model.vit import ViT

if TYPE_CHECKING:
    import numpy as np

#: Formats that `write` knows.
TARGETS = ("scalevit", "timm", "hf", "bigvision", "onnx")
#: Largest difference of outputs, relative to the largest, between a model and what was written of it.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load(source: str | Path, *, image: int = 0, part: str = "") -> ViT:
    """The model that `source` holds, on the CPU, in float32, ready to evaluate or to train.

    source: a path, "timm:NAME", or "hf-hub:OWNER/NAME"; a file that is named is the file that is read. image:
    side in pixels to resample the positions to; 0 keeps the source's. part: the entry of a training
    checkpoint, e.g. "state_dict" or "model_ema"; by default an average where there is one, and a line on
    stderr says which. `model.preprocessing` says how images must be scaled, `model.class_names` what the
    outputs are called. Raises ValueError, in one line, for whatever is no model, is damaged, or does not
    fit."""
    try:
        package = _package(str(source), image, part)
        require_finite(package.state)
        model = build(package)
    except ValueError as error:
        raise ValueError(_with_source(str(source), str(error))) from None
    return resized(model, image) if image and image != package.config.image else model


def build(package: ModelPackage) -> ViT:
    """The model of a package, with its tensors, preprocessing and class names."""
    model = ViT(package.config, device="meta")
    model.load_state_dict(package.state, assign=True)
    model.preprocessing, model.class_names = package.preprocessing, package.class_names
    return model


def save(model: ViT, path: str | Path) -> None:
    """Write `model` to a folder at `path`: model.safetensors and config.json, which `load` reads, and timm
    too wherever it can build such a model. Raises ValueError for a folder that holds another model."""
    files.require_writable(Path(path), scalevit.NAMES)
    scalevit.write_folder(model, Path(path))


def write(model: ViT, path: Path, target: str, dtype: str = "float32") -> dict[str, float]:
    """Write `model` as one of `TARGETS`, read it back, and return the largest relative difference of outputs.

    Raises ValueError when that format cannot hold a model that computes the same, when the output folder
    holds another model, and when the difference exceeds the tolerance; nothing is written then."""
    if target == "onnx":
        return {"largest_difference": onnx.write(model, path, DTYPES[dtype])}
    writer, names = WRITERS[target]
    stored = model if dtype == "float32" else copy.deepcopy(model).to(DTYPES[dtype])
    if names:
        files.require_writable(path, names)
        with files.atomic_folder(path) as temporary:
            writer(stored, temporary)
            return {"largest_difference": _checked(model, temporary, target, DTYPES[dtype])}
    with files.atomic_file(path) as temporary:
        writer(stored, temporary)
        return {"largest_difference": _checked(model, temporary, target, DTYPES[dtype])}


def _checked(model: ViT, written: Path, target: str, dtype: torch.dtype) -> float:
    """Largest difference between the outputs of `model` and of what was written, relative to the largest
    output. Raises ValueError above the tolerance; says what else the format does not hold."""
    again = load(written, image=0 if model.config.image_width else model.config.image)
    if model.class_names and again.class_names != model.class_names:
        files.tell(f"--to {target}: the names of the classes are not kept in this format")
    if not again.preprocessing.agrees(model.preprocessing):
        files.tell(
            f"--to {target}: the preprocessing is not kept whole in this format: {model.preprocessing}"
        )
    images = example_images(model, 2)
    with torch.no_grad():
        ours, theirs = copy.deepcopy(model).cpu().eval()(images), again.eval()(images)
    difference = ((theirs - ours).abs().max() / ours.abs().max().clamp_min(1e-12)).item()
    if not difference <= TOLERANCES[dtype]:
        raise ValueError(
            f"what was written as {target} differs from the model by {difference:.1e}, more than "
            f"{TOLERANCES[dtype]:.0e}: not written"
        )
    return difference


def example_images(model: ViT, count: int) -> Float[Tensor, "b k y x"]:
    """Random images of the model's size, always the same."""
    size = (count, model.config.channels, *model.config.image_size)
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def without_head(model: ViT) -> ViT:
    """The model without its classifier: its outputs are then the features."""
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("head.")}
    return _rebuilt(model, replace(model.config, classes=0), state)


def resized(model: ViT, image: int) -> ViT:
    """The model for images of `image` pixels, its positions resampled (Dosovitskiy et al. 2021)."""
    s, state = model.config.resolve(), dict(model.state_dict())
    if model.config.image_width:
        raise ValueError(f"image={image}: this model's images are not square, {model.config.image_size}")
    if image % s.patch:
        raise ValueError(f"image={image} is not divisible by patches of {s.patch} pixels")
    grid = image // s.patch
    prefix = model.prefix if model.config.prefix_positions else 0
    positions = state["pos_embed"]
    if model.config.positions == "sincos2d":
        moved = sincos2d(grid, grid, s.width).to(positions)
    else:
        moved = resample_positions(positions[:, prefix:], grid)
    state["pos_embed"] = torch.cat([positions[:, :prefix], moved], dim=1)
    return _rebuilt(model, replace(model.config, image=image), state)


def resample_positions(positions: Float[Tensor, "1 n d"], grid: int) -> Float[Tensor, "1 m d"]:
    """Resample a square grid of positions to grid × grid points, bilinearly with corners kept on corners (as
    the authors do: scipy's zoom of order 1)."""
    old = math.isqrt(positions.shape[1])
    if old**2 != positions.shape[1]:
        raise ValueError(f"{positions.shape[1]} positions are no square grid")
    square = positions.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    moved = torch.nn.functional.interpolate(
        square.double(), size=(grid, grid), mode="bilinear", align_corners=True
    )
    return moved.permute(0, 2, 3, 1).reshape(1, grid * grid, -1).to(positions.dtype)


# --------------------------------------------------------------------------- format detection


def _package(source: str, image: int, part: str) -> ModelPackage:
    scheme, colon, rest = source.partition(":")
    if colon and scheme in SCHEMES:
        return SCHEMES[scheme](rest)
    path = Path(source)
    if path.suffix == ".npz" and path.is_file():
        return _bigvision(bigvision.read(path), image)
    if path.is_dir():
        return _folder(WeightSource(path, None, part))
    if path.is_file():
        return _file(path, part)
    raise ValueError(
        f"no such file or folder; names elsewhere begin with {', '.join(f'{s}:' for s in SCHEMES)}"
    )


def _folder(source: WeightSource) -> ModelPackage:
    folder = source.folder
    if (folder / openclip.CONFIG).is_file():
        return openclip.read(source)
    if (folder / "config.json").is_file():
        about = files.read_json(folder / "config.json")
        if "scalevit" in about:
            return scalevit.read(source, about)
        if "model_type" in about:
            return hf.read(source, about)
        given = about.get("pretrained_cfg")
        if "architecture" in about or (isinstance(given, dict) and "architecture" in given):
            return timm.read(source, about)
        raise ValueError("config.json names neither an architecture of timm nor a model_type of transformers")
    if (folder / "model").is_dir():
        return _folder(replace(source, folder=folder / "model"))
    raise ValueError("a folder without config.json, open_clip_config.json or model/: no model in it")


def _file(path: Path, part: str) -> ModelPackage:
    """The tensors of this very file, described by the configuration beside it."""
    if path.suffix not in files.ENDINGS:
        raise ValueError(f"not a format of weights: expected a folder, .npz, {', '.join(files.ENDINGS)}")
    if not ((path.parent / "config.json").is_file() or (path.parent / openclip.CONFIG).is_file()):
        raise ValueError(
            "tensors alone do not say how many heads they have: put their config.json beside them"
        )
    return _folder(WeightSource(path.parent, path, part))


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
        patterns = ["*.json", "*.safetensors"]
        return _local(snapshot_download(name, allow_patterns=patterns))
    except OSError as error:
        raise ValueError(f"cannot download {name}: {str(error).splitlines()[0]}") from None


def _local(path: str) -> ModelPackage:
    return _folder(WeightSource(Path(path)))


SCHEMES: dict[str, Callable[[str], ModelPackage]] = {
    "timm": timm.read_name,
    "hf-hub": _hub,
    "timm-local": _local,
    "local-dir": _local,
}


# --------------------------------------------------------------------------- writing


def _write_timm(model: ViT, path: Path) -> None:
    timm.description(model.config, model.preprocessing)
    scalevit.write_folder(model, path)


def _write_npz(model: ViT, path: Path) -> None:
    import numpy as np

    if path.suffix != ".npz":
        raise ValueError(f"a big_vision file ends in .npz, not {path.name!r}")
    np.savez(path, allow_pickle=False, **bigvision.write(model))


#: Writers, and the files that each puts into a folder; none for a single file.
WRITERS: dict[str, tuple[Callable[[ViT, Path], None], tuple[str, ...]]] = {
    "scalevit": (scalevit.write_folder, scalevit.NAMES),
    "timm": (_write_timm, scalevit.NAMES),
    "hf": (hf_write.write_folder, hf_write.NAMES),
    "bigvision": (_write_npz, ()),
}


def _rebuilt(model: ViT, config: Model, state: dict[str, Any]) -> ViT:
    other = ViT(config, device="meta")
    other.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
    other.preprocessing = model.preprocessing
    other.class_names = model.class_names if config.classes else ()
    return other.train(model.training)


def _with_source(source: str, message: str) -> str:
    return message if source in message else f"{source}: {message}"
