"""Linear layers and MLPs in C: autograd functions over linear.c."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scalevit.kernels.cpu import dispatch

#: Epilogue of a matrix product, as numbered in linear.c.
PLAIN, GELU, GELU_GRADIENT = range(3)


class LinearCPU(torch.autograd.Function):
    """Linear layer, x weightᵀ + bias, and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        ctx.dtype, ctx.bias = x.dtype, None if bias is None else bias.dtype
        x, weight = x.to(dtype).contiguous(), weight.contiguous()
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), dy = ctx.saved_tensors, dy.contiguous()
        dx = _input_gradient(dy, weight).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:]):
            return dx, None, None, None
        return dx, *_weight_gradients(dy, x, weight.dtype, ctx.bias), None


class MlpCPU(torch.autograd.Function):
    """MLP: linear, tanh GELU, linear, and its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        dtype: torch.dtype,
        save_hidden: bool,
    ) -> Tensor:
        ctx.dtype, ctx.biases = x.dtype, (b1.dtype, b2.dtype)
        x, w1, w2 = x.to(dtype).contiguous(), w1.contiguous(), w2.contiguous()
        h = x.new_empty(*x.shape[:-1], len(w1)) if save_hidden else None
        a = _product(x, w1, b1, GELU, h)
        ctx.save_for_backward(x, h, a, w1, w2)
        return _product(a, w2, b2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, h, a, w1, w2), dy = ctx.saved_tensors, dy.contiguous()
        dh = _input_gradient(dy, w2, GELU_GRADIENT, h)
        dx = _input_gradient(dh, w1).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:]):
            return dx, None, None, None, None, None, None
        first, second = ctx.biases
        outer, inner = _weight_gradients(dy, a, w2.dtype, second), _weight_gradients(dh, x, w1.dtype, first)
        return dx, *inner, *outer, None, None


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None, epilogue: int = PLAIN, hidden: Tensor | None = None
) -> Tensor:
    """Matrix product: x (…, i) times the transpose of weight (o, i), plus bias (o). With GELU, `hidden` (…,
    o) receives the sums before it."""
    o, i = weight.shape
    y, wide = x.new_empty(*x.shape[:-1], o), None if bias is None else bias.float()
    rows = x.numel() // i
    dispatch.call("product", x, weight, weight.dtype, wide, y, hidden, rows, i, o, 1, epilogue, x.dtype)
    return y


def _input_gradient(
    dy: Tensor, weight: Tensor, epilogue: int = PLAIN, hidden: Tensor | None = None
) -> Tensor:
    """Input gradient: dy (…, o) times weight (o, i); with `hidden` (…, i), times GELU's derivative there."""
    o, i = weight.shape
    dx = dy.new_empty(*dy.shape[:-1], i)
    rows = dy.numel() // o
    dispatch.call("product", dy, weight, weight.dtype, None, dx, hidden, rows, o, i, 0, epilogue, dy.dtype)
    return dx


def _weight_gradients(
    dy: Tensor, x: Tensor, weight: torch.dtype, bias: torch.dtype | None
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the weight (o, i) and of the bias (o), if there is one, in these dtypes."""
    o, i = dy.shape[-1], x.shape[-1]
    dweight, dbias = torch.empty(o, i), None if bias is None else torch.empty(o)
    dispatch.call("product_gradients", dy, x, dweight, dbias, x.numel() // i, o, i, x.dtype)
    return dweight.to(weight), None if dbias is None else dbias.to(bias)
