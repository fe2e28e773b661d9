"""Bias and GELU in C: the autograd function over gelu.c."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scalevit.kernels.cpu import dispatch


class BiasGeluCPU(torch.autograd.Function):
    """tanh GELU of h + bias, and both gradients."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, bias: Tensor) -> Tensor:
        h, wide = h.contiguous(), bias.float()
        ctx.save_for_backward(h, wide)
        ctx.dtype, y, m = bias.dtype, torch.empty_like(h), h.shape[-1]
        dispatch.call("bias_gelu_forward", h, wide, y, h.numel() // m, m, h.dtype)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        h, bias = ctx.saved_tensors
        rows, m = h.numel() // h.shape[-1], h.shape[-1]
        dh, sums = torch.empty_like(h), torch.empty(dispatch.row_blocks(rows), m)
        dispatch.call("bias_gelu_backward", dy.contiguous(), h, bias, dh, sums, rows, m, h.dtype)
        return dh, sums.sum(dim=0).to(ctx.dtype)
