"""Linear layers, and an MLP's two with GELU between them, where our own products are faster than torch's.

Weights of fp32 are rounded where they are read, and their gradients come back in fp32 as they were summed. Every
dimension of x but the last counts as rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalevit.kernels import computes_in, native


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (…, i) times the transpose of weight (o, i), plus bias (o), in the dtype that products compute in."""
    if _multiplies(x, weight, bias):
        from scalevit.kernels.linear_native import Linear

        return Linear.apply(x, weight, bias, computes_in(x))
    return F.linear(x, weight, bias)


def multiplies(x: Tensor, *layers: nn.Linear) -> bool:
    """Whether products of x, and of what has as many rows, with these layers are computed here."""
    return all(_multiplies(x, layer.weight, layer.bias) for layer in layers)


def mlp(x: Tensor, fc1: nn.Linear, fc2: nn.Linear) -> Tensor:
    """fc2 of tanh GELU of fc1, where `multiplies` says so; GELU and its derivative are taken of the products'
    sums. The twin is `model.Mlp` without kernels: fp32 agrees within 1e-5, bf16 within its rounding."""
    from scalevit.kernels.linear_native import Mlp

    keeps = torch.is_grad_enabled()
    return Mlp.apply(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias, computes_in(x), keeps)


def _multiplies(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    dtype = computes_in(x)
    for one in (weight, bias):
        if one is not None and (type(one) not in (Tensor, nn.Parameter) or one.dtype not in (dtype, torch.float32)):
            return False
    return native.multiplies(x, dtype, x.numel() // x.shape[-1], *weight.shape)
