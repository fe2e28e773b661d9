"""Linear layers, and an MLP's two with GELU between them, where our own products are faster than torch's.

Weights of fp32 are rounded where they are read, and their gradients come back in fp32 as they were summed.
Every dimension of x but the last counts as rows.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scalevit.kernels.autocast import compute_dtype
from scalevit.kernels.cpu import dispatch


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (…, i) times the transpose of weight (o, i), plus bias (o), in the dtype that products compute in."""
    if _multiplies(x, x.shape[-1], weight, bias):
        from scalevit.kernels.cpu.linear import LinearCPU

        return LinearCPU.apply(x, weight, bias, compute_dtype(x))
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """A linear layer by the fastest product there is; it leaves its bias to others, where they want that."""

    def forward(self, input: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        return linear(input, self.weight, self.bias)

    def matmul(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        return linear(x, self.weight, None)

    def has_hooks(self) -> bool:
        """Whether somebody's hooks want the layer itself to be called."""
        hooks = (self._forward_pre_hooks, self._forward_hooks, self._backward_pre_hooks, self._backward_hooks)
        return any(hooks)


def mlp(x: Tensor, fc1: nn.Module, fc2: nn.Module) -> Tensor | None:
    """fc2 of tanh GELU of fc1, where GELU and its derivative are taken of the products' sums; None where that
    is left to torch, or to layers that somebody watches or has put in the place of ours. The twin is
    `model.Mlp`: fp32 agrees within 1e-5, bf16 within its rounding."""
    if not (_is_plain(fc1) and _is_plain(fc2) and _multiplies(x, x.shape[-1], fc1.weight, fc1.bias)):
        return None
    if not _multiplies(x, fc1.out_features, fc2.weight, fc2.bias):
        return None
    from scalevit.kernels.cpu.linear import MlpCPU

    keeps = torch.is_grad_enabled()
    return MlpCPU.apply(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias, compute_dtype(x), keeps)


def _is_plain(layer: nn.Module) -> TypeGuard[Linear]:
    return type(layer) is Linear and layer.bias is not None and not layer.has_hooks()


def _multiplies(x: Tensor, inputs: int, weight: Tensor, bias: Tensor | None) -> bool:
    """What torch would refuse is left to torch, which says why."""
    if not dispatch.use_native(x) or weight.shape[1] != inputs:
        return False
    dtype = compute_dtype(x)
    allowed = {dtype, torch.float32} if torch.is_autocast_enabled("cpu") else {dtype}
    factors = [weight] if bias is None else [weight, bias]
    plain = all(type(one) in (Tensor, nn.Parameter) and one.dtype in allowed for one in factors)
    return plain and dispatch.use_native_matmul(x, dtype, x.numel() // x.shape[-1], *weight.shape)
