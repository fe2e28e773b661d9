"""open_clip: the visual tower of a CLIP, with a norm before the blocks (OpenAI, laion) or without (CLIPA).

A folder holds `open_clip_config.json` and the weights of both towers; only names under `visual.` are ours.
The projection into the shared space becomes our head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scalevit.config.run import Model, Preprocessing
from scalevit.model.formats import files
from scalevit.model.formats.name_mapping import SourceTensors, source_tensors, stacked
from scalevit.model.formats.package import ModelPackage, package_of
from scalevit.model.reference_layout import ReferenceLayout
from scalevit.model.vit import ViT

CONFIG = "open_clip_config.json"
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.safetensors")
_OPENAI_MEAN, _OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_BLOCK = {
    "norm1": "ln_1.",
    "attn.qkv": "attn.in_proj_",
    "attn.proj": "attn.out_proj.",
    "norm2": "ln_2.",
    "mlp.fc1": "mlp.c_fc.",
    "mlp.fc2": "mlp.c_proj.",
    "ls1": "ls_1.",
    "ls2": "ls_2.",
}
_NAMES = {"patch_embed.proj": "conv1.", "norm_pre": "ln_pre.", "norm": "ln_post.", "fc_norm": "ln_post."}


def read_folder(folder: Path) -> ModelPackage:
    """The visual tower of an open_clip folder, as its hub repositories are."""
    about = files.read_json(folder / CONFIG)
    return from_tensors(about.get("model_cfg", about), files.read_folder(folder, _FILES), about)


def from_tensors(
    model_cfg: Mapping[str, Any], tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None
) -> ModelPackage:
    """The visual tower among the tensors of a whole CLIP, described by open_clip's model configuration."""
    source = {
        name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")
    }
    config = _config(model_cfg, source)
    implied = ("head.bias",) if config.classes else ()
    implied += () if config.pre_norm else ("patch_embed.proj.bias",)
    return package_of(config, source, _places, _preprocessing(about or {}), implied)


def _config(model_cfg: Mapping[str, Any], source: Mapping[str, Tensor]) -> Model:
    vision = dict(model_cfg.get("vision_cfg", {}))
    _require_ours(vision, source)
    width, patch = source["conv1.weight"].shape[0], source["conv1.weight"].shape[-1]
    average, after = vision.get("pool_type", "tok") == "avg", vision.get("final_ln_after_pool", False)
    norm = vision.get("norm_kwargs") or {}
    return Model(
        shape=f"S/{patch}", width=width, depth=vision.get("layers", 12), patch=patch,
        heads=width // vision.get("head_width", 64), image=vision.get("image_size", 224),
        mlp=source["transformer.resblocks.0.mlp.c_fc.bias"].shape[0],
        classes=source["proj"].shape[1] if "proj" in source else 0,
        pool="gap" if average else "token", class_token=average, prefix_positions=True,
        pre_norm=not vision.get("no_ln_pre", False), pooled_norm=after, norm_eps=norm.get("eps", 1e-5),
        gelu=_gelu(model_cfg, vision), layer_scale=vision.get("ls_init_value") is not None,
    )  # fmt: skip


def _gelu(model_cfg: Mapping[str, Any], vision: Mapping[str, Any]) -> Any:
    if model_cfg.get("quick_gelu", False):
        return "quick"
    return "tanh" if (vision.get("act_kwargs") or {}).get("approximate") == "tanh" else "erf"


def _require_ours(vision: Mapping[str, Any], source: Mapping[str, Tensor]) -> None:
    if vision.get("timm_model_name"):
        name = vision["timm_model_name"]
        raise ValueError(f"the visual tower of this CLIP is timm's {name}: load it as timm:{name}")
    for key in ("attentional_pool", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn", "scale_fc"):
        if vision.get(key):
            raise ValueError(f"this open_clip tower uses {key}, which ours has not")
    for name in ("conv1.weight", "transformer.resblocks.0.mlp.c_fc.bias"):
        if name not in source:
            raise ValueError(f"no visual.{name} among these weights: not a ViT of open_clip")


def _places(model: ViT) -> dict[str, SourceTensors]:
    d, places = model.config.resolve().width, model.pos_embed.shape[1]
    out = {
        "cls_token": stacked(["class_embedding"], (1, 1, d), (d,)),
        "pos_embed": stacked(["positional_embedding"], (1, places, d), (places, d)),
    }
    if model.config.classes:  # (width, embedding), used as x @ proj
        out["head.weight"] = source_tensors(["proj"], ReferenceLayout(1, (model.config.classes, d), (1, 0)))
    for name, value in model.state_dict().items():
        module, _, leaf = name.rpartition(".")
        inner = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
        theirs = f"transformer.resblocks.{inner[1]}.{_BLOCK[inner[2]]}" if inner else _NAMES.get(module)
        if theirs and name != "patch_embed.proj.bias":
            out[name] = stacked([theirs + leaf], tuple(value.shape))
    return out


def _preprocessing(about: Mapping[str, Any]) -> Preprocessing:
    given = about.get("preprocess_cfg", {})
    return Preprocessing(
        mean=tuple(map(float, given.get("mean", _OPENAI_MEAN))),
        std=tuple(map(float, given.get("std", _OPENAI_STD))),
        interpolation=str(given.get("interpolation", "bicubic")),
        crop=1.0,
    )
