"""timm: its VisionTransformer modules read by inspection, and our models described so that timm builds them.

Names and layouts of parameters are the same as ours, so only the description differs. A folder holds
`model.safetensors` and a `config.json` that `timm.create_model("local-dir:FOLDER", pretrained=True)` reads.
Arguments in a foreign `config.json` are passed to timm by name from a fixed list, with checked types.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from scalevit.config.dataclass_io import nearest_names
from scalevit.config.run import Model, Preprocessing
from scalevit.model.formats import preprocessing, schema
from scalevit.model.formats.files import WeightSource
from scalevit.model.formats.name_mapping import SourceTensors, stacked
from scalevit.model.formats.package import ModelPackage, package_of
from scalevit.model.formats.schema import LARGEST, JsonObject, quoted
from scalevit.model.formats.torchvision_shim import import_despite_torchvision
from scalevit.model.vit import ViT

#: The files that a folder's tensors may be in.
NAMES = ("model.safetensors", "pytorch_model.bin")
#: timm sets LayerNorm's epsilon by architecture, not by argument: one of each kind.
_ARCHITECTURES = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}
_POOLS: dict[str, Any] = {"map": "map", "avg": "gap", "token": "token"}
_GELUS = {"tanh": "gelu_tanh", "erf": "gelu", "quick": "quick_gelu"}

Check = Callable[[JsonObject, str], Any]


def _flag(args: JsonObject, key: str) -> bool:
    return args.flag(key, False)


def _text(args: JsonObject, key: str) -> str:
    return args.text(key)


def _integer(low: int, high: int) -> Check:
    return lambda args, key: args.integer(key, low=low, high=high)


def _number(high: float) -> Check:
    return lambda args, key: args.number(key, low=0.0, high=high)


def _size(args: JsonObject, key: str) -> tuple[int, int]:
    return args.size(key, 1)


#: Arguments of timm's models that a config.json may set, and how each is checked.
_ARGUMENTS: dict[str, Check] = {
    **dict.fromkeys(("img_size", "patch_size"), _size),
    "in_chans": _integer(1, 1024), "num_classes": _integer(0, LARGEST["classes"]),
    "embed_dim": _integer(1, LARGEST["width"]), "depth": _integer(1, LARGEST["depth"]),
    "num_heads": _integer(1, LARGEST["width"]), "reg_tokens": _integer(0, LARGEST["image"]),
    "mlp_ratio": _number(64.0), "init_values": _number(1e3),
    **dict.fromkeys(("global_pool", "pos_embed", "act_layer", "weight_init"), _text),
    **dict.fromkeys(
        ("qkv_bias", "qk_norm", "proj_bias", "class_token", "no_embed_class", "pre_norm", "final_norm",
         "fc_norm", "pool_include_prefix", "dynamic_img_size", "dynamic_img_pad", "scale_attn_norm",
         "scale_mlp_norm", "fix_init"), _flag,
    ),
    **dict.fromkeys(
        ("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate",
         "drop_path_rate"), _number(1.0),
    ),
}  # fmt: skip


def read(source: WeightSource, about: Mapping[str, Any]) -> ModelPackage:
    """Package of a folder in timm's layout; needs timm, which knows what an architecture is."""
    module, given = described(about)
    return from_module(module, source.tensors(NAMES), given, _label_names(about, module))


def described(about: Mapping[str, Any], *, vit: bool = True) -> tuple[Any, dict[str, Any]]:
    """The module without memory that a config.json describes, and its pretrained_cfg. vit: only of the files
    of timm that hold plain ViTs. Raises ValueError for what timm does not know or cannot build."""
    config = JsonObject(about, "config.json")
    given = config.mapping("pretrained_cfg") if "pretrained_cfg" in config else config
    args = dict(config.mapping("model_args").values)
    for key in ("num_classes", "global_pool"):
        if key in config:
            args.setdefault(key, about[key])
    architecture = config.text("architecture", given.text("architecture", ""))
    return _built(architecture, JsonObject(args, "model_args"), vit), dict(given.values)


def _built(architecture: str, args: JsonObject, vit: bool) -> Any:
    """The module without memory; timm raises its own kinds for what it cannot build."""
    timm = import_timm()
    known = timm.list_models()
    name = architecture.partition(".")[0]
    if name not in known:
        near = ", ".join(nearest_names(name[:100], known))
        raise ValueError(f"timm has no architecture {quoted(architecture)}; nearest: {near}")
    if vit and name not in [*timm.list_models(module="vision_transformer"), *timm.list_models(module="deit")]:
        raise ValueError(f"{name} of timm is no plain VisionTransformer")
    unknown = [key for key in args.values if key not in _ARGUMENTS]
    if unknown:
        raise ValueError(f"model_args.{unknown[0]}: no argument that weights from elsewhere may set")
    checked = {key: _ARGUMENTS[key](args, key) for key in args.values if key in args}
    try:
        with torch.device("meta"):
            return timm.create_model(name, pretrained=False, **checked)
    except Exception as error:  # timm's modules raise whatever they meet
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"timm cannot build {name}: {reason:.200}") from None


def _label_names(about: Mapping[str, Any], module: Any) -> tuple[str, ...]:
    given = about.get("pretrained_cfg")
    inner = given.get("label_names") if isinstance(given, Mapping) else None
    return schema.class_names(about.get("label_names", inner), int(module.num_classes))


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


def from_module(
    module: Any,
    state: Mapping[str, Any] | None = None,
    given: Any = None,
    class_names: tuple[str, ...] = (),
) -> ModelPackage:
    """Package of a timm VisionTransformer. Raises ValueError for what our ViT cannot compute."""
    config = config_of(module)
    tensors: Mapping[str, Any] = module.state_dict() if state is None else state
    given = module.pretrained_cfg if given is None else given
    scaling = preprocessing.from_timm(
        given if isinstance(given, Mapping) else {}, config.channels, config.image
    )
    if config.pool == "distilled":
        tensors = _joined_heads(dict(tensors))
    return package_of(config, tensors, places, scaling, _implied(module, config), class_names)


def config_of(module: Any) -> Model:
    """Our description of a timm VisionTransformer, read off its modules."""
    _require_ours(module)
    block, (patch, other) = module.blocks[0], module.patch_embed.patch_size
    if patch != other:
        raise ValueError(f"patches of {patch} × {other} pixels: only square ones are supported")
    (height, width), token = module.patch_embed.img_size, module.global_pool == "token"
    distilled = _is_distilled(module)
    return Model(
        shape=f"S/{patch}", width=module.embed_dim, depth=len(module.blocks), heads=block.attn.num_heads,
        mlp=block.mlp.fc1.out_features, patch=patch, image=height, classes=module.num_classes,
        image_width=0 if width == height else width, channels=module.patch_embed.proj.in_channels,
        pool="distilled" if distilled else _POOLS[module.global_pool],
        registers=1 if distilled else module.num_reg_tokens,
        qk_norm=_is_norm(block.attn.q_norm), gelu=_gelu(block.mlp.act), norm_eps=block.norm1.eps,
        class_token=module.has_class_token and not token,
        prefix_positions=module.pos_embed is not None
        and not module.no_embed_class and module.num_prefix_tokens > 0,
        pre_norm=_is_norm(module.norm_pre), pooled_norm=_is_norm(module.fc_norm),
        layer_scale=hasattr(block.ls1, "gamma"),
    )  # fmt: skip


def _is_distilled(module: Any) -> bool:
    return type(module).__name__ == "VisionTransformerDistilled"


def _joined_heads(tensors: dict[str, Any]) -> dict[str, Any]:
    """The two heads of distilled DeiT, whose logits are averaged, as one over both tokens."""
    wanted = ("dist_token", "head.weight", "head.bias", "head_dist.weight", "head_dist.bias")
    if not set(wanted) <= set(tensors):
        return tensors
    token, weight, bias, other, other_bias = (tensors.pop(name).float() for name in wanted)
    joined = {"head.weight": torch.cat([weight, other], dim=1) / 2, "head.bias": (bias + other_bias) / 2}
    return {**tensors, "reg_token": token, **joined}


def _implied(module: Any, config: Model) -> tuple[str, ...]:
    """Parameters of ours that are zero because the module has none: biases and positions."""
    block = module.blocks[0]
    linear = {"attn.qkv": block.attn.qkv, "attn.proj": block.attn.proj,
              "mlp.fc1": block.mlp.fc1, "mlp.fc2": block.mlp.fc2}  # fmt: skip
    names = [
        f"blocks.{i}.{name}.bias"
        for name, layer in linear.items()
        if layer.bias is None
        for i in range(len(module.blocks))
    ]
    names += ["pos_embed"] if module.pos_embed is None else []
    names += ["patch_embed.proj.bias"] if module.patch_embed.proj.bias is None else []
    return tuple(names)


def places(model: ViT) -> dict[str, SourceTensors]:
    """Names and layouts of timm, which are ours."""
    return {name: stacked([name], tuple(value.shape)) for name, value in model.state_dict().items()}


def description(config: Model, scaling: Preprocessing, class_names: tuple[str, ...] = ()) -> dict[str, Any]:
    """timm's config.json of such a model. Raises ValueError when timm cannot build it."""
    _require_expressible(config)
    s, (height, width) = config.resolve(), config.image_size
    args = {
        "img_size": height if width == height else [height, width],
        "patch_size": s.patch, "embed_dim": s.width, "depth": s.depth,
        "num_heads": s.heads, "mlp_ratio": _ratio(s.mlp, s.width), "reg_tokens": config.registers,
        "class_token": config.class_token or config.pool == "token",
        "no_embed_class": not config.prefix_positions, "pre_norm": config.pre_norm,
        "fc_norm": config.pooled_norm, "qk_norm": config.qk_norm, "act_layer": _GELUS[config.gelu],
        "init_values": 1e-5 if config.layer_scale else None, "in_chans": config.channels,
    }  # fmt: skip
    pool = {ours: theirs for theirs, ours in _POOLS.items()}[config.pool]
    return {
        "architecture": _ARCHITECTURES[config.norm_eps],
        "num_classes": config.classes,
        "num_features": s.width,
        "global_pool": pool,
        **({"label_names": list(class_names)} if class_names else {}),
        "model_args": {**args, "global_pool": pool},
        "pretrained_cfg": {
            "input_size": [config.channels, height, width], "fixed_input_size": True, "pool_size": None,
            "num_classes": config.classes, "first_conv": "patch_embed.proj", "classifier": "head",
            **preprocessing.to_timm(scaling, config.image),
        },
    }  # fmt: skip


def _require_expressible(config: Model) -> None:
    if config.pre_logits:
        raise ValueError("timm's ViT has no pre-logits layer")
    if config.pool not in _POOLS.values():
        raise ValueError(f"timm's ViT has no pooling {config.pool!r}")
    if config.norm_eps not in _ARCHITECTURES:
        known = " and ".join(map(str, _ARCHITECTURES))
        raise ValueError(f"timm builds LayerNorms with epsilon {known}, this model has {config.norm_eps}")


def _require_ours(module: Any) -> None:
    """Raise ValueError for variants that compute something else with parameters of the same names."""
    kinds = ("VisionTransformer", "VisionTransformerDistilled")
    if type(module).__name__ not in kinds or not len(getattr(module, "blocks", ())):
        raise ValueError(f"{type(module).__name__} of timm is no plain VisionTransformer")
    block = module.blocks[0]
    inner = [getattr(block, name, None) for name in ("attn", "mlp")]
    parts = [type(part).__name__ for part in (module.patch_embed, block, *inner)]
    if parts != ["PatchEmbed", "Block", "Attention", "Mlp"]:
        raise ValueError(f"this timm model is made of {', '.join(parts)}: ours has plain blocks")
    odd = {
        f"pooling {module.global_pool!r}": module.global_pool not in _POOLS,
        "pooling over prefix tokens": module.pool_include_prefix,
        "a norm behind the patches": _is_norm(module.patch_embed.norm),
        "gated attention": getattr(block.attn, "gate", None) is not None,
        "a norm inside attention": _is_norm(getattr(block.attn, "norm", None)),
        "a norm inside the MLP": _is_norm(getattr(block.mlp, "norm", None)),
        "no final norm": not (_is_norm(module.norm) or _is_norm(module.fc_norm)),
        f"{type(block.norm1).__name__} instead of LayerNorm": getattr(block.norm1, "bias", None) is None,
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
    """mlp_ratio with which timm, which cuts off the fraction of width × ratio, gets `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def import_timm() -> Any:
    """The timm module, also beside a torchvision built for another torch."""
    try:
        return import_despite_torchvision("timm")
    except ImportError:
        raise ValueError('reading timm models needs timm: pip install "scalevit[timm]"') from None
