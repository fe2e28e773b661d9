"""Optimizer steps in C: calls of updates.c."""

from __future__ import annotations

from dataclasses import astuple

import torch

from scalevit.kernels.cpu import dispatch
from scalevit.kernels.updates import (
    ElementwiseUpdate,
    FactoredUpdate,
    StepCoefficients,
    UpdateLaunch,
    chunk_table,
)

#: Elements of one tensor that one thread updates at a time.
CHUNK = 1 << 14
#: Update rules, as numbered in updates.c.
RULES = ("sgd", "adam", "adafactor")


def run(launch: UpdateLaunch, rates: StepCoefficients) -> None:
    """One optimizer step of the parameters of `launch`."""
    numbers = torch.tensor(astuple(rates), dtype=torch.float64)
    match launch.kind:
        case ElementwiseUpdate() as kind:
            sizes, places = chunk_table(launch.sizes, CHUNK, launch.device)
            dispatch.call(
                "update_elements", RULES.index(kind.rule), launch.table, launch.gradients, len(sizes), sizes,
                places, len(places), CHUNK, launch.momentum_dtype, numbers,
            )  # fmt: skip
        case FactoredUpdate(a, i, b, j, rows_first):
            row_sums, column_sums = torch.empty(a, i, b), torch.empty(a, dispatch.row_blocks(i), b, j)
            dispatch.call(
                "update_matrices", launch.table, launch.gradients, len(launch.sizes), a, i, b, j,
                int(rows_first), row_sums, column_sums, torch.empty_like(row_sums), torch.empty(a, b, j),
                launch.momentum_dtype, numbers,
            )  # fmt: skip
