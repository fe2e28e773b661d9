"""big_vision's npz: flax names and layouts, in every dialect that published checkpoints speak.

Prefixes `params/`, `opt/target/` and `img/` are peeled off. Scanned checkpoints keep all blocks in one tensor
with a leading axis. The old layout (ViT, AugReg) has its positions inside the encoder with a slot for the
class token, other numbers on its modules, and sometimes the MAP head at top level; it is brought to the new
layout first, in which `from_ours` writes.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalevit.config.run import Model, Preprocessing
from scalevit.model.formats import name_mapping
from scalevit.model.formats.name_mapping import SourceTensors, source_tensors
from scalevit.model.reference_layout import ReferenceLayout
from scalevit.model.vit import ViT

PREFIXES = ("opt/target/", "params/", "img/")
_MHA = "MultiHeadDotProductAttention_0"
_SCANNED = "Transformer/encoderblock/"

#: Our names and theirs; a tuple where ours holds several of theirs.
_NAMES: dict[str, tuple[str, ...]] = {
    "cls_token": ("cls",),
    "pos_embed": ("pos_embedding",),
    "patch_embed.proj": ("embedding",),
    "norm": ("Transformer/encoder_norm",),
    "pre_logits.fc": ("pre_logits",),
    "head": ("head",),
    "attn_pool.latent": ("MAPHead_0/probe",),
    "attn_pool.q": (f"MAPHead_0/{_MHA}/query",),
    "attn_pool.kv": (f"MAPHead_0/{_MHA}/key", f"MAPHead_0/{_MHA}/value"),
    "attn_pool.proj": (f"MAPHead_0/{_MHA}/out",),
    "attn_pool.norm": ("MAPHead_0/LayerNorm_0",),
    "attn_pool.mlp.fc1": ("MAPHead_0/MlpBlock_0/Dense_0",),
    "attn_pool.mlp.fc2": ("MAPHead_0/MlpBlock_0/Dense_1",),
}
_BLOCK: dict[str, tuple[str, ...]] = {
    "norm1": ("LayerNorm_0",),
    "attn.qkv": (f"{_MHA}/query", f"{_MHA}/key", f"{_MHA}/value"),
    "attn.proj": (f"{_MHA}/out",),
    "norm2": ("LayerNorm_1",),
    "mlp.fc1": ("MlpBlock_0/Dense_0",),
    "mlp.fc2": ("MlpBlock_0/Dense_1",),
}


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz. Raises ValueError for what is none, is cut short, or holds pickled objects."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: _plain(archive[name]) for name in archive.files}
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, TypeError) as error:
        reason = "it holds pickled objects, which are never loaded" if "pickle" in str(error) else str(error)
        raise ValueError(f"{path} is no readable npz of plain arrays: {reason}") from None


def _plain(value: np.ndarray) -> np.ndarray:
    """bfloat16 reaches an npz as two untyped bytes: the upper half of a float32."""
    if value.dtype == np.dtype("V2"):
        return (value.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return value


def normalise(flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The new layout without prefixes, whatever the dialect."""
    params = _modern_names(_unscanned(_peeled(dict(flat))))
    if "pos_embedding" in params:
        _split_class_position(params)
    return params


def infer(flat: Mapping[str, np.ndarray], image: int = 0) -> Model:
    """The model that these parameters (any dialect) belong to, read from names and shapes alone.

    image: needed only where positions are computed and so not stored (sincos2d)."""
    params = normalise(flat)
    for needed in ("embedding/kernel", f"Transformer/encoderblock_0/{_MHA}/query/kernel"):
        if needed not in params:
            raise ValueError(f"no {needed} among these weights: not a ViT of big_vision")
    patch, _, _, width = params["embedding/kernel"].shape
    blocks = {m[1] for name in params if (m := re.match(r"Transformer/encoderblock_(\d+)/", name))}
    heads = params[f"Transformer/encoderblock_0/{_MHA}/query/kernel"].shape[1]
    return Model(
        shape=f"S/{patch}", width=width, depth=len(blocks), heads=heads, patch=patch,
        mlp=params["Transformer/encoderblock_0/MlpBlock_0/Dense_0/bias"].shape[0],
        image=_grid(params, image // patch) * patch,
        classes=params["head/bias"].shape[0] if "head/bias" in params else 0,
        pool="map" if "MAPHead_0/probe" in params else "token" if "cls" in params else "gap",
        positions="learned" if "pos_embedding" in params else "sincos2d",
        pre_logits="pre_logits/kernel" in params,
    )  # fmt: skip


def to_ours(flat: Mapping[str, np.ndarray], model: ViT) -> dict[str, Tensor]:
    """State dict for `model` (which may be on the meta device) from parameters of any dialect.

    Raises ValueError that lists whatever is missing, left over or of another shape."""
    source = {name: torch.from_numpy(np.array(value)) for name, value in normalise(flat).items()}
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    state = name_mapping.to_ours(source, places(model), shapes)
    if model.config.positions == "sincos2d":
        state["pos_embed"] = dict(model.initial_values())["pos_embed"]
    return state


def from_ours(model: ViT, values: Mapping[str, Tensor] | None = None) -> dict[str, np.ndarray]:
    """Parameters (or `values` under their names, such as gradients) with big_vision's names and shapes."""
    values = dict(model.named_parameters()) if values is None else values
    tensors = {name: value.detach().float().cpu() for name, value in values.items()}
    source = name_mapping.from_ours(tensors, places(model))
    return {name: value.numpy() for name, value in source.items()}


def write(model: ViT) -> dict[str, np.ndarray]:
    """What an npz of `model` holds: `from_ours`, after checking that big_vision would compute the same."""
    _require_expressible(model.config)
    ours, theirs = model.preprocessing, Preprocessing()
    if (ours.mean, ours.std) != (theirs.mean, theirs.std):
        raise ValueError(
            f"big_vision scales images to [-1, 1]; these weights want mean {ours.mean}, std {ours.std}"
        )
    values: dict[str, Tensor] = dict(model.named_parameters())
    if model.config.prefix_positions and model.has_class_token and "pos_embed" in values:
        values["cls_token"] = values["cls_token"] + values["pos_embed"][:, :1]
        values["pos_embed"] = values["pos_embed"][:, 1:]
        model = ViT(replace(model.config, prefix_positions=False), device="meta")
    return {f"params/{name}": value for name, value in from_ours(model, values).items()}


def places(model: ViT) -> dict[str, SourceTensors]:
    """Where big_vision holds each parameter of ours that it knows."""
    views = model.reference_layouts()
    return {
        name: source_tensors(theirs, views[name])
        for name in views
        if (theirs := reference_names(name, views[name]))
    }


def reference_names(name: str, view: ReferenceLayout) -> tuple[str, ...]:
    """big_vision's names for the parts of one parameter of ours; none where it has no such thing."""
    if name in _NAMES:
        return _NAMES[name]
    module, _, leaf = name.rpartition(".")
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
    if block:
        found = tuple(f"Transformer/encoderblock_{block[1]}/{part}" for part in _BLOCK.get(block[2], ()))
    else:
        found = _NAMES.get(module, ())
    weight = "kernel" if len(view.shape) > 1 else "scale"
    return tuple(f"{part}/{weight if leaf == 'weight' else leaf}" for part in found)


# --------------------------------------------------------------------------- dialects


def _peeled(params: dict[str, Any]) -> dict[str, Any]:
    """Without leading prefixes. Beside a prefix that marks the image tower, the rest is not ours to load
    (text tower, temperature); beside `params/` or `opt/target/` it is optimizer state."""
    for prefix in PREFIXES:
        inside = {name.removeprefix(prefix): v for name, v in params.items() if name.startswith(prefix)}
        params = inside or params
    return params


def _unscanned(params: dict[str, Any]) -> dict[str, Any]:
    out = {name: value for name, value in params.items() if not name.startswith(_SCANNED)}
    for name, value in params.items():
        if name.startswith(_SCANNED):
            inner = name.removeprefix(_SCANNED)
            out |= {f"Transformer/encoderblock_{i}/{inner}": layer for i, layer in enumerate(value)}
    return out


def _modern_names(params: dict[str, Any]) -> dict[str, Any]:
    """Old module numbers and places: LayerNorm_2, MlpBlock_3 and attention _1 count all modules of a block;
    positions stood in the encoder, the MAP head's parts at top level."""
    if "probe" in params:
        parts = ("probe", "MlpBlock_0/", f"{_MHA}/", "LayerNorm_0/")
        params = {f"MAPHead_0/{n}" if n.startswith(parts) else n: value for n, value in params.items()}
    renamed = {}
    for name, value in params.items():
        for old in ("Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding"):
            name = "pos_embedding" if name == old else name
        if name.startswith("Transformer/encoderblock_"):
            name = name.replace("MultiHeadDotProductAttention_1/", f"{_MHA}/")
            name = name.replace("MlpBlock_3/", "MlpBlock_0/").replace("LayerNorm_2/", "LayerNorm_1/")
        renamed[name] = value
    return renamed


def _split_class_position(params: dict[str, Any]) -> None:
    """Adds the class token's position to the class token: it is the same sum, and needs no slot."""
    positions = params["pos_embedding"]
    patches = positions.shape[1] - 1
    if "cls" in params and patches and math.isqrt(patches) ** 2 == patches:
        params["cls"] = params["cls"] + positions[:, :1]
        params["pos_embedding"] = positions[:, 1:]


def _grid(params: Mapping[str, Any], computed: int) -> int:
    """Side of the grid of patches."""
    if "pos_embedding" not in params:
        if not computed:
            raise ValueError(
                "these weights store no positions (sincos2d): say the image size, e.g. image=224"
            )
        return computed
    n = params["pos_embedding"].shape[1]
    if math.isqrt(n) ** 2 != n:
        raise ValueError(f"pos_embedding holds {n} positions, which is no square grid of patches")
    return math.isqrt(n)


def _require_expressible(config: Model) -> None:
    reasons = {
        f"pooling {config.pool!r}": config.pool in ("token_gap", "distilled"),
        f"{config.channels} channels": config.channels != 3,
        "images that are not square": bool(config.image_width),
        "a GELU other than tanh": config.gelu != "tanh",
        f"a LayerNorm epsilon of {config.norm_eps} instead of 1e-6": config.norm_eps != 1e-6,
        "a norm after pooling": config.pooled_norm and config.pool != "token",
        "a class token that is not pooled": config.class_token and config.pool != "token",
        "a norm before the blocks": config.pre_norm,
        "register tokens": config.registers > 0,
        "normalised queries and keys": config.qk_norm,
        "layer scale": config.layer_scale,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise ValueError(f"big_vision's ViT does not know {', '.join(found)}")
