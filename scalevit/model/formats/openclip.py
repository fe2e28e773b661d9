"""open_clip, reading: the visual tower of a CLIP, with a norm before the blocks (OpenAI, laion) or without
(CLIPA).

A folder holds `open_clip_config.json` and the weights of both towers; only names under `visual.` are ours.
The projection into the shared space becomes our head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from scalevit.config.run import Model
from scalevit.model.formats import files, preprocessing
from scalevit.model.formats.files import WeightSource
from scalevit.model.formats.name_mapping import SourceTensors, source_tensors, stacked
from scalevit.model.formats.package import ModelPackage, package_of
from scalevit.model.formats.schema import LARGEST, JsonObject, quoted
from scalevit.model.reference_layout import ReferenceLayout
from scalevit.model.vit import ViT

CONFIG = "open_clip_config.json"
NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.safetensors")
#: Settings of open_clip's towers that change what the blocks or the pooling compute.
_UNKNOWN = (
    "attentional_pool", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn", "scale_attn_inner",
    "scale_fc", "input_patchnorm",
)  # fmt: skip

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


def read(source: WeightSource) -> ModelPackage:
    """Package of the visual tower of an open_clip folder, as its hub repositories are."""
    about = JsonObject(files.read_json(source.folder / CONFIG), CONFIG)
    model_cfg = about.mapping("model_cfg") if "model_cfg" in about else about
    return from_tensors(model_cfg, source.tensors(NAMES), about)


def from_tensors(
    model_cfg: JsonObject, tensors: Mapping[str, Tensor], about: JsonObject | None = None
) -> ModelPackage:
    """Package of the visual tower among the tensors of a whole CLIP, described by open_clip's model
    config."""
    source = {
        name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")
    }
    config = _config(model_cfg, source)
    implied = ("head.bias",) if config.classes else ()
    implied += () if config.pre_norm else ("patch_embed.proj.bias",)
    scaling = preprocessing.from_open_clip(about or JsonObject({}))
    return package_of(config, source, _places, scaling, implied)


def _config(model_cfg: JsonObject, source: Mapping[str, Tensor]) -> Model:
    vision = model_cfg.mapping("vision_cfg")
    _require_ours(vision, source)
    width, channels, patch = source["conv1.weight"].shape[:3]
    pool = vision.text("pool_type", "tok")
    if pool not in ("tok", "avg"):
        raise ValueError(f"vision_cfg.pool_type: {quoted(pool)} is none of tok, avg")
    height, wide = vision.size("image_size", 224)
    head_width = vision.integer("head_width", 64, high=LARGEST["width"])
    return Model(
        shape=f"S/{patch}", width=width, patch=patch, heads=max(1, width // head_width),
        depth=vision.integer("layers", 12, high=LARGEST["depth"]),
        image=height, image_width=0 if wide == height else wide, channels=channels,
        mlp=source["transformer.resblocks.0.mlp.c_fc.bias"].shape[0],
        classes=source["proj"].shape[1] if "proj" in source else 0,
        pool="gap" if pool == "avg" else "token", class_token=pool == "avg", prefix_positions=True,
        pre_norm=not vision.flag("no_ln_pre", False), pooled_norm=vision.flag("final_ln_after_pool", False),
        norm_eps=vision.mapping("norm_kwargs").number("eps", 1e-5, low=1e-15, high=0.1),
        gelu=_gelu(model_cfg, vision), layer_scale="ls_init_value" in vision,
    )  # fmt: skip


def _gelu(model_cfg: JsonObject, vision: JsonObject) -> Literal["tanh", "erf", "quick"]:
    if model_cfg.flag("quick_gelu", False):
        return "quick"
    return "tanh" if vision.mapping("act_kwargs").text("approximate", "none") == "tanh" else "erf"


def _require_ours(vision: JsonObject, source: Mapping[str, Tensor]) -> None:
    if "timm_model_name" in vision:
        name = vision.text("timm_model_name")
        raise ValueError(f"the visual tower of this CLIP is timm's: load it as timm:{name:.100}")
    if isinstance(vision.values.get("layers"), list):
        raise ValueError("the visual tower of this CLIP is a ResNet, no ViT")
    for key in _UNKNOWN:
        if vision.flag(key, False):
            raise ValueError(f"this open_clip tower uses {key}, which ours has not")
    if vision.text("block_type", "default") != "default":
        raise ValueError("this open_clip tower is made of custom blocks, which ours has not")
    for name, axes in (("conv1.weight", 4), ("transformer.resblocks.0.mlp.c_fc.bias", 1)):
        if name not in source or source[name].dim() != axes:
            raise ValueError(f"no visual.{name} among these weights: not a ViT of open_clip")
    if "proj" in source and source["proj"].dim() != 2:
        raise ValueError("visual.proj is no matrix: not a ViT of open_clip")


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
