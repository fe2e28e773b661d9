"""Bias and GELU in Triton: x/2 · (1 + tanh u) = x · σ(2u), u = √(2/π) (x + 0.044715 x³).

One exponential and one division a number, so that memory is what limits; what is saved is the product itself.
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

#: Rows and columns of a tile, and warps for it.
ROWS, COLUMNS, WARPS = 2, 1024, 4
#: Programs of the backward pass: eight for each multiprocessor of an H100; few, so that their sums are small.
PROGRAMS = 1056


@triton.jit
def gelu_sigmoid(x):
    """σ(2u): what x is multiplied with."""
    return 1.0 / (1.0 + tl.exp(-1.5957691216057308 * x * (1.0 + 0.044715 * x * x)))


@triton.jit
def gelu_kernel(h, bias, out, rows, m, R: tl.constexpr, C: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * R
    row = tl.arange(0, R)[:, None]
    column = tl.program_id(1) * C + tl.arange(0, C)[None, :]
    inside = (row < rows - first) & (column < m)
    place = first * m + row * m + column
    b = tl.load(bias + column, mask=column < m, other=0.0).to(tl.float32)
    x = tl.load(h + place, mask=inside, other=0.0).to(tl.float32) + b
    tl.store(out + place, (x * gelu_sigmoid(x)).to(out.dtype.element_ty), mask=inside)


@triton.jit
def gelu_backward_kernel(dy, h, bias, dh, sums, rows, m, each, R: tl.constexpr, C: tl.constexpr):
    """`each` rows a program, whose columns' sums of dh it writes as a row of `sums`."""
    first = tl.program_id(0).to(tl.int64) * each
    column = tl.program_id(1) * C + tl.arange(0, C)[None, :]
    b = tl.load(bias + column, mask=column < m, other=0.0).to(tl.float32)
    total = tl.zeros((R, C), tl.float32)
    for start in range(0, each, R):
        row = start + tl.arange(0, R)[:, None]
        inside = (row < rows - first) & (column < m)
        place = first * m + row * m + column
        x = tl.load(h + place, mask=inside, other=0.0).to(tl.float32) + b
        g = tl.load(dy + place, mask=inside, other=0.0).to(tl.float32)
        s = gelu_sigmoid(x)
        slope = s + x * s * (1.0 - s) * (1.5957691216057308 + 0.2140644488 * x * x)
        g = g * slope
        total += g
        tl.store(dh + place, g.to(dh.dtype.element_ty), mask=inside)
    tl.store(sums + tl.program_id(0) * m + column, tl.sum(total, axis=0)[None, :], mask=column < m)


@torch_op
def bias_gelu_forward(h: Tensor, bias: Tensor) -> Tensor:
    m, out = h.shape[-1], torch.empty_like(h)
    rows = h.numel() // m
    grid = (triton.cdiv(rows, ROWS), triton.cdiv(m, COLUMNS))
    launch_kernel(wrap_triton(gelu_kernel), grid, h, bias, out, rows, m, R=ROWS, C=COLUMNS, num_warps=WARPS)
    return out


@torch_op
def bias_gelu_backward(dy: Tensor, h: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    m, dh = h.shape[-1], torch.empty_like(h)
    rows, across = h.numel() // m, triton.cdiv(m, COLUMNS)
    each = ROWS * triton.cdiv(rows * across, ROWS * PROGRAMS)
    programs = triton.cdiv(rows, each)
    sums = torch.empty(programs, m, dtype=torch.float32, device=h.device)
    settings = {"R": ROWS, "C": COLUMNS, "num_warps": WARPS}
    launch_kernel(
        wrap_triton(gelu_backward_kernel),
        (programs, across),
        dy,
        h,
        bias,
        dh,
        sums,
        rows,
        m,
        each,
        **settings,
    )
    return dh, sums.sum(dim=0).to(bias.dtype)


class BiasGeluTriton(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, bias: Tensor) -> Tensor:
        h = h.contiguous()
        ctx.save_for_backward(h, bias)
        return bias_gelu_forward(h, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        return bias_gelu_backward(dy.contiguous(), *ctx.saved_tensors)
