"""Self-attention on a CPU as two batched matrix products with a softmax in place between them.

Queries, keys and values are brought into the products' layout once, with their bias on the way, and their
gradients back at once.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scalevit.kernels import native


class SelfAttention(torch.autograd.Function):
    """Of qkv (b, n, 3 · h · e), the product without its bias, and that bias, to (b, n, h · e)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, heads: int) -> Tensor:
        b, n, d = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        ctx.scale, ctx.dtype, ctx.size = 1 / math.sqrt(d // heads), bias.dtype, (b, n, heads, d // heads)
        parts = _split(qkv.contiguous(), bias.float(), 3, *ctx.size)
        q, k, v = parts
        shares = torch.bmm(q, k.transpose(1, 2))
        native.call("softmax_forward", shares, ctx.scale, b * heads * n, n, shares.dtype)
        ctx.save_for_backward(parts, shares)
        return _join(torch.bmm(shares, v), None, 1, *ctx.size)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        parts, shares = ctx.saved_tensors
        b, n, heads, e = ctx.size
        dy = _split(dy.contiguous(), None, 1, *ctx.size)[0]
        gradients = torch.empty_like(parts)
        (q, k, v), (dq, dk, dv) = parts, gradients
        torch.bmm(shares.transpose(1, 2), dy, out=dv)
        scores = torch.bmm(dy, v.transpose(1, 2))
        native.call("softmax_backward", shares, scores, ctx.scale, b * heads * n, n, scores.dtype)
        torch.bmm(scores, k, out=dq)
        torch.bmm(scores.transpose(1, 2), q, out=dk)
        sums = torch.empty(native.blocks(b * n), 3 * heads * e)
        return _join(gradients, sums, 3, *ctx.size), sums.sum(dim=0).to(ctx.dtype), None


def _split(joined: Tensor, bias: Tensor | None, parts: int, b: int, n: int, heads: int, e: int) -> Tensor:
    """(b, n, parts · h · e) as (parts, b · h, n, e)."""
    split = joined.new_empty(parts, b * heads, n, e)
    native.call("heads_split", joined, bias, split, b, n, parts, heads, e, joined.dtype)
    return split


def _join(split: Tensor, sums: Tensor | None, parts: int, b: int, n: int, heads: int, e: int) -> Tensor:
    joined = split.new_empty(b, n, parts * heads * e)
    native.call("heads_join", split, joined, sums, b, n, parts, heads, e, split.dtype)
    return joined
