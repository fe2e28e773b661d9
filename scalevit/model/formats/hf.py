"""Hugging Face transformers, reading: plain ViTs among its vision models.

ViT, DeiT (with or without distillation), MSN, I-JEPA, DINOv2 (with or without registers), SigLIP, and the
vision towers of CLIP and SigLIP. A pooler becomes the pre-logits layer; a projection becomes the head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from scalevit.config.run import Model
from scalevit.model.formats import files, preprocessing, schema
from scalevit.model.formats.files import WeightSource
from scalevit.model.formats.hf_names import CLIP, DINOV2, SIGLIP, VIT, Layout, classic, split_pooling_heads
from scalevit.model.formats.package import ModelPackage, package_of
from scalevit.model.formats.schema import LARGEST, JsonObject, quoted

#: The files that a folder's tensors may be in.
NAMES = ("model.safetensors", "pytorch_model.bin")
GELUS: dict[str, Literal["tanh", "erf", "quick"]] = {
    "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh", "gelu_fast": "tanh", "gelu": "erf", "gelu_python": "erf",
    "quick_gelu": "quick",
}  # fmt: skip
#: Tensors that no output depends on: masked images, and a counter that older releases saved.
_UNUSED = ("embeddings.mask_token", "embeddings.position_ids")
_TEXT = ("text_model.", "text_projection.", "logit_scale", "logit_bias")


@dataclass(frozen=True)
class ModelFamily:
    """A model type. prefix: of its base model's parameters. config: the rest of our description, from the
    configuration and the tensors, which it may rewrite."""

    layout: Layout
    prefix: str
    config: Callable[[JsonObject, dict[str, Tensor]], dict[str, Any]]
    gelu: str = "gelu"
    eps: float = 1e-12


def read(source: WeightSource, about: Mapping[str, Any]) -> ModelPackage:
    """Package of a folder that transformers wrote. Raises ValueError for models that are no plain ViTs."""
    config = JsonObject(about, "config.json")
    kind = config.text("model_type")
    if kind not in FAMILIES:
        reason = _REFUSED.get(kind, f"known: {', '.join(FAMILIES)}")
        raise ValueError(f"{source.folder} holds a {quoted(kind)} of transformers; {reason}")
    family = FAMILIES[kind]
    tensors = _named(source.tensors(NAMES), family)
    vision = config.mapping("vision_config") if "vision_config" in config else config
    rest = family.config(vision, tensors)
    model = _model(vision, family, rest, tensors)
    implied = _implied(model, tensors)
    scaling = preprocessing.from_transformers(source.folder, kind, model)
    names = schema.class_names(about.get("id2label"), model.classes)
    return package_of(model, tensors, family.layout.places, scaling, implied, names)


def _named(tensors: Mapping[str, Tensor], family: ModelFamily) -> dict[str, Tensor]:
    """Tensors of the vision tower under their classic names, without those that nothing depends on."""
    named = {}
    for name, value in tensors.items():
        if not name.startswith(_TEXT):
            name = classic(name.removeprefix(family.prefix), family.layout)
            if name not in _UNUSED:
                named[name] = value
    return named


def _model(
    vision: JsonObject, family: ModelFamily, rest: dict[str, Any], tensors: dict[str, Tensor]
) -> Model:
    act = vision.text("hidden_act", family.gelu)
    if act not in GELUS:
        raise ValueError(f"activation {quoted(act)}: ours has {', '.join(GELUS)}")
    (height, width), (patch, other) = vision.size("image_size", 224), vision.size("patch_size", 16)
    if patch != other:
        raise ValueError(f"patches of {patch} × {other} pixels: only square ones are supported")
    hidden = vision.integer("hidden_size", 768, high=LARGEST["width"])
    if "mlp_ratio" in vision and family.layout is DINOV2:
        mlp = int(hidden * vision.number("mlp_ratio", low=0.01, high=64))
    else:
        mlp = vision.integer("intermediate_size", 4 * hidden, high=LARGEST["hidden"])
    biases = ("classifier.bias", "visual_projection.weight")
    classes = next((tensors[name].shape[0] for name in biases if name in tensors and tensors[name].dim()), 0)
    return Model(
        **{
            "shape": f"S/{patch}", "width": hidden, "mlp": mlp, "patch": patch, "image": height,
            "depth": vision.integer("num_hidden_layers", 12, high=LARGEST["depth"]),
            "heads": vision.integer("num_attention_heads", 12, high=LARGEST["width"]),
            "image_width": 0 if width == height else width, "classes": classes, "gelu": GELUS[act],
            "channels": vision.integer("num_channels", 3, high=1024),
            "norm_eps": vision.number("layer_norm_eps", family.eps, low=1e-15, high=0.1), **rest,
        }
    )  # fmt: skip


def _implied(model: Model, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Biases that a model was made without: of queries, keys and values (qkv_bias), of CLIP's projection."""
    names = ["head.bias"] if "visual_projection.weight" in tensors else []
    if not any(name.endswith(("query.bias", "q_proj.bias")) for name in tensors):
        names += [f"blocks.{i}.attn.qkv.bias" for i in range(model.resolve().depth)]
    return tuple(names)


# --------------------------------------------------------------------------- families


def _vit(vision: JsonObject, tensors: dict[str, Tensor]) -> dict[str, Any]:
    pooler = "pooler.dense.weight" in tensors
    if pooler and vision.text("pooler_act", "tanh") != "tanh":
        raise ValueError(f"a pooler with {vision.text('pooler_act')}: ours has tanh")
    return {"pool": "token", "prefix_positions": True, "pre_logits": pooler}


def _deit(vision: JsonObject, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """DeiT: a distillation token beside the class token; with a teacher, each has a head."""
    rest = {**_vit(vision, tensors), "registers": 1}
    heads = [f"{head}.{leaf}" for head in ("cls_classifier", "distillation_classifier") for leaf in _LEAVES]
    if not set(heads) <= set(tensors):
        return rest
    weight, bias, other, other_bias = (tensors.pop(name).float() for name in heads)
    tensors["classifier.weight"] = torch.cat([weight, other], dim=1) / 2  # their logits are averaged
    tensors["classifier.bias"] = (bias + other_bias) / 2
    return {**rest, "pool": "distilled"}


def _ijepa(vision: JsonObject, tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {"pool": "gap"}


def _dinov2(vision: JsonObject, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """DINOv2: registers have no positions, so the class token's is added to it; the classifier reads the
    class token and the mean of the patches."""
    if vision.flag("use_swiglu_ffn", False):
        raise ValueError("this DINOv2 has a SwiGLU MLP, which ours has not")
    token, positions = "embeddings.cls_token", "embeddings.position_embeddings"
    if token in tensors and positions in tensors and tensors[positions].dim() == tensors[token].dim() == 3:
        tensors[token] = tensors[token].float() + tensors[positions][:, :1].float()
        tensors[positions] = tensors[positions][:, 1:]
    registers = tensors.get("embeddings.register_tokens")
    count = registers.shape[1] if registers is not None and registers.dim() == 3 else 0
    pool = "token_gap" if "classifier.weight" in tensors else "token"
    return {"pool": pool, "registers": count, "layer_scale": True}


def _clip(vision: JsonObject, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if "classifier.weight" in tensors:
        raise ValueError("this CLIP classifies the mean of patches without a norm, which ours cannot")
    return {"pool": "token", "prefix_positions": True, "pre_norm": True}


def _siglip(vision: JsonObject, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """SigLIP: MAP pooling; its classifier reads the mean of the patches instead."""
    if "classifier.weight" in tensors:
        unread = [name for name in tensors if name.startswith("head.")]
        for name in unread:
            del tensors[name]
        if unread:
            files.tell(
                f"the classifier reads the mean of patches: {len(unread)} tensors of the head left out"
            )
        return {"pool": "gap"}
    if not vision.flag("vision_use_head", True):
        raise ValueError("this SigLIP tower has no pooling head")
    joined = split_pooling_heads(tensors)
    tensors.clear()
    tensors.update(joined)
    return {"pool": "map"}


_LEAVES = ("weight", "bias")
FAMILIES = {
    "vit": ModelFamily(VIT, "vit.", _vit),
    "deit": ModelFamily(VIT, "deit.", _deit),
    "vit_msn": ModelFamily(VIT, "vit.", _vit, eps=1e-6),
    "ijepa": ModelFamily(VIT, "ijepa.", _ijepa, eps=1e-6),
    "dinov2": ModelFamily(DINOV2, "dinov2.", _dinov2, eps=1e-6),
    "dinov2_with_registers": ModelFamily(DINOV2, "dinov2_with_registers.", _dinov2, eps=1e-6),
    "clip": ModelFamily(CLIP, "vision_model.", _clip, gelu="quick_gelu", eps=1e-5),
    "clip_vision_model": ModelFamily(CLIP, "vision_model.", _clip, gelu="quick_gelu", eps=1e-5),
    "siglip": ModelFamily(SIGLIP, "vision_model.", _siglip, gelu="gelu_pytorch_tanh", eps=1e-6),
    "siglip_vision_model": ModelFamily(SIGLIP, "vision_model.", _siglip, gelu="gelu_pytorch_tanh", eps=1e-6),
}
_REFUSED = {
    "dinov3_vit": "its positions are rotary, which ours are not",
    "eva": "its positions are rotary, which ours are not",
    "beit": "its positions are relative, which ours are not",
    "data2vec-vision": "its positions are relative, which ours are not",
    "vit_mae": "it masks patches at random; load it as a 'vit' (ViTModel.from_pretrained and save)",
    "siglip2_vision_model": "its patches come in sequences of any length",
    "siglip2": "its patches come in sequences of any length",
    "swin": "it is no plain ViT",
}
