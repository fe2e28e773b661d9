"""Layers of the ViT: activations, LayerNorm, LayerScale, the patch embedding, the MLP, the pre-logits
layer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scalevit.kernels.cpu import dispatch
from scalevit.kernels.gelu import bias_gelu
from scalevit.kernels.linear import Linear, linear, mlp
from scalevit.kernels.triton.launch import use_triton
from scalevit.model.initialisation import ParameterSpec, constant, lecun, normal, xavier, zeros
from scalevit.model.reference_layout import ReferenceLayout, same_layout, transposed_layout


def quick_gelu(x: Tensor) -> Tensor:
    """QuickGELU, x · sigmoid(1.702 x), as in OpenAI's CLIP."""
    return x * torch.sigmoid(1.702 * x)


def tanh_gelu(x: Tensor) -> Tensor:
    """GELU, tanh approximation: x/2 · (1 + tanh u) = x · sigmoid(2u), u = √(2/π) (x + 0.044715 x³). On a CPU,
    compiled code takes less than half the time with the second form (docs/lab-log.md, 2026-11-27)."""
    if x.device.type == "cpu" and torch.compiler.is_compiling():
        wide = x.float()
        return (wide * torch.sigmoid(math.sqrt(8 / math.pi) * (wide + 0.044715 * wide**3))).to(x.dtype)
    return F.gelu(x, approximate="tanh")


GELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": tanh_gelu,
    "erf": F.gelu,
    "quick": quick_gelu,
}


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis, with weight and bias."""

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        layout = same_layout(tuple(self.normalized_shape))
        return {"weight": ParameterSpec(layout, constant(1.0)), "bias": ParameterSpec(layout, zeros)}


class LayerScale(nn.Module):
    """LayerScale: a learned factor for each feature of a residual branch (Touvron et al. 2021)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return x * self.gamma

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        return {"gamma": ParameterSpec(same_layout((self.gamma.numel(),)), constant(1e-5))}


class PatchEmbed(nn.Module):
    """Patch embedding: a linear map of non-overlapping patches. `proj` is a convolution in name and layout
    only: a reshape and one matrix product compute the same in half the time."""

    def __init__(self, patch: int, width: int, bias: bool, channels: int = 3) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels, width, patch, patch, bias=bias)

    def forward(self, images: Float[Tensor, "b k y x"]) -> Float[Tensor, "b n d"]:
        b, channels, height, width = images.shape
        p = self.patch
        cells = images.reshape(b, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        return linear(cells.reshape(b, -1, channels * p * p), self.proj.weight.flatten(1), self.proj.bias)

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        shape = tuple(self.proj.weight.shape)
        kernel = ReferenceLayout(1, shape, (2, 3, 1, 0))
        out = {"proj.weight": ParameterSpec(kernel, lecun(math.prod(shape[1:])))}
        if self.proj.bias is not None:
            out["proj.bias"] = ParameterSpec(same_layout(shape[:1]), zeros)
        return out


class Mlp(nn.Module):
    """The MLP of a transformer block: linear, GELU, linear; fused kernels are used where they apply."""

    def __init__(self, width: int, hidden: int, gelu: str) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(width, hidden), Linear(hidden, width)
        self.gelu = GELUS[gelu]

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        fused = self.gelu is tanh_gelu and isinstance(self.fc1, Linear) and not self.fc1.has_hooks()
        y = mlp(x, self.fc1, self.fc2) if fused else None
        if y is not None:
            return y
        if fused and (use_triton(x) or dispatch.use_native(x)):
            return self.fc2(bias_gelu(self.fc1.matmul(x), self.fc1.bias))
        return self.fc2(self.gelu(self.fc1(x)))

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        d, m = self.fc1.in_features, self.fc1.out_features
        return {
            "fc1.weight": ParameterSpec(transposed_layout(m, d), xavier(d, m)),
            "fc1.bias": ParameterSpec(same_layout((m,)), normal(1e-6)),
            "fc2.weight": ParameterSpec(transposed_layout(d, m), xavier(m, d)),
            "fc2.bias": ParameterSpec(same_layout((d,)), normal(1e-6)),
        }


class PreLogits(nn.Module):
    """Pre-logits layer of the original ViT: linear and tanh between pooling and head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = Linear(width, width)

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        return torch.tanh(self.fc(x))

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        d = self.fc.in_features
        return {
            "fc.weight": ParameterSpec(transposed_layout(d, d), lecun(d)),
            "fc.bias": ParameterSpec(same_layout((d,)), zeros),
        }
