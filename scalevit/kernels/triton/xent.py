"""Sigmoid cross-entropy in Triton.

Logits are read once for the losses and once for the gradient, which is only written: to keep a gradient made
in the first pass and to scale it in the backward pass would move more.
"""

# Triton turns what is annotated with tl.constexpr into one
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from scalevit.kernels.triton.launch import launch_kernel, torch_op

#: Classes at once, and warps for them.
COLUMNS, WARPS = 2048, 8


@triton.jit
def log1p(e):
    """log(1 + e) for e in [0, 1], accurate where e is small: 2 artanh(e / (2 + e)) as a series."""
    s = e / (2.0 + e)
    q = s * s
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13))))))
    return 2.0 * s * series


@triton.jit
def softplus(x):
    return tl.maximum(x, 0.0) + log1p(tl.exp(-tl.abs(x)))


@triton.jit
def sigmoid(x):
    """Without overflow, and accurate in both tails."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0.0, e, 1.0) / (1.0 + e)


@triton.jit
def is_right(labels, row, column, K: tl.constexpr):
    """Where columns are among the K labels of a row."""
    right = column == tl.load(labels + row * K)
    for k in tl.static_range(1, K):
        right = right | (column == tl.load(labels + row * K + k))
    return right


@triton.jit
def loss_kernel(logits, labels, losses, c, SOFT: tl.constexpr, K: tl.constexpr, C: tl.constexpr):
    """A row a program."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros((C,), tl.float32)
    for start in range(0, c, C):
        column = start + tl.arange(0, C)
        inside = column < c
        x = tl.load(logits + row * c + column, mask=inside, other=0.0).to(tl.float32)
        if SOFT:
            y = tl.load(labels + row * c + column, mask=inside, other=0.0).to(tl.float32)
            term = tl.maximum(x, 0.0) - x * y + log1p(tl.exp(-tl.abs(x)))
        else:
            term = softplus(tl.where(is_right(labels, row, column, K), -x, x))
        total += tl.where(inside, term, 0.0)
    tl.store(losses + row, tl.sum(total, axis=0))


@triton.jit
def gradient_kernel(
    logits, labels, dlosses, dlogits, c, SOFT: tl.constexpr, K: tl.constexpr, C: tl.constexpr
):
    """σ(x) - y, times the loss's own gradient; a part of a row a program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * C + tl.arange(0, C)
    inside = column < c
    x = tl.load(logits + row * c + column, mask=inside, other=0.0).to(tl.float32)
    if SOFT:
        g = sigmoid(x) - tl.load(labels + row * c + column, mask=inside, other=0.0).to(tl.float32)
    else:
        right = is_right(labels, row, column, K)
        g = tl.where(right, -sigmoid(-x), sigmoid(x))
    g *= tl.load(dlosses + row)
    tl.store(dlogits + row * c + column, g.to(dlogits.dtype.element_ty), mask=inside)


def form(labels: Tensor) -> dict[str, Any]:
    """How the kernels are to read the labels."""
    soft = labels.is_floating_point()
    lists = 1 if soft or labels.ndim == 1 else labels.shape[1]
    return {"SOFT": soft, "K": lists, "C": COLUMNS, "num_warps": WARPS}


@torch_op
def sigmoid_xent_forward(logits: Tensor, labels: Tensor) -> Tensor:
    b, c = logits.shape
    losses = torch.empty(b, dtype=torch.float32, device=logits.device)
    launch_kernel(wrap_triton(loss_kernel), (b,), logits, labels, losses, c, **form(labels))
    return losses


@torch_op
def sigmoid_xent_backward(dlosses: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    (b, c), dlogits = logits.shape, torch.empty_like(logits)
    grid = (b, triton.cdiv(c, COLUMNS))
    launch_kernel(wrap_triton(gradient_kernel), grid, logits, labels, dlosses, dlogits, c, **form(labels))
    return dlogits


class SigmoidXent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        logits, labels = logits.contiguous(), labels.contiguous()
        ctx.save_for_backward(logits, labels)
        return sigmoid_xent_forward(logits, labels)

    @staticmethod
    def backward(ctx: Any, dlosses: Tensor) -> tuple[Tensor, None]:
        return sigmoid_xent_backward(dlosses.contiguous(), *ctx.saved_tensors), None
