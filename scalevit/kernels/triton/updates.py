"""Optimizer steps in Triton: SGD, Adam and Adafactor over a table of tensors."""

# Triton turns what is annotated with tl.constexpr into one
# pyright: reportArgumentType=false

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl

from scalevit.kernels.updates import (
    ElementwiseUpdate,
    FactoredUpdate,
    StepCoefficients,
    UpdateLaunch,
    chunk_table,
)

#: Elements of one tensor that one program updates.
CHUNK = 4096
#: Rows and columns of a tile of a factored tensor, tiles that one program sums, and elements of a vector of
#: statistics.
ROWS, COLUMNS, TILES, VECTOR = 32, 128, 8, 1024

DTYPES = {torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


# --------------------------------------------------------------------------- element by element


@triton.jit
def _descend(weights, momenta, at, mask, update, lr, weight_factor, momentum):
    """m ← u + β m; θ ← weight_factor θ − lr m. `momenta` says in which dtype m is kept."""
    update += tl.load(momenta + at, mask=mask).to(tl.float32) * momentum
    tl.store(momenta + at, update.to(momenta.dtype.element_ty), mask=mask)
    tl.store(weights + at, tl.load(weights + at, mask=mask) * weight_factor - lr * update, mask=mask)


@triton.jit
def _adam(
    weights,
    g,
    momenta,
    seconds,
    at,
    mask,
    lr,
    weight_factor,
    momentum,
    update_weight,
    beta2,
    eps,
    debias1,
    debias2,
):
    v = tl.load(seconds + at, mask=mask) * beta2 + (1 - beta2) * g * g
    m = tl.load(momenta + at, mask=mask).to(tl.float32) * momentum + update_weight * g
    tl.store(seconds + at, v, mask=mask)
    tl.store(momenta + at, m.to(momenta.dtype.element_ty), mask=mask)
    update = (m / debias1) / (tl.sqrt_rn(v / debias2) + eps)
    tl.store(weights + at, tl.load(weights + at, mask=mask) * weight_factor - lr * update, mask=mask)


@triton.jit
def _adafactor(
    weights, g, momenta, seconds, at, mask, lr, weight_factor, momentum, update_weight, beta2, eps
):
    v = tl.load(seconds + at, mask=mask, other=1.0) * beta2 + (1 - beta2) * (g * g + eps)
    tl.store(seconds + at, v, mask=mask)
    _descend(weights, momenta, at, mask, g / tl.sqrt_rn(v) * update_weight, lr, weight_factor, momentum)


@triton.jit
def _elements(
    table, gradients_table, sizes, chunks, count,
    lr, weight_factor, momentum, update_weight, beta2, eps, debias1, debias2,
    RULE: tl.constexpr, MOMENTUM: tl.constexpr, ALIGNED: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    which = tl.load(chunks + 2 * tl.program_id(0))
    first = tl.load(chunks + 2 * tl.program_id(0) + 1)
    weights = tl.load(table + which).to(tl.pointer_type(tl.float32))
    gradients = tl.load(gradients_table + which).to(tl.pointer_type(tl.float32))
    momenta = tl.load(table + count + which).to(tl.pointer_type(MOMENTUM))
    if ALIGNED:
        weights, gradients = tl.multiple_of(weights, 16), tl.multiple_of(gradients, 16)
        momenta = tl.multiple_of(momenta, 16)
    at = tl.multiple_of(first, CHUNK) + tl.arange(0, CHUNK)
    size = tl.load(sizes + which)
    if ALIGNED:
        size = tl.multiple_of(size, 8)
    mask = at < size
    g = tl.load(gradients + at, mask=mask)
    if RULE == "sgd":
        _descend(weights, momenta, at, mask, g, lr, weight_factor, momentum)
    else:
        seconds = tl.load(table + 2 * count + which).to(tl.pointer_type(tl.float32))
        if ALIGNED:
            seconds = tl.multiple_of(seconds, 16)
        if RULE == "adam":
            _adam(
                weights,
                g,
                momenta,
                seconds,
                at,
                mask,
                lr,
                weight_factor,
                momentum,
                update_weight,
                beta2,
                eps,
                debias1,
                debias2,
            )
        else:
            _adafactor(
                weights, g, momenta, seconds, at, mask, lr, weight_factor, momentum, update_weight, beta2, eps
            )


def _update_elements(kind: ElementwiseUpdate, launch: UpdateLaunch, rates: StepCoefficients) -> None:
    sizes, places = chunk_table(launch.sizes, CHUNK, launch.device)
    aligned = launch.aligned and all(size % 8 == 0 for size in launch.sizes)
    _elements[(len(places),)](
        launch.table, launch.gradients, sizes, places, len(launch.sizes), rates.lr, rates.weight_factor,
        rates.momentum, rates.update_weight, rates.beta2, rates.eps, rates.debias1, rates.debias2,
        RULE=kind.rule, MOMENTUM=DTYPES[launch.momentum_dtype], ALIGNED=aligned, CHUNK=CHUNK,
    )  # fmt: skip


# --------------------------------------------------------------------------- factored

# A tensor's memory is (A, I, B, J), row-major; each of its A · B matrices of I rows and J columns has second
# moments of its own. `place` counts the matrices of all tensors of a launch.


@triton.jit
def _squares(
    gradients_table, row_sums, column_sums, A, I, B, J,
    ALIGNED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Sums of squares in a block of TILES · ROWS rows and COLUMNS columns: of its rows, of its columns."""
    place, block, strip = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    gradients = tl.load(gradients_table + place // (A * B)).to(tl.pointer_type(tl.float32))
    if ALIGNED:
        gradients = tl.multiple_of(gradients, 16)
    start = (place % (A * B) // B * I * B + place % B) * J
    j = strip * COLUMNS + tl.arange(0, COLUMNS)
    squares = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(TILES):
        i = (block * TILES + tile) * ROWS + tl.arange(0, ROWS)
        mask = (i < I)[:, None] & (j < J)[None, :]
        g = tl.load(gradients + start + i[:, None] * (B * J) + j[None, :], mask=mask, other=0.0)
        squares += g * g
        tl.store(row_sums + (place * tl.num_programs(2) + strip) * I + i, tl.sum(g * g, axis=1), mask=i < I)
    tl.store(column_sums + (place * tl.num_programs(1) + block) * J + j, tl.sum(squares, axis=0), mask=j < J)


@triton.jit
def _renew(
    moments, step, sums, blocks, factors, size, other, beta2, eps, scale,
    NORMALISED: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """v ← β₂ v + (1 − β₂) (Σ / other + eps), and the factors scale / √v, or scale / √(v / mean v)."""
    total = 0.0
    for first in range(0, size, VECTOR):
        k = first + tl.arange(0, VECTOR)
        squares = tl.zeros((VECTOR,), tl.float32)
        for block in range(blocks):
            squares += tl.load(sums + block * size + k, mask=k < size, other=0.0)
        v = tl.load(moments + k * step, mask=k < size, other=0.0) * beta2
        v = tl.where(k < size, v + (1 - beta2) * (squares / other + eps), 0.0)
        tl.store(moments + k * step, v, mask=k < size)
        total += tl.sum(v)
    tl.debug_barrier()  # what other threads have written is read below
    if NORMALISED:
        scale = scale * tl.sqrt_rn(total / size)
    for first in range(0, size, VECTOR):
        k = first + tl.arange(0, VECTOR)
        v = tl.load(moments + k * step, mask=k < size, other=1.0)
        tl.store(factors + k, scale / tl.sqrt_rn(v), mask=k < size)


@triton.jit
def _second_moments(
    table, count, row_sums, column_sums, row_factors, column_factors, A, I, B, J, strips, blocks,
    beta2, eps, update_weight,
    ROWS_NORMALISED: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0)
    which, a, b = place // (A * B), place % (A * B) // B, place % B
    rows = tl.load(table + 2 * count + which).to(tl.pointer_type(tl.float32)) + a * I * B + b
    columns = tl.load(table + 3 * count + which).to(tl.pointer_type(tl.float32)) + (a * B + b) * J
    row_sums, row_factors = row_sums + place * strips * I, row_factors + place * I
    column_sums, column_factors = column_sums + place * blocks * J, column_factors + place * J
    _renew(rows, B, row_sums, strips, row_factors, I, J, beta2, eps, update_weight, ROWS_NORMALISED, VECTOR)
    _renew(
        columns, 1, column_sums, blocks, column_factors, J, I, beta2, eps, 1.0, 1 - ROWS_NORMALISED, VECTOR
    )


@triton.jit
def _factored(
    table, gradients_table, count, row_factors, column_factors, A, I, B, J, lr, weight_factor, momentum,
    MOMENTUM: tl.constexpr, ALIGNED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    place, which = tl.program_id(0), tl.program_id(0) // (A * B)
    weights = tl.load(table + which).to(tl.pointer_type(tl.float32))
    gradients = tl.load(gradients_table + which).to(tl.pointer_type(tl.float32))
    momenta = tl.load(table + count + which).to(tl.pointer_type(MOMENTUM))
    if ALIGNED:
        weights, gradients = tl.multiple_of(weights, 16), tl.multiple_of(gradients, 16)
        momenta = tl.multiple_of(momenta, 16)
    start = (place % (A * B) // B * I * B + place % B) * J
    i = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    row_factor = tl.load(row_factors + place * I + i, mask=i < I, other=0.0)
    for first in range(0, J, COLUMNS):
        j = first + tl.arange(0, COLUMNS)
        at, mask = start + i[:, None] * (B * J) + j[None, :], (i < I)[:, None] & (j < J)[None, :]
        column_factor = tl.load(column_factors + place * J + j, mask=j < J, other=0.0)
        update = tl.load(gradients + at, mask=mask) * row_factor[:, None] * column_factor[None, :]
        _descend(weights, momenta, at, mask, update, lr, weight_factor, momentum)


def _update_matrices(kind: FactoredUpdate, launch: UpdateLaunch, rates: StepCoefficients) -> None:
    count, size = len(launch.sizes), (kind.A, kind.I, kind.B, kind.J)
    places, blocks = count * kind.A * kind.B, triton.cdiv(kind.I, ROWS * TILES)
    strips = triton.cdiv(kind.J, COLUMNS)
    empty = partial(torch.empty, device=launch.device)
    row_sums, row_factors = empty(places, strips, kind.I), empty(places, kind.I)
    column_sums, column_factors = empty(places, blocks, kind.J), empty(places, kind.J)
    tile = {"ALIGNED": launch.aligned and kind.J % 8 == 0, "ROWS": ROWS, "COLUMNS": COLUMNS}
    _squares[(places, blocks, strips)](launch.gradients, row_sums, column_sums, *size, **tile, TILES=TILES)
    _second_moments[(places,)](
        launch.table, count, row_sums, column_sums, row_factors, column_factors, *size, strips, blocks,
        rates.beta2, rates.eps, rates.update_weight, ROWS_NORMALISED=kind.rows_first, VECTOR=VECTOR,
    )  # fmt: skip
    _factored[(places, triton.cdiv(kind.I, ROWS))](
        launch.table, launch.gradients, count, row_factors, column_factors, *size,
        rates.lr, rates.weight_factor, rates.momentum, MOMENTUM=DTYPES[launch.momentum_dtype], **tile,
    )  # fmt: skip


def run(launch: UpdateLaunch, rates: StepCoefficients) -> None:
    """One optimizer step of the parameters of `launch`."""
    if isinstance(launch.kind, ElementwiseUpdate):
        _update_elements(launch.kind, launch, rates)
    else:
        _update_matrices(launch.kind, launch, rates)
