"""Strokes: a class is a few chained cubic curves, as in a written character; an instance writes it anew.

Ink along a curve is a sum of Gaussian dots, and a Gaussian dot is a product of its profile in x and in y: a
whole batch of figures is one batched matrix product, with no loop over images and no distance to search.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

CURVES = 3
#: Dots on each curve, and random numbers that a class and an instance use.
DOTS = 28
#: Ink in the middle of a line before it is cut at 1: above 1 a line has a full core, below it stays soft.
FULLNESS = 1.6
#: Share of joints where the pen is set down anew, and where a curve goes on without a corner.
LIFTED, SMOOTH = 0.25, 0.4
#: The middle two control points leave the unit square by this times their distance from its centre, so that
#: curves bulge and close to loops instead of crumpling.
BULGE = 1.6
CLASS_DRAWS = 1 + CURVES * 8 + CURVES
INSTANCE_DRAWS = CURVES * 8 + 9


def strokes(
    classes: Float[Tensor, "n j"], instances: Float[Tensor, "n k"], side: int
) -> Float[Tensor, "n {side} {side}"]:
    """Ink from 0 to 1 on pages of `side` pixels, from uniform draws of the class and of the instance."""
    points, present = _curves(classes, instances)
    dots = _placed(_bernstein(points.device) @ points, present, instances)
    pen = instances[:, CURVES * 8 + 6 :]
    ink = dotted(dots, present, 0.028 + 0.037 * pen[:, 0], side, 0.9 + 1.1 * pen[:, 2])
    return ink * (0.6 + 0.4 * pen[:, 1])[:, None, None]


def _curves(classes: Tensor, instances: Tensor) -> tuple[Float[Tensor, "n c 4 2"], Float[Tensor, "n c"]]:
    """Control points of each curve, and which curves the class has. A curve starts where the last one ended,
    with a corner or smoothly, or where the pen is set down anew."""
    n = len(classes)
    count = 1 + (classes[:, :1] * CURVES).floor()
    present = (torch.arange(CURVES, device=classes.device) < count).float()
    own = classes[:, 1 : 1 + CURVES * 8].view(n, CURVES, 4, 2)
    own = torch.cat([own[:, :, :1], 0.5 + BULGE * (own[:, :, 1:3] - 0.5), own[:, :, 3:]], dim=2)
    bent = own + 0.16 * (instances[:, : CURVES * 8].view(n, CURVES, 4, 2) - 0.5)
    joint = classes[:, 1 + CURVES * 8 :, None]
    lifted, smooth = joint < LIFTED, joint > 1 - SMOOTH
    points = [bent[:, 0]]
    for c in range(1, CURVES):
        before, end = points[-1][:, 2], points[-1][:, 3]
        start = torch.where(lifted[:, c], bent[:, c, 0], end)
        second = torch.where(smooth[:, c], 2 * end - before, bent[:, c, 1])
        points.append(torch.cat([start[:, None], second[:, None], bent[:, c, 2:]], dim=1))
    return torch.stack(points, dim=1), present


def _bernstein(device: torch.device) -> Float[Tensor, "t 4"]:
    t = torch.linspace(0, 1, DOTS, device=device)[:, None]
    return torch.cat([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], dim=1)


def _placed(dots: Tensor, present: Tensor, instances: Tensor) -> Float[Tensor, "n c t 2"]:
    """The figure turned, sheared and stretched, then fitted to the page with a margin of its own."""
    u = instances[:, CURVES * 8 :]
    angle, shear, aspect = 0.5 * (u[:, 0] - 0.5), 0.7 * (u[:, 1] - 0.5), torch.exp(0.7 * (u[:, 2] - 0.5))
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos * aspect, shear * cos - sin, sin * aspect, shear * sin + cos], dim=1).view(
        -1, 1, 2, 2
    )
    dots = dots @ turn.transpose(-1, -2)
    missing = present[:, :, None, None] == 0
    low = dots.masked_fill(missing, math.inf).amin(dim=(1, 2), keepdim=True)
    high = dots.masked_fill(missing, -math.inf).amax(dim=(1, 2), keepdim=True)
    extent = (high - low).amax(dim=-1, keepdim=True).clamp_min(1e-3)
    size = (0.74 + 0.24 * u[:, 3])[:, None, None, None]
    slack = (1 - size) * 0.5 * (u[:, 4:6][:, None, None, :] - 0.5)
    return 0.5 + slack + (dots - (low + high) / 2) * size / extent


def dotted(
    dots: Float[Tensor, "n c t 2"],
    present: Float[Tensor, "n c"],
    radius: Float[Tensor, " n"],
    side: int,
    fullness: Float[Tensor, " n"] | float = FULLNESS,
) -> Float[Tensor, "n y x"]:
    """Ink of curves given as dots on a page of side 1. Each dot weighs the length it stands for, so that ink
    is even however fast the curve moves; `radius` is the pen's; `fullness` is the
    ink in the middle of a line before it is cut at 1."""
    steps = (dots[:, :, 1:] - dots[:, :, :-1]).norm(dim=-1)
    length = (pad(steps, (0, 1)) + pad(steps, (1, 0))) / 2
    scale = fullness / (radius * math.sqrt(2 * math.pi))
    weight = (length * present[:, :, None]).flatten(1) * scale[:, None]
    place = (torch.arange(side, device=dots.device) + 0.5) / side
    unit = 1 / (math.sqrt(2) * radius[:, None, None])
    across, down = (_profile(dots[..., axis].flatten(1)[:, :, None], place, unit) for axis in (0, 1))
    return ((down * weight[:, :, None]).transpose(1, 2) @ across).clamp_(max=1.0)


def _profile(centre: Tensor, place: Tensor, unit: Tensor) -> Float[Tensor, "n t side"]:
    """A Gaussian's values at `place`; cut at e^-20, below which products of two become denormal and slow."""
    away = (place * unit - centre * unit).square_().clamp_(max=20.0)
    return away.neg_().exp_()
