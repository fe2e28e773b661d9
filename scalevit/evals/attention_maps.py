"""Attention maps of a ViT: the weight that its pooling gives to each patch."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from scalevit.model.attention import Block
from scalevit.model.attention_pool import AttentionPool
from scalevit.model.vit import ViT


def attention_maps(model: ViT, images: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b h g g"]:
    """Attention of each head to each patch of the g × g grid: of the pooling's query (MAP, paper §3.2) or of
    the class token in the last block, without its attention to itself and to registers.

    Raises ValueError for a model that takes the mean of all patches."""
    stages: dict[str, Tensor] = {}
    model.features(images.to(next(model.parameters()).device), stages)
    if isinstance(model.attn_pool, AttentionPool):
        tokens = model.norm(stages["encoded"])[:, model.prefix :]
        scores = _query_scores(model.attn_pool, tokens)
    elif model.config.pool == "token":
        before = f"blocks.{len(model.blocks) - 2}" if len(model.blocks) > 1 else "embedded"
        last = model.blocks[-1]
        assert isinstance(last, Block)
        scores = _class_scores(last, stages[before])
    else:
        raise ValueError("this model's pooling is the mean of all patches: every patch weighs the same")
    rows, columns = model.config.grid
    weights = scores.float().softmax(dim=-1)
    return weights[..., weights.shape[-1] - rows * columns :].unflatten(-1, (rows, columns))


def _query_scores(pool: AttentionPool, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b h n"]:
    b, n, d = tokens.shape
    keys = pool.kv(tokens).view(b, n, 2, pool.heads, d // pool.heads)[:, :, 0]
    query = pool.q(pool.latent).view(pool.heads, d // pool.heads)
    return torch.einsum("he,bnhe->bhn", query, keys) / math.sqrt(d // pool.heads)


def _class_scores(block: Block, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b h n"]:
    attention, (b, n, d) = block.attn, tokens.shape
    heads = attention.heads
    q, k, _ = attention.qkv(block.norm1(tokens)).view(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q[:, :, :1]), attention.k_norm(k)
    return (q @ k.transpose(-2, -1))[:, :, 0] / math.sqrt(d // heads)
