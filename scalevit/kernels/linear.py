"""Linear layers, and an MLP's two with GELU between them, where our own products are faster than torch's.

Weights of fp32 are rounded where they are read, and their gradients come back in fp32 as they were summed.
Every dimension of x but the last counts as rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scalevit.kernels import computes_in, native


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (…, i) times the transpose of weight (o, i), plus bias (o), in the dtype that products compute in."""
    if _multiplies(x, weight, bias):
        from scalevit.kernels.linear_native import Linear

        return Linear.apply(x, weight, bias, computes_in(x))
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """A linear layer by the fastest product there is; it leaves its bias to others, where they want that."""

    def forward(self, input: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        return linear(input, self.weight, self.bias)

    def product(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        return linear(x, self.weight, None)

    def is_watched(self) -> bool:
        """Whether somebody's hooks want the layer itself to be called."""
        return bool(self._forward_hooks or self._forward_pre_hooks or self._backward_hooks)


def mlp(x: Tensor, fc1: nn.Module, fc2: nn.Module) -> Tensor | None:
    """fc2 of tanh GELU of fc1, where GELU and its derivative are taken of the products' sums; None where that
    is left to torch, or to layers that somebody watches or has put in the place of ours. The twin is
    `model.Mlp`: fp32 agrees within 1e-5, bf16 within its rounding."""
    if not (_is_ours(x, fc1) and _is_ours(x, fc2)):
        return None
    from scalevit.kernels.linear_native import Mlp

    keeps = torch.is_grad_enabled()
    return Mlp.apply(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias, computes_in(x), keeps)


def _is_ours(x: Tensor, layer: nn.Module) -> bool:
    return type(layer) is Linear and not layer.is_watched() and _multiplies(x, layer.weight, layer.bias)


def _multiplies(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if not native.usable(x):
        return False
    dtype = computes_in(x)
    factors = [weight] if bias is None else [weight, bias]
    plain = all(type(one) in (Tensor, nn.Parameter) for one in factors)
    fits = all(one.dtype in (dtype, torch.float32) for one in factors)
    return plain and fits and native.multiplies(x, dtype, x.numel() // x.shape[-1], *weight.shape)
