"""Linear layers and MLPs (linear, GELU, linear) by C matrix products, where those beat PyTorch's.

fp32 weights are rounded to bf16 where they are read; their gradients are summed and returned in fp32.
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
    """Linear layer: x (…, i) times the transpose of weight (o, i), plus bias (o), in autocast's dtype."""
    if x.ndim > 0 and _use_native(x, x.shape[-1], weight, bias):
        from scalevit.kernels.cpu.linear import LinearCPU

        return LinearCPU.apply(x, weight, bias, compute_dtype(x))
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """Linear layer (torch.nn.Linear) by the fastest matrix product available."""

    def forward(self, input: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        return linear(input, self.weight, self.bias)

    def matmul(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """The layer without its bias, which the caller adds."""
        return linear(x, self.weight, None)

    def has_hooks(self) -> bool:
        """Whether hooks are registered, so that the layer itself must be called."""
        hooks = (self._forward_pre_hooks, self._forward_hooks, self._backward_pre_hooks, self._backward_hooks)
        return any(hooks)


def mlp(x: Tensor, fc1: nn.Module, fc2: nn.Module) -> Tensor | None:
    """MLP: fc2 of tanh GELU of fc1, with GELU and its derivative fused into the matrix products. None where
    PyTorch computes it, or where a layer has hooks or another class. The reference is `model.layers.Mlp`:
    fp32 agrees within 1e-5, bf16 within its rounding."""
    if not (
        _is_plain(fc1) and _is_plain(fc2) and x.ndim > 0 and _use_native(x, x.shape[-1], fc1.weight, fc1.bias)
    ):
        return None
    if not _use_native(x, len(fc1.weight), fc2.weight, fc2.bias):
        return None
    from scalevit.kernels.cpu.linear import MlpCPU

    save_for_backward = torch.is_grad_enabled()
    return MlpCPU.apply(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias, compute_dtype(x), save_for_backward)


def _is_plain(layer: nn.Module) -> TypeGuard[Linear]:
    return type(layer) is Linear and layer.bias is not None and not layer.has_hooks()


def _use_native(x: Tensor, inputs: int, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the C product takes these; what torch would refuse is left to torch, which says why."""
    factors = [weight] if bias is None else [weight, bias]
    fits = weight.ndim == 2 and weight.shape[1] == inputs and (bias is None or bias.shape == weight.shape[:1])
    if not fits or not dispatch.use_native(x, *factors):
        return False
    dtype = compute_dtype(x)
    allowed = {dtype, torch.float32} if torch.is_autocast_enabled("cpu") else {dtype}
    rows = x.numel() // x.shape[-1]
    return all(factor.dtype in allowed for factor in factors) and dispatch.use_native_matmul(
        x, dtype, rows, *weight.shape
    )
