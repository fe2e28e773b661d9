"""LayerNorm in Triton. Statistics and sums are fp32; x̂ is computed again from x in the backward pass.

The sum x + branch itself is left to torch, whose compiler adds the next branch to it in the same pass;
kernels read both addends instead: less memory is kept, and as much is read.
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

#: Programs of the backward pass: eight for each multiprocessor of an H100; few, so that their sums are small.
PROGRAMS = 1056
#: Numbers that one program holds of a tensor in the forward and in the backward pass, in whole rows, and
#: that a warp does (benchmarks/kernels_h200_202611.md).
FORWARD, BACKWARD, WARP = 512, 4096, 512


@triton.jit
def load_rows(x, branch, place, inside, ADDED: tl.constexpr):
    """x, or x + branch, in fp32; 0 outside."""
    values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if ADDED:
        values += tl.load(branch + place, mask=inside, other=0.0).to(tl.float32)
    return values


@triton.jit
def norm_kernel(
    x,
    branch,
    weight,
    bias,
    out,
    means,
    scales,
    rows,
    d,
    eps,
    ADDED: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
):
    """R rows a program, of which `means` and `scales` (1/σ) keep the statistics."""
    first = tl.program_id(0).to(tl.int64) * R
    row, column = tl.arange(0, R)[:, None], tl.arange(0, D)[None, :]
    inside = (row < rows - first) & (column < d)
    place = first * d + row * d + column
    values = load_rows(x, branch, place, inside, ADDED)
    mean = tl.sum(values, axis=1)[:, None] / d
    values = tl.where(inside, values - mean, 0.0)
    scale = tl.rsqrt(tl.sum(values * values, axis=1)[:, None] / d + eps)
    w = tl.load(weight + column, mask=column < d, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=column < d, other=0.0).to(tl.float32)
    tl.store(out + place, (values * scale * w + b).to(out.dtype.element_ty), mask=inside)
    tl.store(means + first + row, mean, mask=row < rows - first)
    tl.store(scales + first + row, scale, mask=row < rows - first)


@triton.jit
def norm_backward_kernel(
    dy, ds, x, branch, weight, means, scales, dx, dbranch, sums, rows, d, each,
    ADDED: tl.constexpr, R: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """dx = ds + the norm's gradient, for `each` rows a program. `sums` gets a row for the weights' gradients
    in its first half, and one for the biases' in its second."""
    first = tl.program_id(0).to(tl.int64) * each
    column = tl.arange(0, D)[None, :]
    w = tl.load(weight + column, mask=column < d, other=0.0).to(tl.float32)
    dweight, dbias = tl.zeros((R, D), tl.float32), tl.zeros((R, D), tl.float32)
    for start in range(0, each, R):
        line = start + tl.arange(0, R)
        row, here = line[:, None], line < rows - first
        inside = here[:, None] & (column < d)
        place = first * d + row * d + column
        g = tl.load(dy + place, mask=inside, other=0.0).to(tl.float32)
        values = load_rows(x, branch, place, inside, ADDED)
        stream = tl.load(ds + place, mask=inside, other=0.0).to(tl.float32)
        mean = tl.load(means + first + line, mask=here, other=0.0)[:, None]
        scale = tl.load(scales + first + line, mask=here, other=0.0)[:, None]
        values = tl.where(inside, (values - mean) * scale, 0.0)
        dweight += g * values
        dbias += g
        g = g * w
        along, flat = tl.sum(g * values, axis=1)[:, None] / d, tl.sum(g, axis=1)[:, None] / d
        stream += (g - flat - values * along) * scale
        tl.store(dx + place, stream.to(dx.dtype.element_ty), mask=inside)
        if ADDED:
            tl.store(dbranch + place, stream.to(dbranch.dtype.element_ty), mask=inside)
    place = sums + tl.program_id(0) * d + column
    tl.store(place, tl.sum(dweight, axis=0)[None, :], mask=column < d)
    tl.store(place + tl.num_programs(0) * d, tl.sum(dbias, axis=0)[None, :], mask=column < d)


def tile(d: int, numbers: int) -> dict[str, int]:
    """Rows of width d that a program of so many numbers holds, their length as a power of two, its warps."""
    length = triton.next_power_of_2(d)
    rows = max(1, min(2, numbers // length))
    return {"R": rows, "D": length, "num_warps": min(16, max(1, rows * length // WARP))}


@torch_op
def layer_norm_forward(
    x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm of x, or of x + branch, with each row's mean and 1/σ."""
    d, out = x.shape[-1], torch.empty_like(x, dtype=dtype)
    rows, settings = x.numel() // d, tile(d, FORWARD)
    means, scales = (torch.empty(rows, dtype=torch.float32, device=x.device) for _ in range(2))
    grid = (triton.cdiv(rows, settings["R"]),)
    added = branch is not None
    branch = x if branch is None else branch
    launch_kernel(
        wrap_triton(norm_kernel), grid, x, branch, weight, bias, out, means, scales, rows, d, eps,
        ADDED=added, **settings,
    )  # fmt: skip
    return out, means, scales


@torch_op
def layer_norm_backward(
    dy: Tensor, ds: Tensor, x: Tensor, branch: Tensor | None, weight: Tensor, means: Tensor, scales: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of branch (empty without one), and of weight and bias, as two rows."""
    d, dx, settings = x.shape[-1], torch.empty_like(x), tile(x.shape[-1], BACKWARD)
    rows, added = x.numel() // d, branch is not None
    dbranch = torch.empty_like(branch) if branch is not None else x.new_empty(0)
    each = settings["R"] * triton.cdiv(rows, settings["R"] * PROGRAMS)
    programs = triton.cdiv(rows, each)
    sums = torch.empty(2, programs, d, dtype=torch.float32, device=x.device)
    branch = x if branch is None else branch
    launch_kernel(
        wrap_triton(norm_backward_kernel), (programs,), dy, ds, x, branch, weight, means, scales, dx,
        dbranch if added else dx, sums, rows, d, each, ADDED=added, **settings,
    )  # fmt: skip
    return dx, dbranch, sums.sum(dim=1).to(weight.dtype)


class NormTriton(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        y, *statistics = layer_norm_forward(x, None, weight, bias, eps, dtype)
        ctx.save_for_backward(x, weight, *statistics)
        return x, y

    @staticmethod
    def backward(ctx: Any, ds: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *statistics = ctx.saved_tensors
        dx, _, both = layer_norm_backward(dy.contiguous(), ds.contiguous(), x, None, weight, *statistics)
        return dx, *both.unbind(), None, None


class AddNormTriton(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        x, branch = x.contiguous(), branch.contiguous()
        y, *statistics = layer_norm_forward(x, branch, weight, bias, eps, dtype)
        ctx.save_for_backward(x, branch, weight, *statistics)
        return x + branch, y

    @staticmethod
    def backward(ctx: Any, ds: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, branch, weight, *statistics = ctx.saved_tensors
        dx, dbranch, both = layer_norm_backward(
            dy.contiguous(), ds.contiguous(), x, branch, weight, *statistics
        )
        return dx, dbranch, *both.unbind(), None, None
