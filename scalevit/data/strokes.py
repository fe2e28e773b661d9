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
#: A line is full where it would reach this times its own darkest value.
FULLNESS = 1.6
CLASS_DRAWS = 1 + CURVES * 8 + CURVES
INSTANCE_DRAWS = CURVES * 8 + 8


def strokes(
    classes: Float[Tensor, "n j"], instances: Float[Tensor, "n k"], side: int
) -> Float[Tensor, "n {side} {side}"]:
    """Ink from 0 to 1 on pages of `side` pixels, from uniform draws of the class and of the instance."""
    points, present = _curves(classes, instances)
    dots = _placed(_bernstein(points.device) @ points, present, instances)
    pen = instances[:, CURVES * 8 + 6 :]
    ink = dotted(dots, present, 0.022 + 0.035 * pen[:, 0], side)
    return ink * (0.6 + 0.4 * pen[:, 1])[:, None, None]


def _curves(classes: Tensor, instances: Tensor) -> tuple[Float[Tensor, "n c 4 2"], Float[Tensor, "n c"]]:
    """Control points of each curve, and which curves the class has. A curve starts where the last one ended,
    or, one time in three, where the pen is set down anew."""
    n = len(classes)
    count = 1 + (classes[:, :1] * CURVES).floor()
    present = (torch.arange(CURVES, device=classes.device) < count).float()
    own = classes[:, 1 : 1 + CURVES * 8].view(n, CURVES, 4, 2)
    bent = own + 0.16 * (instances[:, : CURVES * 8].view(n, CURVES, 4, 2) - 0.5)
    lifted = classes[:, 1 + CURVES * 8 :] < 0.33
    points = [bent[:, 0]]
    for c in range(1, CURVES):
        start = torch.where(lifted[:, c, None], bent[:, c, 0], points[-1][:, 3])
        points.append(torch.cat([start[:, None], bent[:, c, 1:]], dim=1))
    return torch.stack(points, dim=1), present


def _bernstein(device: torch.device) -> Float[Tensor, "t 4"]:
    t = torch.linspace(0, 1, DOTS, device=device)[:, None]
    return torch.cat([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], dim=1)


def _placed(dots: Tensor, present: Tensor, instances: Tensor) -> Float[Tensor, "n c t 2"]:
    """The figure turned, sheared and stretched, then fitted to the page with a margin of its own."""
    u = instances[:, CURVES * 8 :]
    angle, shear, aspect = 0.5 * (u[:, 0] - 0.5), 0.7 * (u[:, 1] - 0.5), torch.exp(0.7 * (u[:, 2] - 0.5))
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos * aspect, shear * cos - sin, sin * aspect, shear * sin + cos], dim=1).view(-1, 1, 2, 2)
    dots = dots @ turn.transpose(-1, -2)
    missing = present[:, :, None, None] == 0
    low = dots.masked_fill(missing, math.inf).amin(dim=(1, 2), keepdim=True)
    high = dots.masked_fill(missing, -math.inf).amax(dim=(1, 2), keepdim=True)
    extent = (high - low).amax(dim=-1, keepdim=True).clamp_min(1e-3)
    size = (0.62 + 0.26 * u[:, 3])[:, None, None, None]
    slack = (1 - size) * 0.5 * (u[:, 4:6][:, None, None, :] - 0.5)
    return 0.5 + slack + (dots - (low + high) / 2) * size / extent


def dotted(
    dots: Float[Tensor, "n c t 2"], present: Float[Tensor, "n c"], radius: Float[Tensor, " n"], side: int
) -> Float[Tensor, "n y x"]:
    """Ink of curves given as dots on a page of side 1. Each dot weighs the length it stands for, so that ink
    is even however fast the curve moves; `radius` is the pen's."""
    steps = (dots[:, :, 1:] - dots[:, :, :-1]).norm(dim=-1)
    length = (pad(steps, (0, 1)) + pad(steps, (1, 0))) / 2
    weight = (length * present[:, :, None]).flatten(1) / (radius[:, None] * math.sqrt(2 * math.pi))
    place = (torch.arange(side, device=dots.device) + 0.5) / side
    unit = 1 / (math.sqrt(2) * radius[:, None, None])
    across, down = (_profile(dots[..., axis].flatten(1)[:, :, None], place, unit) for axis in (0, 1))
    return ((down * weight[:, :, None]).transpose(1, 2) @ across * FULLNESS).clamp_(max=1.0)


def _profile(centre: Tensor, place: Tensor, unit: Tensor) -> Float[Tensor, "n t side"]:
    """A Gaussian's values at `place`; cut at e^-20, below which products of two become denormal and slow."""
    away = (place * unit - centre * unit).square_().clamp_(max=20.0)
    return away.neg_().exp_()
