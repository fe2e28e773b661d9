"""The kernels of updates.py on a CPU."""

from __future__ import annotations

from dataclasses import astuple

import torch

from scalevit.kernels.cpu import build
from scalevit.kernels.updates import Elements, Launch, Matrices, Rates, chunks

#: Elements of one tensor that one thread updates at a time.
CHUNK = 1 << 14
#: How the source calls the rules.
RULES = ("sgd", "adam", "adafactor")


def run(launch: Launch, rates: Rates) -> None:
    """Update what `launch` holds."""
    numbers = torch.tensor(astuple(rates), dtype=torch.float64)
    match launch.kind:
        case Elements() as kind:
            sizes, places = chunks(launch.sizes, CHUNK, launch.device)
            build.call(
                "update_elements", RULES.index(kind.rule), launch.table, launch.gradients, len(sizes), sizes,
                places, len(places), CHUNK, launch.kept, numbers,
            )  # fmt: skip
        case Matrices(a, i, b, j, rows_first):
            row_sums, column_sums = torch.empty(a, i, b), torch.empty(a, build.blocks(i), b, j)
            build.call(
                "update_matrices", launch.table, launch.gradients, len(launch.sizes), a, i, b, j,
                int(rows_first), row_sums, column_sums, torch.empty_like(row_sums), torch.empty(a, b, j),
                launch.kept, numbers,
            )  # fmt: skip
