"""Shapes that a budget may choose from: the named ones, and others by SoViT's exponents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scalevit.config.model_sizes import LETTERS, Shape, shape
from scalevit.study.planning.plan import names_of

#: SoViT's exponents of the optimal width, depth and MLP in compute (arXiv 2305.13035, §3), and its anchor.
SOVIT = {"width": 0.22, "depth": 0.45, "mlp": 0.6}
ANCHOR = "So400m/14"
#: Training compute in units of the anchor's: with less, fewer than six blocks would be left.
SMALLEST_LARGEST = 0.035, 30.0


def candidates() -> Iterator[tuple[str, Shape]]:
    """Named letters with the patch sizes in use, and shapes between them by SoViT's exponents."""
    for letter in LETTERS:
        for patch in (14, 16, 28, 32):
            if letter != "mu":
                yield f"{letter}/{patch}", shape(f"{letter}/{patch}")
    anchor = shape(ANCHOR)
    between = (
        sovit(anchor, compute, patch) for compute in np.geomspace(*SMALLEST_LARGEST, 16) for patch in (14, 16)
    )
    for candidate in dict.fromkeys(between):
        yield names_of(candidate), candidate


def sovit(anchor: Shape, compute: float, patch: int) -> Shape:
    """The anchor moved to `compute` times its training compute, rounded to heads of 64 and MLPs of 64."""
    width = max(128, 64 * round(anchor.width * compute ** SOVIT["width"] / 64))
    depth = max(2, round(anchor.depth * compute ** SOVIT["depth"]))
    mlp = max(128, 64 * round(anchor.mlp * compute ** SOVIT["mlp"] / 64))
    return Shape(width, depth, mlp, heads=width // 64, patch=patch)
