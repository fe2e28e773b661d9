"""timm: its modules read by looking at them, and our models described so that timm rebuilds them.

Names and layouts of parameters are the same as ours, so only the description differs. A folder holds
`model.safetensors` and a `config.json` that `timm.create_model("local-dir:FOLDER", pretrained=True)` reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scalevit.config.dataclass_io import nearest_names
from scalevit.config.run import Model, Preprocessing
from scalevit.model.formats import files
from scalevit.model.formats.name_mapping import SourceTensors, stacked
from scalevit.model.formats.package import ModelPackage, package_of
from scalevit.model.formats.torchvision_shim import import_despite_torchvision
from scalevit.model.vit import ViT

#: timm sets LayerNorm's epsilon by architecture, not by argument: one of each kind.
_ARCHITECTURES = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}
_POOLS: dict[str, Any] = {"map": "map", "avg": "gap", "token": "token"}
_GELUS = {"tanh": "gelu_tanh", "erf": "gelu", "quick": "quick_gelu"}


def read_folder(folder: Path) -> ModelPackage:
    """A folder in timm's layout, as its hub repositories are; needs timm to know what an architecture is."""
    config = files.read_json(folder / "config.json")
    given = config.get("pretrained_cfg", config)
    args = dict(config.get("model_args", {}))
    for key in ("num_classes", "global_pool"):
        if key in config:
            args.setdefault(key, config[key])
    module = _built(str(config.get("architecture", given.get("architecture"))), args)
    return from_module(module, files.read_folder(folder, ("model.safetensors", "pytorch_model.bin")), given)


def _built(architecture: str, args: Mapping[str, Any]) -> Any:
    """The module without memory; timm raises its own kinds for what it cannot build."""
    timm = import_timm()
    try:
        with torch.device("meta"):
            return timm.create_model(architecture, **args)
    except (RuntimeError, TypeError, AssertionError, ValueError) as error:
        raise ValueError(f"timm cannot build {architecture}: {str(error).splitlines()[0]}") from None


def read_name(name: str) -> ModelPackage:
    """The pretrained model that timm knows under this name; downloads its weights."""
    timm = import_timm()
    if not timm.is_model(name):
        near = nearest_names(name, timm.list_models(module="vision_transformer"))
        raise ValueError(f"timm has no model {name!r}; nearest: {', '.join(near)}")
    try:
        return from_module(timm.create_model(name, pretrained=True))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"cannot get timm's weights of {name}: {str(error).splitlines()[0]}") from None


def from_module(module: Any, state: Mapping[str, Any] | None = None, given: Any = None) -> ModelPackage:
    """A timm VisionTransformer as ours. Raises ValueError for what ours cannot compute."""
    config = config_of(module)
    tensors: Mapping[str, Any] = module.state_dict() if state is None else state
    given = module.pretrained_cfg if given is None else given
    return package_of(config, tensors, places, _preprocessing(given))


def config_of(module: Any) -> Model:
    """Our description of a timm VisionTransformer, read off its modules."""
    _require_ours(module)
    block, (patch, _), (image, other) = (
        module.blocks[0],
        module.patch_embed.patch_size,
        module.patch_embed.img_size,
    )
    if image != other:
        raise ValueError(f"images of {image} × {other} pixels: only square ones are supported")
    token = module.global_pool == "token"
    return Model(
        shape=f"S/{patch}", width=module.embed_dim, depth=len(module.blocks), heads=block.attn.num_heads,
        mlp=block.mlp.fc1.out_features, patch=patch, image=image, classes=module.num_classes,
        pool=_POOLS[module.global_pool], registers=module.num_reg_tokens,
        qk_norm=_is_norm(block.attn.q_norm), gelu=_gelu(block.mlp.act), norm_eps=block.norm1.eps,
        class_token=module.has_class_token and not token,
        prefix_positions=not module.no_embed_class and module.num_prefix_tokens > 0,
        pre_norm=_is_norm(module.norm_pre), pooled_norm=_is_norm(module.fc_norm),
        layer_scale=hasattr(block.ls1, "gamma"),
    )  # fmt: skip


def places(model: ViT) -> dict[str, SourceTensors]:
    """timm holds everything as we do."""
    return {name: stacked([name], tuple(value.shape)) for name, value in model.state_dict().items()}


def description(config: Model, preprocessing: Preprocessing) -> dict[str, Any]:
    """What timm's config.json says about such a model. Raises ValueError when timm cannot build it."""
    _require_expressible(config)
    s = config.resolve()
    args = {
        "img_size": config.image, "patch_size": s.patch, "embed_dim": s.width, "depth": s.depth,
        "num_heads": s.heads, "mlp_ratio": _ratio(s.mlp, s.width), "reg_tokens": config.registers,
        "class_token": config.class_token or config.pool == "token",
        "no_embed_class": not config.prefix_positions, "pre_norm": config.pre_norm,
        "fc_norm": config.pooled_norm, "qk_norm": config.qk_norm, "act_layer": _GELUS[config.gelu],
        "init_values": 1e-5 if config.layer_scale else None,
    }  # fmt: skip
    pool = {ours: theirs for theirs, ours in _POOLS.items()}[config.pool]
    return {
        "architecture": _ARCHITECTURES[config.norm_eps],
        "num_classes": config.classes,
        "num_features": s.width,
        "global_pool": pool,
        "model_args": {**args, "global_pool": pool},
        "pretrained_cfg": {
            "input_size": [3, config.image, config.image], "fixed_input_size": True, "pool_size": None,
            "interpolation": preprocessing.interpolation, "crop_pct": preprocessing.crop,
            "crop_mode": "center", "mean": list(preprocessing.mean), "std": list(preprocessing.std),
            "num_classes": config.classes, "first_conv": "patch_embed.proj", "classifier": "head",
        },
    }  # fmt: skip


def _require_expressible(config: Model) -> None:
    if config.pre_logits:
        raise ValueError("timm's ViT has no pre-logits layer")
    if config.norm_eps not in _ARCHITECTURES:
        known = " and ".join(map(str, _ARCHITECTURES))
        raise ValueError(f"timm builds LayerNorms with epsilon {known}, this model has {config.norm_eps}")


def _require_ours(module: Any) -> None:
    """Names alone would not show these: they compute something else with the same parameters."""
    if type(module).__name__ != "VisionTransformer" or not len(getattr(module, "blocks", ())):
        raise ValueError(f"{type(module).__name__} of timm is no plain VisionTransformer")
    block = module.blocks[0]
    kinds = [type(part).__name__ for part in (block, block.attn, block.mlp)]
    odd = {
        f"pooling {module.global_pool!r}": module.global_pool not in _POOLS,
        f"blocks of {', '.join(kinds)}": kinds != ["Block", "Attention", "Mlp"],
        "no position embedding": module.pos_embed is None,
        "pooling over prefix tokens": module.pool_include_prefix,
        "a norm behind the patches": _is_norm(module.patch_embed.norm),
        "gated attention": block.attn.gate is not None,
        "no final norm": not (_is_norm(module.norm) or _is_norm(module.fc_norm)),
        f"{type(block.norm1).__name__} instead of LayerNorm": not hasattr(block.norm1, "bias"),
    }
    found = [reason for reason, holds in odd.items() if holds]
    if found:
        raise ValueError(f"this timm model has {', '.join(found)}, which ours has not")


def _gelu(act: Any) -> Any:
    kind = type(act).__name__
    known = {"GELUTanh": "tanh", "QuickGELU": "quick", "GELU": "erf"}
    if kind not in known:
        raise ValueError(f"activation {kind}: ours has {', '.join(known)}")
    return "tanh" if getattr(act, "approximate", "none") == "tanh" else known[kind]


def _is_norm(module: Any) -> bool:
    return hasattr(module, "eps")


def _ratio(hidden: int, width: int) -> float:
    """A factor that gives `hidden` when timm multiplies the width with it and cuts off the fraction."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _preprocessing(given: Any) -> Preprocessing:
    given = given if isinstance(given, Mapping) else {}
    ours = Preprocessing()
    return Preprocessing(
        mean=tuple(map(float, given.get("mean", ours.mean))),
        std=tuple(map(float, given.get("std", ours.std))),
        interpolation=str(given.get("interpolation", ours.interpolation)),
        crop=float(given.get("crop_pct") or ours.crop),
    )


def import_timm() -> Any:
    """timm, also beside a torchvision built for another torch."""
    try:
        return import_despite_torchvision("timm")
    except ImportError:
        raise ValueError('reading timm models needs timm: pip install "scalevit[timm]"') from None
