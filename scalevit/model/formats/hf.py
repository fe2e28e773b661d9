"""Hugging Face transformers: folders of `SiglipVisionModel` (MAP pooling) and `ViTModel` (class token).

`SiglipModel` gives its vision tower. A `ViTModel`'s pooler is our pre-logits layer; ViTForImageClassification
has no pooler but a classifier.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalevit.config.run import Model, Preprocessing
from scalevit.model.formats import files, name_mapping
from scalevit.model.formats.name_mapping import SourceTensors, stacked
from scalevit.model.formats.package import ModelPackage, package_of
from scalevit.model.vit import ViT

_GELUS: dict[str, Any] = {
    "gelu_pytorch_tanh": "tanh",
    "gelu_new": "tanh",
    "gelu": "erf",
    "quick_gelu": "quick",
}
_WRITTEN_GELUS = {"tanh": "gelu_pytorch_tanh", "erf": "gelu", "quick": "quick_gelu"}
#: Pillow's numbers of interpolations, as preprocessor_config.json gives them.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}

_SIGLIP = {
    "patch_embed.proj": ["embeddings.patch_embedding"],
    "pos_embed": ["embeddings.position_embedding.weight"],
    "norm": ["post_layernorm"],
    "attn_pool.latent": ["head.probe"],
    "attn_pool.q": ["head.attention.q"],
    "attn_pool.kv": ["head.attention.k", "head.attention.v"],
    "attn_pool.proj": ["head.attention.out_proj"],
    "attn_pool.norm": ["head.layernorm"],
    "attn_pool.mlp.fc1": ["head.mlp.fc1"],
    "attn_pool.mlp.fc2": ["head.mlp.fc2"],
}
_SIGLIP_BLOCK = {
    "norm1": ["layer_norm1"],
    "attn.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attn.proj": ["self_attn.out_proj"],
    "norm2": ["layer_norm2"],
    "mlp.fc1": ["mlp.fc1"],
    "mlp.fc2": ["mlp.fc2"],
}
_VIT = {
    "cls_token": ["embeddings.cls_token"],
    "pos_embed": ["embeddings.position_embeddings"],
    "patch_embed.proj": ["embeddings.patch_embeddings.projection"],
    "norm": ["layernorm"],
    "pre_logits.fc": ["pooler.dense"],
    "head": ["classifier"],
}
_VIT_BLOCK = {
    "norm1": ["layernorm_before"],
    "attn.qkv": ["attention.attention.query", "attention.attention.key", "attention.attention.value"],
    "attn.proj": ["attention.output.dense"],
    "norm2": ["layernorm_after"],
    "mlp.fc1": ["intermediate.dense"],
    "mlp.fc2": ["output.dense"],
}
#: Names that transformers 5 uses in memory and some files hold, and what they are called in most files.
_MODERN_VIT = (
    (r"^layers\.", "encoder.layer."),
    (r"\.attention\.([qkv])_proj\.", lambda m: f".attention.attention.{_LETTERS[m[1]]}."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
_LETTERS = {"q": "query", "k": "key", "v": "value"}


def read_folder(folder: Path) -> ModelPackage:
    """A folder of `SiglipVisionModel`, `SiglipModel`, `ViTModel` or `ViTForImageClassification`."""
    about = files.read_json(folder / "config.json")
    kind = about.get("model_type")
    readers = {"vit": _read_vit, "siglip": _read_siglip, "siglip_vision_model": _read_siglip}
    if kind not in readers:
        raise ValueError(f"{folder} holds a {kind!r} of transformers; known: {', '.join(readers)}")
    tensors = files.read_folder(folder, ("model.safetensors", "pytorch_model.bin"))
    return readers[kind](about, tensors, _preprocessing(folder))


def write_folder(model: ViT, folder: Path) -> None:
    """A folder that `SiglipVisionModel.from_pretrained` (MAP) or `ViTModel` / `ViTForImageClassification`
    (class token) reads. Raises ValueError for a model that neither can compute."""
    _require_expressible(model.config)
    about, tensors = (_siglip if model.config.pool == "map" else _vit)(model)
    with files.atomic_folder(folder) as temporary:
        files.write_tensors(temporary / "model.safetensors", tensors)
        files.write_json(temporary / "config.json", {**_about(model.config), **about})
        files.write_json(temporary / "preprocessor_config.json", _preprocessor(model))


# --------------------------------------------------------------------------- SigLIP


def _read_siglip(
    about: dict[str, Any], tensors: dict[str, Tensor], preprocessing: Preprocessing
) -> ModelPackage:
    vision = about.get("vision_config", about)
    if not vision.get("vision_use_head", True):
        raise ValueError("this SigLIP tower has no pooling head")
    prefix = "vision_model."
    if any(name.startswith(prefix) for name in tensors):  # beside it, a text tower and its temperature
        others = ("text_model.", "logit_scale", "logit_bias")
        tensors = {n.removeprefix(prefix): value for n, value in tensors.items() if not n.startswith(others)}
    # position_ids is a counter that older releases saved
    tensors = {name: value for name, value in tensors.items() if name != "embeddings.position_ids"}
    config = _config(vision, {**_SIGLIP_DEFAULTS, **vision}, pool="map", classes=0)
    return package_of(config, _unpacked(tensors), _siglip_places, preprocessing)


def _siglip(model: ViT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if model.config.classes:
        raise ValueError(
            "SigLIP has no classifier behind its pooling head: leave it out with --features, or use --to timm"
        )
    tensors = name_mapping.from_ours(model.state_dict(), _siglip_places(model))
    named = {f"vision_model.{name}": value for name, value in _together(tensors).items()}
    return {"architectures": ["SiglipVisionModel"], "model_type": "siglip_vision_model"}, named


def _siglip_places(model: ViT) -> dict[str, SourceTensors]:
    return _places(model, _SIGLIP, _SIGLIP_BLOCK, "encoder.layers", positions=2)


def _unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The pooling head's query, key and value apart; transformers keeps them in one tensor."""
    out = dict(tensors)
    for leaf in ("weight", "bias"):
        whole = out.pop(f"head.attention.in_proj_{leaf}", None)
        if whole is not None:
            for letter, part in zip("qkv", whole.chunk(3), strict=True):
                out[f"head.attention.{letter}.{leaf}"] = part
    return out


def _together(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out = dict(tensors)
    for leaf in ("weight", "bias"):
        parts = [out.pop(f"head.attention.{letter}.{leaf}") for letter in "qkv"]
        out[f"head.attention.in_proj_{leaf}"] = torch.cat(parts)
    return out


# --------------------------------------------------------------------------- ViT


def _read_vit(
    about: dict[str, Any], tensors: dict[str, Tensor], preprocessing: Preprocessing
) -> ModelPackage:
    source = {}
    for name, value in tensors.items():
        name = name.removeprefix("vit.")
        for pattern, replacement in _MODERN_VIT:
            name = re.sub(pattern, replacement, name)
        source[name] = value
    classes = source["classifier.bias"].shape[0] if "classifier.bias" in source else 0
    config = _config(
        about, {**_VIT_DEFAULTS, **about}, pool="token", classes=classes, prefix_positions=True,
        pre_logits="pooler.dense.weight" in source,
    )  # fmt: skip
    return package_of(config, source, _vit_places, preprocessing)


def _vit(model: ViT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if model.config.pre_logits and model.config.classes:
        raise ValueError(
            "transformers' ViT has either a pooler or a classifier: leave one out with --features"
        )
    kind = "ViTForImageClassification" if model.config.classes else "ViTModel"
    tensors = name_mapping.from_ours(model.state_dict(), _vit_places(model))
    name = "embeddings.position_embeddings"
    if not model.config.prefix_positions:  # transformers adds one to the class token: nothing
        tensors[name] = torch.cat([torch.zeros_like(tensors[name][:, :1]), tensors[name]], dim=1)
    if model.config.classes:
        tensors = {n if n.startswith("classifier") else f"vit.{n}": value for n, value in tensors.items()}
    labels = {str(i): f"LABEL_{i}" for i in range(model.config.classes)}
    about = {"architectures": [kind], "model_type": "vit", "qkv_bias": True}
    return {**about, **({"id2label": labels, "label2id": _turned(labels)} if labels else {})}, tensors


def _turned(labels: Mapping[str, str]) -> dict[str, int]:
    return {label: int(number) for number, label in labels.items()}


def _vit_places(model: ViT) -> dict[str, SourceTensors]:
    return _places(model, _VIT, _VIT_BLOCK, "encoder.layer", positions=3)


# --------------------------------------------------------------------------- both

_SIGLIP_DEFAULTS = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
}  # fmt: skip
_VIT_DEFAULTS = {**_SIGLIP_DEFAULTS, "hidden_act": "gelu", "layer_norm_eps": 1e-12}


def _places(
    model: ViT, names: dict[str, list[str]], block: dict[str, list[str]], blocks: str, positions: int
) -> dict[str, SourceTensors]:
    """Where the source keeps what it has; positions have 2 axes in SigLIP (an embedding) and 3 in ViT."""
    out = {}
    for name, value in model.state_dict().items():
        module, _, leaf = name.rpartition(".")
        inner = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
        theirs = block.get(inner[2]) if inner else names.get(module)
        if inner and theirs:
            theirs = [f"{blocks}.{inner[1]}.{part}" for part in theirs]
        shape = tuple(value.shape)
        if name in names:
            out[name] = stacked(names[name], shape, shape[-positions:] if name == "pos_embed" else None)
        elif theirs:
            out[name] = stacked([f"{part}.{leaf}" for part in theirs], shape)
    return out


def _config(given: dict[str, Any], vision: dict[str, Any], **rest: Any) -> Model:
    if vision["hidden_act"] not in _GELUS:
        raise ValueError(f"activation {vision['hidden_act']!r}: ours has {', '.join(_GELUS)}")
    if given.get("num_channels", 3) != 3:
        raise ValueError(f"{given['num_channels']} channels: only images of 3 are supported")
    if not isinstance(vision["image_size"], int) or not isinstance(vision["patch_size"], int):
        raise ValueError("images or patches that are not square: only square ones are supported")
    return Model(
        shape=f"S/{vision['patch_size']}", width=vision["hidden_size"], depth=vision["num_hidden_layers"],
        mlp=vision["intermediate_size"], heads=vision["num_attention_heads"], patch=vision["patch_size"],
        image=vision["image_size"], gelu=_GELUS[vision["hidden_act"]], norm_eps=vision["layer_norm_eps"],
        **rest,
    )  # fmt: skip


def _about(config: Model) -> dict[str, Any]:
    s = config.resolve()
    return {
        "hidden_size": s.width, "num_hidden_layers": s.depth, "intermediate_size": s.mlp,
        "num_attention_heads": s.heads, "patch_size": s.patch, "image_size": config.image, "num_channels": 3,
        "hidden_act": _WRITTEN_GELUS[config.gelu], "layer_norm_eps": config.norm_eps, "dtype": "float32",
    }  # fmt: skip


def _require_expressible(config: Model) -> None:
    reasons = {
        "mean pooling": config.pool == "gap",
        "sincos2d positions with a class token": config.positions == "sincos2d" and config.pool == "token",
        "register tokens": config.registers > 0,
        "a norm before the blocks": config.pre_norm,
        "a norm after pooling": config.pooled_norm,
        "normalised queries and keys": config.qk_norm,
        "layer scale": config.layer_scale,
        "a class token that is not pooled": config.class_token and config.pool != "token",
        "a pre-logits layer behind MAP pooling": config.pre_logits and config.pool == "map",
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise ValueError(f"neither ViTModel nor SiglipVisionModel knows {', '.join(found)}; try --to timm")


def _preprocessing(folder: Path) -> Preprocessing:
    ours = Preprocessing(crop=1.0, interpolation="bicubic")
    if not (folder / "preprocessor_config.json").is_file():
        return ours
    given = files.read_json(folder / "preprocessor_config.json")
    return Preprocessing(
        mean=tuple(map(float, given.get("image_mean", ours.mean))),
        std=tuple(map(float, given.get("image_std", ours.std))),
        interpolation=_RESAMPLE.get(given.get("resample", 3), "bicubic"),
        crop=1.0,
    )


def _preprocessor(model: ViT) -> dict[str, Any]:
    """transformers' processors of these models resize to the input's size and cut nothing off."""
    ours, side = model.preprocessing, model.config.image
    kind = "SiglipImageProcessor" if model.config.pool == "map" else "ViTImageProcessor"
    resample = {name: number for number, name in _RESAMPLE.items()}.get(ours.interpolation, 3)
    return {
        "image_processor_type": kind, "do_resize": True, "size": {"height": side, "width": side},
        "resample": resample, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": list(ours.mean), "image_std": list(ours.std),
    }  # fmt: skip
