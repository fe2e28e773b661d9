"""Atoms, after VisualAtom (Takashima et al., CVPR 2023): nested closed curves around a nucleus.

The radius of an orbit is a circle's plus two sinusoidal waves. A class is the geometry: two frequencies, two
amplitudes, orbits, start radius and ovalness; an instance turns, shifts and scales it and moves its waves.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from scalevit.data.procedural.strokes import dotted

ORBITS = 3
DOTS = 112
FREQUENCIES = 20
CLASS_DRAWS = 7
INSTANCE_DRAWS = 9


def atoms(
    classes: Float[Tensor, "n j"], instances: Float[Tensor, "n k"], side: int
) -> Float[Tensor, "n {side} {side}"]:
    """Ink from 0 to 1 on pages of `side` pixels, from uniform draws of the class and of the instance."""
    outline = _outline(classes, instances)
    orbits = 1 + (classes[:, 4:5] * ORBITS).floor()
    number = torch.arange(ORBITS, device=classes.device)
    scale = 1 - number / (ORBITS + 0.5) * (0.5 + 0.5 * classes[:, 5:6])
    dots = outline[:, None] * scale[:, :, None, None]
    present = (number < orbits).float()
    radius = 0.012 + 0.012 * instances[:, 7]
    return (
        dotted(_placed(dots, instances), present, radius, side) * (0.6 + 0.4 * instances[:, 8])[:, None, None]
    )


def _outline(classes: Tensor, instances: Tensor) -> Float[Tensor, "n t 2"]:
    """One closed curve around the origin, of mean radius 1; the last dot falls on the first."""
    angle = torch.linspace(0, 2 * math.pi, DOTS, device=classes.device)
    first, second = (1 + (classes[:, i : i + 1] * FREQUENCIES).floor() for i in (0, 1))
    phase = 2 * math.pi * instances[:, 5:7]
    radius = (
        1
        + 0.3 * classes[:, 2:3] * torch.sin(first * angle + phase[:, :1])
        + 0.3 * classes[:, 3:4] * torch.sin(second * angle + phase[:, 1:])
    )
    oval = 0.5 + 0.5 * classes[:, 6:7]
    return torch.stack([radius * angle.cos(), oval * radius * angle.sin()], dim=-1)


def _placed(dots: Tensor, instances: Tensor) -> Float[Tensor, "n c t 2"]:
    angle = 2 * math.pi * instances[:, 0]
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos, sin, -sin, cos], dim=1).view(-1, 1, 2, 2)
    size = (0.2 + 0.12 * instances[:, 1])[:, None, None, None]
    shift = 0.2 * (instances[:, 2:4] - 0.5)
    return 0.5 + shift[:, None, None, :] + size * (dots @ turn)
