"""LayerNorm in a residual block, fused with the residual addition; the backward pass adds both gradients.

The residual stream x (b, n, d) continues and its norm feeds a branch, so both are returned; their gradients
arrive together and are added in the kernel. `layer` holds the d weights, the d biases and epsilon.
"""

from __future__ import annotations

from torch import Tensor, nn

from scalevit.kernels.autocast import compute_dtype
from scalevit.kernels.cpu import dispatch
from scalevit.kernels.triton.launch import use_triton


def norm(x: Tensor, layer: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """LayerNorm: x (b, n, d) and its norm, in the dtype that matrix products read."""
    fits = _is_affine(layer, x)
    if fits and use_triton(x, layer.weight, layer.bias):
        from scalevit.kernels.triton.norm import NormTriton

        return NormTriton.apply(x, layer.weight, layer.bias, layer.eps, compute_dtype(x))
    if fits and dispatch.use_native(x, layer.weight, layer.bias):
        from scalevit.kernels.cpu.norm import NormCPU

        return NormCPU.apply(x, layer.weight, layer.bias, layer.eps, compute_dtype(x))
    return norm_reference(x, layer)


def add_norm(x: Tensor, branch: Tensor, layer: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Residual addition and LayerNorm: x + branch and its norm. The branch's gradient has the branch's
    dtype."""
    fits = _is_affine(layer, x) and branch.shape == x.shape
    if fits and use_triton(x, branch, layer.weight, layer.bias):
        from scalevit.kernels.triton.norm import AddNormTriton

        return AddNormTriton.apply(x, branch, layer.weight, layer.bias, layer.eps, compute_dtype(x))
    if fits and dispatch.use_native(x, branch, layer.weight, layer.bias):
        from scalevit.kernels.cpu.norm import AddNormCPU

        return AddNormCPU.apply(x, branch, layer.weight, layer.bias, layer.eps, compute_dtype(x))
    return add_norm_reference(x, branch, layer)


def _is_affine(layer: nn.LayerNorm, x: Tensor) -> bool:
    """Whether the layer has a weight and a bias of x's last dimension; others are left to PyTorch, which
    broadcasts or refuses them."""
    weight, bias = layer.weight, layer.bias
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor) or x.ndim == 0:
        return False
    size = x.shape[-1:]
    return weight.shape == size and bias.shape == size and tuple(layer.normalized_shape) == tuple(size)


def norm_reference(x: Tensor, layer: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """`norm` in plain PyTorch; under autocast the norm is fp32 until a matrix product reads it."""
    return x, layer(x)


def add_norm_reference(x: Tensor, branch: Tensor, layer: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """`add_norm` in plain PyTorch."""
    x = x + branch
    return x, layer(x)
