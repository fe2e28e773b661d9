"""LayerNorm in a residual block, with a backward pass that takes the stream's gradient along.

The stream x (b, n, d) goes on and its norm goes into a branch, so both come out; their gradients then come
back together, and are added where they are made. `layer` holds the d weights, the d biases and epsilon.
"""

from __future__ import annotations

from torch import Tensor, nn

from scalevit.kernels import computes_in, usable
from scalevit.kernels.cpu import build


def norm(x: Tensor, layer: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """x and its norm, in the dtype that matrix products read."""
    if usable(x):
        from scalevit.kernels.triton.norm import NormTriton

        return NormTriton.apply(x, layer.weight, layer.bias, layer.eps, computes_in(x))
    if build.usable(x):
        from scalevit.kernels.cpu.norm import NormCPU

        return NormCPU.apply(x, layer.weight, layer.bias, layer.eps, computes_in(x))
    return norm_twin(x, layer)


def add_norm(x: Tensor, branch: Tensor, layer: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """x + branch and its norm; the backward pass makes the branch's gradient in the branch's dtype."""
    if usable(x):
        from scalevit.kernels.triton.norm import AddNormTriton

        return AddNormTriton.apply(x, branch, layer.weight, layer.bias, layer.eps, computes_in(x))
    if build.usable(x):
        from scalevit.kernels.cpu.norm import AddNormCPU

        return AddNormCPU.apply(x, branch, layer.weight, layer.bias, layer.eps, computes_in(x))
    return add_norm_twin(x, branch, layer)


def norm_twin(x: Tensor, layer: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """`norm` in plain PyTorch; under autocast the norm is fp32 until a product reads it."""
    return x, layer(x)


def add_norm_twin(x: Tensor, branch: Tensor, layer: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """`add_norm` in plain PyTorch."""
    x = x + branch
    return x, layer(x)
