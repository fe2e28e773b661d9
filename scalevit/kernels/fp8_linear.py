"""Linear layers whose three products are computed in fp8.

A number is kept as q · scale, q in eight bits: e4m3 (4 bits of exponent, 3 of mantissa) for activations and
weights, and for gradients e5m2 where a whole tensor shares its scale, e4m3 where every row has its own. The
scale puts the largest number at the format's largest one, and is computed anew in each step: nothing is
remembered, so a run continues after a stop as if there had been none. Products add up in fp32; their results
are bf16, the weights' gradient fp32. Weights stay fp32 parameters under their usual names.

On anything but a CUDA device the same numbers are multiplied in fp32 (`product`): slow, and the reference.

Shapes: t tokens · i inputs · o outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scalevit.kernels import linear

#: Granularity of scaling: bf16 (no fp8), fp8 with one scale a tensor, or with one for each row (and, for the
#: gradient of the weights, each column).
Granularity = Literal["bf16", "tensor", "row"]
GRANULARITIES: tuple[Granularity, ...] = ("bf16", "tensor", "row")

#: The layers of a block that can compute in fp8, and their parents: by far the most of a model's work.
FP8_LAYERS = {"qkv": "attn", "proj": "attn", "fc1": "mlp", "fc2": "mlp"}

#: Every dimension of a product must be a multiple of this.
ALIGNMENT = 16

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
FORMAT_MAX = {E4M3: 448.0, E5M2: 57344.0}
#: Least absolute maximum: below it numbers are as good as zero, and their scale must not become zero.
MIN_AMAX = 1e-30


@torch.library.custom_op(
    "scalevit::quantise",
    mutates_args=(),
    schema="(Tensor x, Tensor row_scales, Tensor column_scales, ScalarType dtype) -> (Tensor, Tensor)",
)
def cast_scaled(
    x: Tensor, row_scales: Tensor, column_scales: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Scaled cast, x / scale in `dtype`: by rows as it lies, and by columns transposed; both contiguous."""
    wide = x.float()
    across = wide.t() * column_scales.reciprocal()
    return (wide * row_scales.reciprocal()).to(dtype), across.to(dtype).contiguous()


@cast_scaled.register_fake
def _(x: Tensor, row_scales: Tensor, column_scales: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=dtype), x.new_empty((x.shape[1], x.shape[0]), dtype=dtype)


@cast_scaled.register_kernel("cuda")
def _(x: Tensor, row_scales: Tensor, column_scales: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    from scalevit.kernels.triton.quantise import quantise_kernel as kernel

    return kernel(x, row_scales, column_scales, dtype)


def quantise(
    x: Tensor, dtype: torch.dtype, granularity: Granularity
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Quantise a matrix (r, c) to eight bits, as it lies (r, c) and transposed (c, r), with both scales:
    scalars, or (r, 1) and (c, 1)."""
    # by rows first, where the compiler can do it in the kernel that makes x
    largest = torch.linalg.vector_norm(x, float("inf"), dim=1, keepdim=True)
    if granularity == "tensor":
        rows = columns = _scale(largest.amax(), dtype)
    else:
        rows = _scale(largest, dtype)
        columns = _scale(torch.linalg.vector_norm(x, float("inf"), dim=0).reshape(-1, 1), dtype)
    return *cast_scaled(x, rows, columns, dtype), rows, columns


def _scale(largest: Tensor, dtype: torch.dtype) -> Tensor:
    return largest.float().clamp(min=MIN_AMAX) / FORMAT_MAX[dtype]


def scaled_matmul(
    left: Tensor, right: Tensor, left_scales: Tensor, right_scales: Tensor, bias: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16, fast: bool = True,
) -> Tensor:  # fmt: skip
    """Scaled matrix product: left (a, k) times right (b, k) transposed, plus the bias (b), in `dtype`.

    fast: partial sums may stay in the tensor cores' own registers, which hold fewer bits than fp32."""
    if left.is_cuda:
        return torch._scaled_mm(
            left, right.t(), scale_a=left_scales, scale_b=right_scales.t(), bias=bias, out_dtype=dtype,
            use_fast_accum=fast,
        )  # fmt: skip
    out = (left.float() * left_scales) @ (right.float() * right_scales).t()
    return (out if bias is None else out + bias).to(dtype)


class _Linear(torch.autograd.Function):
    """x weightᵀ + bias and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, granularity: Granularity) -> Tensor:
        x8, x8t, x_rows, x_columns = quantise(x, E4M3, granularity)
        w8, w8t, w_rows, w_columns = quantise(weight, E4M3, granularity)
        ctx.save_for_backward(x8t, x_columns, w8t, w_columns)
        ctx.granularity, ctx.has_bias = granularity, bias is not None
        return scaled_matmul(x8, w8, x_rows, w_rows, None if bias is None else bias.to(torch.bfloat16))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        x8t, x_columns, w8t, w_columns = ctx.saved_tensors
        g = gradient.contiguous()
        g8, g8t, g_rows, g_columns = quantise(
            g, E5M2 if ctx.granularity == "tensor" else E4M3, ctx.granularity
        )
        inputs = scaled_matmul(g8, w8t, g_rows, w_columns)
        if ctx.granularity == "tensor":  # a sum over all tokens, where few bits would show
            weight = scaled_matmul(g8t, x8t, g_columns, x_columns, dtype=torch.float32, fast=False)
        else:
            weight = scaled_matmul(g8t, x8t, g_columns, x_columns, fast=False).float()
        return inputs, weight, g.sum(0, dtype=torch.float32) if ctx.has_bias else None, None


class Fp8Linear(linear.Linear):
    """Linear layer that computes in fp8, in its `granularity`, while it trains under autocast; in evaluation
    it computes plainly, as whoever loads the weights will."""

    #: None until it is decided; computes in bf16 until then.
    granularity: Granularity | None = None

    @classmethod
    def of(cls, plain: nn.Linear) -> Fp8Linear:
        """An fp8 layer with the parameters of `plain`."""
        new = cls(plain.in_features, plain.out_features, device="meta")
        new.weight, new.bias = plain.weight, plain.bias
        return new

    def forward(self, input: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        return self._multiply(input, self.bias)

    def matmul(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """The layer without its bias, which the caller adds."""
        return self._multiply(x, None)

    def _multiply(self, input: Float[Tensor, "*b i"], bias: Tensor | None) -> Float[Tensor, "*b o"]:
        training = torch.is_grad_enabled() and torch.is_autocast_enabled(input.device.type)
        tokens = input.numel() // self.in_features
        if self.granularity in (None, "bf16") or not training or tokens % ALIGNMENT:
            return F.linear(input, self.weight, bias)
        x = input.reshape(tokens, self.in_features).to(torch.bfloat16)
        y: Tensor = _Linear.apply(x, self.weight, bias, self.granularity)  # pyright: ignore
        return y.view(*input.shape[:-1], self.out_features)


def convert_blocks(blocks: Iterable[nn.Module]) -> None:
    """Replace linear layers of a model's blocks by `Fp8Linear`, in place; `set_granularities` turns fp8
    on."""
    for block in blocks:
        for name, parent in FP8_LAYERS.items():
            part = getattr(block, parent)
            setattr(part, name, Fp8Linear.of(getattr(part, name)))


def set_granularities(blocks: Iterable[nn.Module], chosen: dict[str, Granularity]) -> None:
    """Set the granularity of each layer, named as in FP8_LAYERS, in every block."""
    for block in blocks:
        for name, granularity in chosen.items():
            getattr(getattr(block, FP8_LAYERS[name]), name).granularity = granularity


def granularities(blocks: nn.ModuleList) -> dict[str, Granularity]:
    """Granularity of each layer of the blocks; empty as long as it is not decided."""
    layers = {name: getattr(getattr(blocks[0], parent), name) for name, parent in FP8_LAYERS.items()}
    return {name: layer.granularity for name, layer in layers.items() if layer.granularity is not None}
