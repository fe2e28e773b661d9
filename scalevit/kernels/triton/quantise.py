"""Quantisation to fp8 in Triton: a matrix as it lies and transposed, read a single time.

Tensor cores want the shared dimension of both factors contiguous, so what takes part in the forward pass and
in the gradient of the weights is needed both ways. The reference is
`scalevit.kernels.fp8_linear.cast_scaled`."""

# Triton turns what is annotated with tl.constexpr into one
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Rows and columns that one program works on, and its warps.
TILE, WARPS = (128, 128), 8


@triton.jit
def _quantise(
    x, row_scales, column_scales, along, across, rows, columns,
    PER_ROW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    r, c = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    # 64 bits for where a tile begins, 32 within it
    first_column = tl.program_id(0).to(tl.int64) * COLUMNS
    first_row = tl.program_id(1).to(tl.int64) * ROWS
    in_rows, in_columns = r < rows - first_row, c < columns - first_column
    inside = in_rows[:, None] & in_columns[None, :]
    begin, place = first_row * columns + first_column, r[:, None] * columns + c[None, :]
    tile = tl.load(x + begin + place, mask=inside, other=0.0).to(tl.float32)
    if PER_ROW:
        by_row = tile * (1.0 / tl.load(row_scales + first_row + r, mask=in_rows, other=1.0))[:, None]
        scales = tl.load(column_scales + first_column + c, mask=in_columns, other=1.0)
        by_column = tile * (1.0 / scales)[None, :]
    else:
        by_row = tile * (1.0 / tl.load(row_scales))
        by_column = by_row
    tl.store(along + begin + place, by_row.to(along.dtype.element_ty), mask=inside)
    turned = tl.trans(by_column.to(across.dtype.element_ty))
    back = first_column * rows + first_row
    mask = in_columns[:, None] & in_rows[None, :]
    tl.store(across + back + c[:, None] * rows + r[None, :], turned, mask=mask)


def quantise_kernel(
    x: Tensor, row_scales: Tensor, column_scales: Tensor, dtype: torch.dtype,
    tile: tuple[int, int] = TILE, warps: int = WARPS,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Quantised matrix, (rows, columns) and (columns, rows) in `dtype`, of a contiguous one in fp32 or bf16.

    Units are one number for all, or one for each row and one for each column."""
    rows, columns = x.shape
    sizes = (row_scales.numel(), column_scales.numel())
    if not x.is_contiguous() or 0 in x.shape or sizes not in ((1, 1), (rows, columns)):
        raise ValueError(f"cannot quantise {tuple(x.shape)} with {sizes[0]} and {sizes[1]} scales")
    along = torch.empty((rows, columns), dtype=dtype, device=x.device)
    across = torch.empty((columns, rows), dtype=dtype, device=x.device)
    grid = (triton.cdiv(columns, tile[1]), triton.cdiv(rows, tile[0]))
    _quantise[grid](
        x, row_scales, column_scales, along, across, rows, columns,
        PER_ROW=row_scales.numel() > 1, ROWS=tile[0], COLUMNS=tile[1], num_warps=warps,  # pyright: ignore
    )  # fmt: skip
    return along, across
