"""Bias and tanh GELU of an MLP's first layer, and both gradients in one pass.

m numbers a row; every other dimension counts as rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scalevit.kernels.cpu import dispatch
from scalevit.kernels.triton.launch import use_triton


def bias_gelu(h: Tensor, bias: Tensor) -> Tensor:
    """tanh GELU of h (…, m) + bias (m), computed in fp32, in the dtype of h."""
    if use_triton(h):
        from scalevit.kernels.triton.gelu import BiasGeluTriton

        return BiasGeluTriton.apply(h, bias)
    if dispatch.use_native(h):
        from scalevit.kernels.cpu.gelu import BiasGeluCPU

        return BiasGeluCPU.apply(h, bias)
    return bias_gelu_reference(h, bias)


def bias_gelu_reference(h: Tensor, bias: Tensor) -> Tensor:
    """The same in plain PyTorch. The kernel's fp32 agrees within 1e-5, bf16 within its rounding."""
    wide = torch.promote_types(h.dtype, torch.float32)
    return F.gelu(h.to(wide) + bias.to(wide), approximate="tanh").to(h.dtype)
