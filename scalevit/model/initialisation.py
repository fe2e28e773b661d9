"""Initialisation of parameters: distributions of first values, and the sine-cosine position embedding."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scalevit.model.reference_layout import ReferenceLayout

Init = Callable[[Tensor, torch.Generator], object]


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter of a layer: the layout of the reference's tensors in it, and the distribution of its
    first value."""

    layout: ReferenceLayout
    init: Init


def zeros(value: Tensor, generator: torch.Generator) -> None:
    """Initialisation to 0."""
    value.zero_()


def constant(number: float) -> Init:
    """Initialisation to one number."""
    return lambda value, generator: value.fill_(number)


def normal(std: float) -> Init:
    """Normal distribution of mean 0."""
    return lambda value, generator: value.normal_(std=std, generator=generator)


def xavier(inputs: int, outputs: int) -> Init:
    """Glorot (Xavier) initialisation: uniform with variance 2 / (inputs + outputs) (Glorot and Bengio
    2010)."""
    limit = math.sqrt(6 / (inputs + outputs))
    return lambda value, generator: value.uniform_(-limit, limit, generator=generator)


def lecun(inputs: int) -> Init:
    """LeCun initialisation: normal with variance 1 / inputs, truncated at two standard deviations; dividing
    by 0.8796 restores the variance that truncation removes (as in jax.nn.initializers)."""
    std = 1 / math.sqrt(inputs) / 0.87962566103423978
    return lambda value, generator: nn.init.trunc_normal_(
        value, std=std, a=-2 * std, b=2 * std, generator=generator
    )


def sincos2d(rows: int, columns: int, width: int, temperature: float = 10_000.0) -> Float[Tensor, "1 n d"]:
    """Sine-cosine position embedding of a rows × columns grid: sine and cosine of x, then of y (Chen et al.
    2021, MoCo v3)."""
    omega = temperature ** -(torch.arange(width // 4, dtype=torch.float64) / max(1, width // 4 - 1))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    x, y = x.reshape(-1, 1) * omega, y.reshape(-1, 1) * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).float()[None]


def generator_for(seed: int, name: str) -> torch.Generator:
    """The random stream of one parameter, decided by the run's seed and the parameter's name."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
