"""Hugging Face transformers, writing: folders of SiglipVisionModel (MAP) and of ViT models (class token)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalevit.config.run import Model
from scalevit.model.formats import files, name_mapping, preprocessing
from scalevit.model.formats.hf_names import SIGLIP, VIT, join_pooling_heads
from scalevit.model.vit import ViT

#: The files of a folder.
NAMES = ("model.safetensors", "config.json", "preprocessor_config.json")
_GELUS = {"tanh": "gelu_pytorch_tanh", "erf": "gelu", "quick": "quick_gelu"}


def write_folder(model: ViT, folder: Path) -> None:
    """A folder that `SiglipVisionModel.from_pretrained` (MAP) or `ViTModel` / `ViTForImageClassification`
    (class token) reads. Raises ValueError for a model that neither can compute."""
    _require_expressible(model.config)
    is_siglip = model.config.pool == "map"
    about, tensors = (_siglip if is_siglip else _vit)(model)
    processor = preprocessing.to_transformers(model.preprocessing, model.config.image, is_siglip)
    with files.atomic_folder(folder) as temporary:
        files.write_tensors(temporary / "model.safetensors", tensors)
        files.write_json(temporary / "config.json", {**_about(model.config), **about})
        files.write_json(temporary / "preprocessor_config.json", processor)


def _siglip(model: ViT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if model.config.classes:
        raise ValueError(
            "SigLIP has no classifier behind its pooling head: leave it out with --features, or use --to timm"
        )
    tensors = name_mapping.from_ours(model.state_dict(), SIGLIP.places(model))
    named = {f"vision_model.{name}": value for name, value in join_pooling_heads(tensors).items()}
    return {"architectures": ["SiglipVisionModel"], "model_type": "siglip_vision_model"}, named


def _vit(model: ViT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    classes = model.config.classes
    if model.config.pre_logits and classes:
        raise ValueError(
            "transformers' ViT has either a pooler or a classifier: leave one out with --features"
        )
    kind = "ViTForImageClassification" if classes else "ViTModel"
    tensors = name_mapping.from_ours(model.state_dict(), VIT.places(model))
    name = "embeddings.position_embeddings"
    if not model.config.prefix_positions:  # transformers adds one to the class token: nothing
        tensors[name] = torch.cat([torch.zeros_like(tensors[name][:, :1]), tensors[name]], dim=1)
    if classes:
        tensors = {n if n.startswith("classifier") else f"vit.{n}": value for n, value in tensors.items()}
    names = model.class_names or tuple(f"LABEL_{i}" for i in range(classes))
    about = {"architectures": [kind], "model_type": "vit", "qkv_bias": True}
    return {**about, **(_labels(names) if classes else {})}, tensors


def _labels(names: tuple[str, ...]) -> Mapping[str, Any]:
    """id2label and its inverse; of several classes of one name, the first has it there."""
    numbers = {name: i for i, name in reversed(list(enumerate(names)))}
    return {"id2label": {str(i): name for i, name in enumerate(names)}, "label2id": numbers}


def _about(config: Model) -> dict[str, Any]:
    s, (height, width) = config.resolve(), config.image_size
    return {
        "hidden_size": s.width, "num_hidden_layers": s.depth, "intermediate_size": s.mlp,
        "num_attention_heads": s.heads, "patch_size": s.patch,
        "image_size": height if width == height else [height, width], "num_channels": config.channels,
        "hidden_act": _GELUS[config.gelu], "layer_norm_eps": config.norm_eps, "dtype": "float32",
    }  # fmt: skip


def _require_expressible(config: Model) -> None:
    reasons = {
        "mean pooling": config.pool == "gap",
        f"pooling {config.pool!r}": config.pool in ("token_gap", "distilled"),
        "sincos2d positions with a class token": config.positions == "sincos2d" and config.pool == "token",
        "register tokens": config.registers > 0,
        "a norm before the blocks": config.pre_norm,
        "a norm after pooling": config.pooled_norm,
        "normalised queries and keys": config.qk_norm,
        "layer scale": config.layer_scale,
        "a class token that is not pooled": config.class_token and config.pool != "token",
        "a pre-logits layer behind MAP pooling": config.pre_logits and config.pool == "map",
        "images that are not square behind MAP pooling": bool(config.image_width) and config.pool == "map",
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise ValueError(f"neither ViTModel nor SiglipVisionModel knows {', '.join(found)}; try --to timm")
