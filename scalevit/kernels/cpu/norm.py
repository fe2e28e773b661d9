"""LayerNorm in C: autograd functions over norm.c."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scalevit.kernels.cpu import dispatch


def _forward(
    ctx: Any, x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Forward pass: x, or x + branch, and its norm."""
    stream = x if branch is None else torch.empty_like(x)
    y, rows, d = torch.empty_like(x, dtype=dtype), x.numel() // x.shape[-1], x.shape[-1]
    means, scales, wide = torch.empty(rows), torch.empty(rows), weight.float()
    kind = x.dtype if branch is None else branch.dtype
    dispatch.call(
        "norm_forward", x, x.dtype, branch, kind, stream, wide, bias.float(), eps, y, dtype, means, scales,
        rows, d,
    )  # fmt: skip
    ctx.save_for_backward(stream, wide, means, scales)
    ctx.weight, ctx.branch = weight.dtype, None if branch is None else branch.dtype
    return stream, y


def _backward(ctx: Any, ds: Tensor, dy: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Backward pass: gradients of x, of the branch, of weight and bias."""
    stream, weight, means, scales = ctx.saved_tensors
    rows, d = len(means), stream.shape[-1]
    dx, sums = torch.empty_like(stream), torch.empty(2, dispatch.row_blocks(rows), d)
    dbranch = None if ctx.branch in (None, dx.dtype) else torch.empty_like(dx, dtype=ctx.branch)
    dispatch.call(
        "norm_backward", dy.contiguous(), dy.dtype, ds.contiguous(), stream, dx.dtype, weight, means, scales,
        dx, dbranch, ctx.branch or dx.dtype, sums, rows, d,
    )  # fmt: skip
    dweight, dbias = sums.sum(dim=1).to(ctx.weight).unbind()
    return dx, dx if dbranch is None else dbranch, dweight, dbias


class NormCPU(torch.autograd.Function):
    """x and LayerNorm of x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        return _forward(ctx, x.contiguous(), None, weight, bias, eps, dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, ds: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
        dx, _, dweight, dbias = _backward(ctx, ds, dy)
        return dx, dweight, dbias, None, None


class AddNormCPU(torch.autograd.Function):
    """x + branch and LayerNorm of the sum."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        return _forward(ctx, x.contiguous(), branch.contiguous(), weight, bias, eps, dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, ds: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
        return *_backward(ctx, ds, dy), None, None
