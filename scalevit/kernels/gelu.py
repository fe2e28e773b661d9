"""Bias and tanh GELU of an MLP's first layer, fused; both gradients in one pass.

m features a row; all other dimensions count as rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scalevit.kernels.cpu import dispatch
from scalevit.kernels.triton.launch import use_triton


def bias_gelu(h: Tensor, bias: Tensor) -> Tensor:
    """tanh GELU of h (…, m) + bias (m): computed in fp32, returned in the dtype of h."""
    fits = h.ndim > 0 and bias.shape == h.shape[-1:]  # others PyTorch broadcasts or refuses
    if fits and use_triton(h, bias):
        from scalevit.kernels.triton.gelu import BiasGeluTriton

        return BiasGeluTriton.apply(h, bias)
    if fits and dispatch.use_native(h, bias):
        from scalevit.kernels.cpu.gelu import BiasGeluCPU

        return BiasGeluCPU.apply(h, bias)
    return bias_gelu_reference(h, bias)


def bias_gelu_reference(h: Tensor, bias: Tensor) -> Tensor:
    """`bias_gelu` in plain PyTorch. The kernel agrees within 1e-5 in fp32, within its rounding in bf16."""
    wide = torch.promote_types(h.dtype, torch.float32)
    return F.gelu(h.to(wide) + bias.to(wide), approximate="tanh").to(h.dtype)
