"""Endless labelled images from an index: class i mod C, instance i div C, rendered a batch at a time.

Every random number is a hash of (seed, family, class, instance, draw), so an image does not depend on the
batch it is in, nor on the order, nor on the machine's number of workers. Another seed gives other classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from scalevit.data.procedural import atoms, fractals, hashing, strokes


@dataclass(frozen=True)
class ProceduralFamily:
    """render: (class draws, instance draws, side) to ink. draws: how many uniform numbers each takes."""

    render: Callable[[Tensor, Tensor, int], Tensor]
    class_draws: int
    instance_draws: int


FAMILIES = {
    "strokes": ProceduralFamily(strokes.strokes, strokes.CLASS_DRAWS, strokes.INSTANCE_DRAWS),
    "atoms": ProceduralFamily(atoms.atoms, atoms.CLASS_DRAWS, atoms.INSTANCE_DRAWS),
    "fractals": ProceduralFamily(fractals.fractals, fractals.CLASS_DRAWS, fractals.INSTANCE_DRAWS),
}
#: Colours of paper and ink, and the grain of the paper.
COLOUR_DRAWS = 7
GRAIN = 0.08


@dataclass(frozen=True)
class Procedural:
    """A family with `classes` classes at `side` pixels.

    palette: 0 gives light ink on black paper with a little grain, as data sets of handwriting have it, 1 any
    ink on any paper. Colours are drawn for each instance, never for a class: they do not leak the label."""

    family: str
    classes: int
    side: int
    seed: int
    palette: float = 0.0

    def labels(self, indices: np.ndarray) -> Tensor:
        """int64 (n,)."""
        return torch.from_numpy(np.asarray(indices, np.int64) % self.classes)

    def images(self, indices: np.ndarray) -> UInt8[Tensor, "n side side 3"]:
        """Pixels of any indices, in any order."""
        which = np.asarray(indices, np.int64)
        family = FAMILIES[self.family]
        number = list(FAMILIES).index(self.family)
        classes = hashing.key(self.seed, number, which % self.classes)
        instances = hashing.key(self.seed, number, which % self.classes, which // self.classes)
        drawn = draws(instances, family.instance_draws + COLOUR_DRAWS)
        own, colours = drawn.split([family.instance_draws, COLOUR_DRAWS], dim=1)
        ink = family.render(draws(classes, family.class_draws), own, self.side)
        return _coloured(ink, colours, instances, self.palette)


def draws(keys: np.ndarray, count: int) -> Float[Tensor, "n {count}"]:
    """`count` uniform numbers in [0, 1) for each key, all independent."""
    return torch.from_numpy(hashing.uniforms(keys, count))


def _coloured(ink: Tensor, colours: Tensor, keys: np.ndarray, palette: float) -> UInt8[Tensor, "n y x 3"]:
    """Ink on paper: white on black, moved towards colours of the instance's own; then the paper's grain."""
    paper = palette * colours[:, :3]
    pen = 1 - palette * colours[:, 3:6]
    grain = (draws(hashing.key(keys, 1), ink[0].numel()) - 0.5).view_as(ink)
    tone = (ink + GRAIN * colours[:, 6, None, None] * grain).clamp_(0, 1)
    pixels = paper[:, None, None] + tone[..., None] * (pen - paper)[:, None, None]
    return (pixels * 255).round_().to(torch.uint8)
