"""Fractals of iterated function systems: a class is four affine maps of the plane, an instance perturbs them.

Every word of `LEVELS` maps sends the origin to one point of the attractor, so the points need no random walk.
Singular values are drawn so that their sum σ1 + 2σ2 over n maps lies in [(5 + n) / 2, (6 + n) / 2], where
attractors are neither dust nor blobs (Anderson and Farrell, WACV 2022).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

MAPS = 4
LEVELS = 6
CLASS_DRAWS = MAPS * 6 + 1
INSTANCE_DRAWS = MAPS * 2 + 6


def fractals(
    classes: Float[Tensor, "n j"], instances: Float[Tensor, "n k"], side: int
) -> Float[Tensor, "n {side} {side}"]:
    """Ink from 0 to 1 on pages of `side` pixels, from uniform draws of the class and of the instance."""
    matrix, shift = _maps(classes, instances)
    (a, b), (c, d) = ((matrix[:, :, row, column, None] for column in (0, 1)) for row in (0, 1))
    e, f = shift[..., 0, None], shift[..., 1, None]
    x = y = torch.zeros(len(classes), 1, device=classes.device)
    for _ in range(LEVELS):
        x, y = x[:, None], y[:, None]
        x, y = (
            torch.addcmul(e, a, x).addcmul_(b, y).flatten(1),
            torch.addcmul(f, c, x).addcmul_(d, y).flatten(1),
        )
    return _counted(*_placed(x, y, instances), side)


def _maps(classes: Tensor, instances: Tensor) -> tuple[Float[Tensor, "n m 2 2"], Float[Tensor, "n m 2"]]:
    n = len(classes)
    u = classes[:, : MAPS * 6].view(n, MAPS, 6)
    large = 0.3 + 0.7 * u[..., 0]
    small = large * u[..., 1]
    budget = (5 + MAPS) / 2 + 0.5 * classes[:, -1:]
    scale = budget / (large + 2 * small).sum(dim=1, keepdim=True)
    large, small = (large * scale).clamp(max=0.92), (small * scale).clamp(max=0.9)
    left, right = _rotation(2 * math.pi * u[..., 2]), _rotation(2 * math.pi * u[..., 3])
    matrix = left @ torch.diag_embed(torch.stack([large, small], dim=-1)) @ right
    moved = 0.25 * (instances[:, : MAPS * 2].view(n, MAPS, 2) - 0.5)
    return matrix, 2 * u[..., 4:6] - 1 + moved


def _rotation(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))


def _placed(x: Tensor, y: Tensor, instances: Tensor) -> tuple[Float[Tensor, "n t"], Float[Tensor, "n t"]]:
    """Centred on the mean, scaled so that two deviations fill the page, turned and shifted a little."""
    u = instances[:, MAPS * 2 :]
    x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=1, keepdim=True)
    spread = ((x.square().mean(1) + y.square().mean(1)) / 2).sqrt()
    size, angle = (0.16 + 0.08 * u[:, 1]) / spread.clamp_min(1e-6), 0.6 * (u[:, 0] - 0.5)
    cos, sin = (size * angle.cos())[:, None], (size * angle.sin())[:, None]
    left, top = (0.5 + 0.15 * (u[:, i, None] - 0.5) for i in (2, 3))
    return torch.addcmul(left, cos, x).addcmul_(sin, y), torch.addcmul(top, cos, y).addcmul_(sin, x, value=-1)


def _counted(x: Tensor, y: Tensor, side: int) -> Float[Tensor, "n y x"]:
    """Log of how many points fall on each pixel, relative to the fullest; points off the page go to a cell
    of their own, which is dropped."""
    n, cells = len(x), side * side + 1
    column, row = (x * side).floor().int(), (y * side).floor().int()
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    index = torch.where(inside, row * side + column, side * side)
    index += cells * torch.arange(n, device=x.device, dtype=torch.int32)[:, None]
    counts = torch.bincount(index.flatten(), minlength=n * cells).view(n, cells)[:, :-1].float()
    ink = counts.log1p() / counts.amax(dim=1, keepdim=True).log1p().clamp_min(1e-6)
    return ink.view(n, side, side)
