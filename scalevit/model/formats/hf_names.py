"""Parameter names of transformers' vision towers: one table a layout, from our names to theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scalevit.model.formats.name_mapping import SourceTensors, stacked
from scalevit.model.vit import ViT


@dataclass(frozen=True)
class Layout:
    """Names of one family. blocks: the prefix of its blocks. position_axes: axes of the position embedding,
    2 for an embedding's table. token_axes: axes of the class token."""

    names: Mapping[str, list[str]]
    block: Mapping[str, list[str]]
    blocks: str
    position_axes: int = 3
    token_axes: int = 3
    whole: Mapping[str, list[str]] = field(default_factory=dict)

    def places(self, model: ViT) -> dict[str, SourceTensors]:
        """Where the source keeps each parameter of ours that it has."""
        places = {}
        for name, value in model.state_dict().items():
            shape, theirs = tuple(value.shape), self._names(name)
            axes = {"pos_embed": self.position_axes, "cls_token": self.token_axes}.get(name, len(shape))
            if theirs:
                places[name] = stacked(theirs, shape, shape[-axes:] if axes < len(shape) else None)
        return places

    def _names(self, name: str) -> list[str]:
        if name in self.names:
            return self.names[name]
        module, _, leaf = name.rpartition(".")
        inner = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
        if inner is None:
            return [f"{part}.{leaf}" for part in self.names.get(module, [])]
        where = f"{self.blocks}.{inner[1]}"
        if f"{inner[2]}.{leaf}" in self.whole:
            return [f"{where}.{part}" for part in self.whole[f"{inner[2]}.{leaf}"]]
        return [f"{where}.{part}.{leaf}" for part in self.block.get(inner[2], [])]


_ATTENTION = {
    "attn.qkv": ["attention.attention.query", "attention.attention.key", "attention.attention.value"],
    "attn.proj": ["attention.output.dense"],
}
_EMBEDDINGS = {
    "cls_token": ["embeddings.cls_token"],
    "pos_embed": ["embeddings.position_embeddings"],
    "patch_embed.proj": ["embeddings.patch_embeddings.projection"],
    "norm": ["layernorm"],
    "head": ["classifier"],
}
#: ViT, DeiT, MSN and I-JEPA.
VIT = Layout(
    {**_EMBEDDINGS, "reg_token": ["embeddings.distillation_token"], "pre_logits.fc": ["pooler.dense"]},
    {
        **_ATTENTION, "norm1": ["layernorm_before"], "norm2": ["layernorm_after"],
        "mlp.fc1": ["intermediate.dense"], "mlp.fc2": ["output.dense"],
    },
    "encoder.layer",
)  # fmt: skip
DINOV2 = Layout(
    {**_EMBEDDINGS, "reg_token": ["embeddings.register_tokens"]},
    {**_ATTENTION, "norm1": ["norm1"], "norm2": ["norm2"], "mlp.fc1": ["mlp.fc1"], "mlp.fc2": ["mlp.fc2"]},
    "encoder.layer",
    whole={"ls1.gamma": ["layer_scale1.lambda1"], "ls2.gamma": ["layer_scale2.lambda1"]},
)
_TOWER_BLOCK = {
    "norm1": ["layer_norm1"],
    "attn.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attn.proj": ["self_attn.out_proj"],
    "norm2": ["layer_norm2"],
    "mlp.fc1": ["mlp.fc1"],
    "mlp.fc2": ["mlp.fc2"],
}
_TOWER = {
    "patch_embed.proj": ["embeddings.patch_embedding"],
    "pos_embed": ["embeddings.position_embedding.weight"],
    "norm": ["post_layernorm"],
}
SIGLIP = Layout(
    {
        **_TOWER, "head": ["classifier"],
        "attn_pool.latent": ["head.probe"],
        "attn_pool.q": ["head.attention.q"],
        "attn_pool.kv": ["head.attention.k", "head.attention.v"],
        "attn_pool.proj": ["head.attention.out_proj"],
        "attn_pool.norm": ["head.layernorm"],
        "attn_pool.mlp.fc1": ["head.mlp.fc1"],
        "attn_pool.mlp.fc2": ["head.mlp.fc2"],
    },
    _TOWER_BLOCK,
    "encoder.layers",
    position_axes=2,
)  # fmt: skip
CLIP = Layout(
    {
        **_TOWER, "norm_pre": ["pre_layrnorm"], "cls_token": ["embeddings.class_embedding"],
        "head": ["visual_projection"],
    },
    _TOWER_BLOCK,
    "encoder.layers",
    position_axes=2,
    token_axes=1,
)  # fmt: skip

#: Names that transformers 5 uses in memory and some files hold, and what they are called in most files.
_MODERN = (
    (r"^layers?\.", "encoder.layer."),
    (r"\.attention\.([qkv])_proj\.", lambda m: f".attention.attention.{_LETTERS[m[1]]}."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)
_MODERN_MLP = ((r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense."))
_LETTERS = {"q": "query", "k": "key", "v": "value"}


def classic(name: str, layout: Layout) -> str:
    """A parameter's name as most files have it."""
    for pattern, replacement in (*_MODERN, *(_MODERN_MLP if layout is VIT else ())):
        name = re.sub(pattern, replacement, name)
    return name


def split_pooling_heads(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SigLIP's pooling head with query, key and value apart; transformers keeps them in one tensor."""
    out = dict(tensors)
    for leaf in ("weight", "bias"):
        joined = out.pop(f"head.attention.in_proj_{leaf}", None)
        if joined is not None and joined.shape[0] % 3 == 0:
            for letter, part in zip("qkv", joined.chunk(3), strict=True):
                out[f"head.attention.{letter}.{leaf}"] = part
    return out


def join_pooling_heads(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `split_pooling_heads`."""
    out = dict(tensors)
    for leaf in ("weight", "bias"):
        parts = [out.pop(f"head.attention.{letter}.{leaf}") for letter in "qkv"]
        out[f"head.attention.in_proj_{leaf}"] = torch.cat(parts)
    return out
