"""Multi-head self-attention, the transformer block, and multi-head attention pooling (MAP)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from scalevit.config.run import Model
from scalevit.kernels.attention import dot_product_attention
from scalevit.kernels.cpu import dispatch
from scalevit.kernels.cpu.attention import self_attention
from scalevit.kernels.linear import Linear
from scalevit.kernels.norm import add_norm, norm
from scalevit.model.initialisation import ParameterSpec, xavier, zeros
from scalevit.model.layers import LayerNorm, LayerScale, Mlp
from scalevit.model.reference_layout import ReferenceLayout, same_layout


def projection_specs(name: str, parts: int, width: int, heads: int) -> dict[str, ParameterSpec]:
    """Specs of a projection that stacks `parts` of query, key and value; the reference has (d, h, e) kernels
    and (h, e) biases."""
    e = width // heads
    return {
        f"{name}.weight": ParameterSpec(
            ReferenceLayout(parts, (heads, e, width), (2, 0, 1)), xavier(width, width)
        ),
        f"{name}.bias": ParameterSpec(ReferenceLayout(parts, (heads, e), (0, 1)), zeros),
    }


def output_specs(width: int, heads: int) -> dict[str, ParameterSpec]:
    """Specs of the attention's output projection; the reference's kernel is (h, e, d)."""
    return {
        "proj.weight": ParameterSpec(
            ReferenceLayout(1, (width, heads, width // heads), (1, 2, 0)), xavier(width, width)
        ),
        "proj.bias": ParameterSpec(same_layout((width,)), zeros),
    }


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017); with `qk_norm`, queries and keys are normalised per
    head (2302.05442)."""

    def __init__(self, width: int, heads: int, qk_norm: bool, eps: float) -> None:
        super().__init__()
        self.heads, self.qk_norm = heads, qk_norm
        self.qkv, self.proj = Linear(width, 3 * width), Linear(width, width)
        self.q_norm = LayerNorm(width // heads, eps=eps) if qk_norm else nn.Identity()
        self.k_norm = LayerNorm(width // heads, eps=eps) if qk_norm else nn.Identity()

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        b, n, d = x.shape
        qkv = self.qkv(x)
        if not self.qk_norm and dispatch.use_native_matmul(qkv, qkv.dtype, n, d // self.heads):
            return self.proj(self_attention(qkv, self.heads))
        q, k, v = qkv.view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.proj(y.transpose(1, 2).reshape(b, n, d))

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        d = self.proj.in_features
        return {**projection_specs("qkv", 3, d, self.heads), **output_specs(d, self.heads)}


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        s, eps = config.resolve(), config.norm_eps
        self.norm1 = LayerNorm(s.width, eps=eps)
        self.attn = Attention(s.width, s.heads, config.qk_norm, eps)
        self.ls1 = LayerScale(s.width) if config.layer_scale else nn.Identity()
        self.norm2 = LayerNorm(s.width, eps=eps)
        self.mlp = Mlp(s.width, s.mlp, config.gelu)
        self.ls2 = LayerScale(s.width) if config.layer_scale else nn.Identity()

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x, y = norm(x, self.norm1)
        x, y = add_norm(x, self.ls1(self.attn(y)), self.norm2)
        return x + self.ls2(self.mlp(y))
