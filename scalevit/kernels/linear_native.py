"""The products of linear.py on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scalevit.kernels import native

#: What becomes of a product's sums, as products.c calls it.
PLAIN, GELU, GELU_GRADIENT = range(3)


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, how: int = PLAIN, inner: Tensor | None = None
) -> Tensor:
    """x (…, i) times the transpose of weight (o, i), plus bias (o). `inner` (…, o) holds what GELU is taken of."""
    y = x.new_empty(*x.shape[:-1], len(weight))
    rows, i = _rows(x), x.shape[-1]
    native.call("product", x, weight, bias, y, inner, rows, i, len(weight), 1, how, x.dtype)
    return y


def gradient(dy: Tensor, weight: Tensor, how: int = PLAIN, inner: Tensor | None = None) -> Tensor:
    """dy (…, o) times weight (o, i)."""
    dx = dy.new_empty(*dy.shape[:-1], weight.shape[1])
    rows, o = _rows(dy), dy.shape[-1]
    native.call("product", dy, weight, None, dx, inner, rows, o, weight.shape[1], 0, how, dy.dtype)
    return dx


def weight_gradients(dy: Tensor, x: Tensor, bias: bool) -> tuple[Tensor, Tensor | None]:
    """Those of the weight (o, i) and of the bias (o), in fp32."""
    o, i = dy.shape[-1], x.shape[-1]
    dweight, dbias = torch.empty(o, i), torch.empty(o) if bias else None
    native.call("product_gradients", dy, x, dweight, dbias, _rows(x), o, i, x.dtype)
    return dweight, dbias


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


class Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        ctx.dtype, ctx.bias = x.dtype, bias is not None
        x, weight = x.to(dtype).contiguous(), weight.contiguous()
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), dy = ctx.saved_tensors, dy.contiguous()
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        dx = gradient(dy, weight).to(ctx.dtype) if wants_x else None
        if not (wants_weight or wants_bias):
            return dx, None, None, None
        return dx, *weight_gradients(dy, x, ctx.bias), None


class Mlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, dtype: torch.dtype
    ) -> Tensor:
        ctx.dtype, x = x.dtype, x.to(dtype).contiguous()
        h = x.new_empty(*x.shape[:-1], len(w1)) if any(ctx.needs_input_grad) else None
        a = product(x, w1, b1, GELU, h)
        ctx.save_for_backward(x, h, a, w1, w2)
        return product(a, w2, b2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, h, a, w1, w2), dy = ctx.saved_tensors, dy.contiguous()
        dw2, db2 = weight_gradients(dy, a, True)
        dh = gradient(dy, w2, GELU_GRADIENT, h)
        dw1, db1 = weight_gradients(dh, x, True)
        dx = gradient(dh, w1).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return dx, dw1, db1, dw2, db2, None
