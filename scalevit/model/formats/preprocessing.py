"""Preprocessing as timm, transformers and open_clip write it down, to and from `Preprocessing`.

Rescaling factors and missing normalisation are folded into mean and standard deviation, so that a network
always sees (pixel / 255 - mean) / std. What cannot be computed exactly is a note for the user.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from scalevit.config.run import Model, Preprocessing
from scalevit.model.formats import files
from scalevit.model.formats.schema import JsonObject, quoted

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Note = Callable[[str], None]

#: Interpolations that are computed, and what stands in for the others.
_INTERPOLATIONS: dict[str, Interpolation] = {
    "nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic", "random": "bicubic",
    "lanczos": "bicubic", "box": "bilinear", "hamming": "bilinear",
}  # fmt: skip
#: Pillow's numbers of interpolations, as preprocessor_config.json gives them.
_PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_PILLOW_NUMBERS = {"nearest": 0, "bilinear": 2, "bicubic": 3}
_NUMBERS = {"low": -1e4, "high": 1e4}
_DEVIATIONS = {"low": 1e-6, "high": 1e4}


def interpolation(name: str, tell: Note) -> Interpolation:
    """The interpolation of this name, or its stand-in with a note."""
    if name not in _INTERPOLATIONS:
        raise ValueError(f"interpolation {quoted(name)}: known are {', '.join(_INTERPOLATIONS)}")
    if _INTERPOLATIONS[name] != name:
        tell(f"interpolation {name} is computed as {_INTERPOLATIONS[name]}")
    return _INTERPOLATIONS[name]


def check(preprocessing: Preprocessing, channels: int) -> Preprocessing:
    """The preprocessing; ValueError for numbers that no image can be scaled with."""
    mean, std = preprocessing.mean, preprocessing.std
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"preprocessing: {len(mean)} means and {len(std)} deviations for {channels} channels"
        )
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise ValueError(f"preprocessing: mean {mean} and std {std} must be finite, std positive")
    if not 0.01 <= preprocessing.crop <= 1:
        raise ValueError(f"preprocessing.crop: must lie in [0.01, 1], found {preprocessing.crop}")
    return preprocessing


# --------------------------------------------------------------------------- timm


def from_timm(given: Mapping[str, Any], channels: int, side: int, tell: Note = files.tell) -> Preprocessing:
    """What a pretrained_cfg says, with timm's own defaults."""
    about = JsonObject(given, "pretrained_cfg")
    mean, std = (
        about.numbers(key, _channels(default, channels), **bounds)
        for key, default, bounds in (("mean", IMAGENET[0], _NUMBERS), ("std", IMAGENET[1], _DEVIATIONS))
    )
    modes: dict[str, Literal["shortest", "squash", "longest"]] = {
        "center": "shortest", "squash": "squash", "border": "longest",
    }  # fmt: skip
    mode = about.text("crop_mode", "center") or "center"
    if mode not in modes:
        raise ValueError(f"pretrained_cfg.crop_mode: {quoted(mode)} is none of {', '.join(modes)}")
    crop = about.number("crop_pct", 0.875, low=0.01, high=4.0)
    if crop > 1:
        tell(f"pretrained_cfg.crop_pct: {crop:g} would enlarge the crop beyond the image; 1 is used")
        crop = 1.0
    how = interpolation(about.text("interpolation", "bicubic"), tell)
    return check(Preprocessing(mean, std, how, _rounded(crop, side), modes[mode]), channels)


def _rounded(crop: float, side: int) -> float:
    """timm resizes to side / crop rounded down; here it is rounded to the nearest."""
    down = math.floor(side / crop)
    return crop if round(side / crop) == down else side / down


def _channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Three values as they are; for any other number of channels their mean, as timm has it."""
    return values if channels == 3 else (sum(values) / 3,) * channels


def to_timm(preprocessing: Preprocessing, side: int) -> dict[str, Any]:
    """The same for a pretrained_cfg."""
    mode = {"shortest": "center", "squash": "squash", "longest": "border"}[preprocessing.resize]
    size = round(side / preprocessing.crop)
    crop = preprocessing.crop
    return {
        "interpolation": preprocessing.interpolation, "crop_mode": mode,
        "crop_pct": crop if math.floor(side / crop) == size else side / (size + 0.5),
        "mean": list(preprocessing.mean), "std": list(preprocessing.std),
    }  # fmt: skip


# --------------------------------------------------------------------------- transformers

#: Defaults of transformers' image processors: size, crop, Pillow's interpolation, mean and deviation.
_PROCESSORS: dict[
    str, tuple[dict[str, int], int | None, int, tuple[tuple[float, ...], tuple[float, ...]]]
] = {
    "ViT": ({"height": 224, "width": 224}, None, 2, HALF),
    "Siglip": ({"height": 224, "width": 224}, None, 3, HALF),
    "DeiT": ({"height": 256, "width": 256}, 224, 3, IMAGENET),
    "CLIP": ({"shortest_edge": 224}, 224, 3, CLIP),
    "Bit": ({"shortest_edge": 224}, 224, 3, CLIP),
}
#: The processor of each model type, for folders that name none.
PROCESSOR_OF = {
    "vit": "ViT", "vit_msn": "ViT", "ijepa": "ViT", "siglip": "Siglip", "siglip_vision_model": "Siglip",
    "deit": "DeiT", "clip": "CLIP", "clip_vision_model": "CLIP", "dinov2": "Bit",
    "dinov2_with_registers": "Bit",
}  # fmt: skip


def from_transformers(folder: Path, model_type: str, model: Model, tell: Note = files.tell) -> Preprocessing:
    """What preprocessor_config.json says, or the defaults of the model type's processor where there is
    none."""
    path = folder / "preprocessor_config.json"
    about = JsonObject(files.read_json(path) if path.is_file() else {}, path.name)
    kind = _processor(about, PROCESSOR_OF[model_type], tell)
    default_size, default_crop, default_resample, (mean, std) = _PROCESSORS[kind]
    if not path.is_file():
        tell(f"{folder}: no preprocessor_config.json; the defaults of {kind}ImageProcessor are used")
        default_size = dict.fromkeys(default_size, model.image if default_crop is None else 256)
        about = JsonObject({"crop_size": model.image} if default_crop else {}, path.name)
    resize, crop = _resize(about, kind, default_size, default_crop, model.image, tell)
    mean = about.numbers("image_mean", mean, **_NUMBERS)
    std = about.numbers("image_std", std, **_DEVIATIONS)
    if not about.flag("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    factor = about.number("rescale_factor", 1 / 255, low=1e-6, high=1e3)
    units = 255 * (factor if about.flag("do_rescale", True) else 1.0)
    if not math.isclose(units, 1.0):
        mean, std = tuple(m / units for m in mean), tuple(s / units for s in std)
    number = about.integer("resample", default_resample, low=0, high=5)
    how = interpolation(_PILLOW[number], tell)
    return check(Preprocessing(mean, std, how, crop, resize), 3)


def _processor(about: JsonObject, default: str, tell: Note) -> str:
    name = about.text(
        "image_processor_type", about.text("feature_extractor_type", f"{default}ImageProcessor")
    )
    for kind in sorted(_PROCESSORS, key=len, reverse=True):
        if name.startswith(kind) and name.removeprefix(kind).startswith(
            ("ImageProcessor", "FeatureExtractor")
        ):
            return kind
    tell(f"{about.where}: {quoted(name)} is read as a {default}ImageProcessor")
    return default


def _resize(
    about: JsonObject, kind: str, size: dict[str, int], crop: int | None, image: int, tell: Note
) -> tuple[Literal["shortest", "squash"], float]:
    """How images are resized, and the share of the side that the central crop keeps."""
    given = about.values.get("size")
    if isinstance(given, int) and not isinstance(given, bool):
        given = {"shortest_edge": given} if "shortest_edge" in size else {"height": given, "width": given}
    sides = JsonObject({"size": given if given is not None else size}, about.where).mapping("size")
    if not about.flag("do_resize", True):
        tell(f"{about.where}: do_resize is false; images are resized to {image} pixels here all the same")
        return "squash", 1.0
    if "shortest_edge" in sides:
        side, resize = sides.integer("shortest_edge", high=1 << 14), "shortest"
    elif "height" in sides and "width" in sides:
        side, resize = sides.integer("height", high=1 << 14), "squash"
    else:
        raise ValueError(f"{about.where}.size: expected height and width, or shortest_edge")
    if not about.flag("do_center_crop", crop is not None):
        if resize == "shortest":
            tell(f"{about.where}: no central crop; the central square is cut out here all the same")
        _compare(side, image, about.where, tell)
        return resize, 1.0
    cropped = about.values.get("crop_size", crop)
    if isinstance(cropped, Mapping):
        cropped = JsonObject(cropped, f"{about.where}.crop_size").integer("height", high=1 << 14)
    kept = JsonObject({"crop_size": cropped}, about.where).integer("crop_size", image, high=1 << 14)
    _compare(kept, image, about.where, tell)
    if kept > side:
        raise ValueError(f"{about.where}: a crop of {kept} pixels out of {side}")
    return resize, kept / side


def _compare(made: int, image: int, where: str, tell: Note) -> None:
    if made != image:
        tell(f"{where}: it makes images of {made} pixels, the model takes {image}: they are scaled to those")


def to_transformers(preprocessing: Preprocessing, side: int, siglip: bool) -> dict[str, Any]:
    """preprocessor_config.json of an image processor that computes the same. Raises ValueError for
    padding."""
    if preprocessing.resize == "longest":
        raise ValueError("transformers' image processors of these models do not pad images; try --to timm")
    size, crop = round(side / preprocessing.crop), {"height": side, "width": side}
    common = {
        "do_resize": True, "resample": _PILLOW_NUMBERS[preprocessing.interpolation], "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }  # fmt: skip
    if preprocessing.resize == "shortest":
        cut = {"do_center_crop": True, "crop_size": crop}
        return {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": size},
            **cut,
            **common,
        }
    if size != side:
        cut = {"do_center_crop": True, "crop_size": crop}
        square = {"height": size, "width": size}
        return {"image_processor_type": "DeiTImageProcessor", "size": square, **cut, **common}
    kind = "SiglipImageProcessor" if siglip else "ViTImageProcessor"
    return {"image_processor_type": kind, "size": crop, **common}


# --------------------------------------------------------------------------- open_clip


def from_open_clip(about: JsonObject, tell: Note = files.tell) -> Preprocessing:
    """What preprocess_cfg says, with open_clip's defaults."""
    given = about.mapping("preprocess_cfg")
    mean, std = given.numbers("mean", CLIP[0], **_NUMBERS), given.numbers("std", CLIP[1], **_DEVIATIONS)
    mode = given.text("resize_mode", "shortest")
    if mode not in ("shortest", "squash", "longest"):
        raise ValueError(f"{given.where}.resize_mode: {quoted(mode)} is none of shortest, squash, longest")
    if mode == "longest":
        tell(f"{given.where}.resize_mode: borders are filled with the mean instead of one colour")
    how = interpolation(given.text("interpolation", "bicubic"), tell)
    return check(Preprocessing(mean, std, how, 1.0, mode), 3)
