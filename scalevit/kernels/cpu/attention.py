"""Self-attention in C, from the joint projection, without an n × n matrix in memory; the reference is
kernels/attention.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scalevit.kernels.cpu import dispatch


def self_attention(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention of qkv (b, n, 3 · h · e): (b, n, h · e).

    Raises ValueError for a width that is no multiple of three times the heads, for an odd e, and for fewer
    tokens than a tile has rows."""
    b, n, width = qkv.shape
    if b < 1 or n < dispatch.TILE_ROWS or heads < 1 or width % (3 * heads) or width // (3 * heads) % 2:
        raise ValueError(f"no attention kernel for {tuple(qkv.shape)} and {heads} heads")
    return SelfAttention.apply(qkv, heads, torch.is_grad_enabled())


class SelfAttention(torch.autograd.Function):
    """Autograd function of the C kernels. save_logs: whether a backward pass may follow."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, save_logs: bool) -> Tensor:
        b, n, d = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        qkv, y = qkv.contiguous(), qkv.new_empty(b, n, d)
        logs = torch.empty(b, heads, n) if save_logs else None
        dispatch.call("attention_forward", qkv, y, logs, b, n, heads, d // heads, qkv.dtype)
        ctx.save_for_backward(qkv, logs)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        qkv, logs = ctx.saved_tensors  # once: activation checkpointing recomputes on each access
        gradient = torch.empty_like(qkv)
        b, heads, n = logs.shape
        e = qkv.shape[2] // (3 * heads)
        dispatch.call("attention_backward", qkv, dy.contiguous(), logs, gradient, b, n, heads, e, qkv.dtype)
        return gradient, None, None
