"""Fused optimizer steps over many tensors at once, by Triton or C kernels; every number is read and written
once.

A launch finds its tensors through a table of addresses, so that a model of hundreds of parameters takes a
handful of calls. Sums are taken in a fixed order: the same step twice gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from scalevit.distributed.shards import local_tensor
from scalevit.kernels.cpu import dispatch
from scalevit.kernels.triton.launch import use_triton


def can_update(parameter: Tensor) -> bool:
    """Whether a kernel updates this parameter: it is fp32, on a device with kernels."""
    shard = local_tensor(parameter.detach())
    if shard.dtype != torch.float32:
        return False
    return use_triton(shard) or (not is_fake(shard) and dispatch.is_available(shard.device))


@dataclass(frozen=True)
class StepCoefficients:
    """Coefficients of one step. weight_factor: 1 − lr λ; momentum: factor of the old momentum; update_weight:
    weight of the update in it; beta2: β₂ of this step; eps: of the rule; debias1, debias2: 1 − β^t."""

    lr: float
    weight_factor: float
    momentum: float
    update_weight: float
    beta2: float = 0.0
    eps: float = 0.0
    debias1: float = 1.0
    debias2: float = 1.0


@dataclass(frozen=True)
class ElementwiseUpdate:
    """Elementwise update by "adam", "adafactor" (unfactored) or "sgd". state_names: the state tensors of the
    parameter's size, beside the momentum."""

    rule: str
    state_names: tuple[str, ...]


@dataclass(frozen=True)
class FactoredUpdate:
    """Factored Adafactor update of unsharded tensors whose memory is (A, I, B, J). rows_first: whether the
    second moments by row, not those by column, are the "rows" that the rule divides by their mean."""

    A: int
    I: int
    B: int
    J: int
    rows_first: bool

    @property
    def state_names(self) -> tuple[str, ...]:
        """State tensors: second moments by row, (A, I, B), and by column, (A, B, J)."""
        return ("rows", "columns") if self.rows_first else ("columns", "rows")


UpdateKind = ElementwiseUpdate | FactoredUpdate


class UpdateLaunch:
    """Parameters that one kernel updates together. table: addresses of weights, momenta and further state,
    one column after the other; gradients: addresses of gradients, which may change between steps."""

    def __init__(self, kind: UpdateKind, parameters: list[Tensor], states: list[dict[str, Any]]) -> None:
        self.kind, self.parameters, self.states = kind, parameters, states
        self.tensors = [[state[name] for name in ("momentum", *kind.state_names)] for state in states]
        weights = [local_tensor(parameter.detach()) for parameter in parameters]
        columns = [weights, *([local_tensor(tensor) for tensor in column] for column in zip(*self.tensors))]
        assert all(tensor.is_contiguous() for column in columns for tensor in column)
        _check_sizes(kind, columns)
        self.sizes = tuple(tensor.numel() for tensor in weights)
        self.device, self.momentum_dtype = weights[0].device, columns[1][0].dtype
        self._addresses = _addresses(tensor for column in columns for tensor in column)
        self._gradient_addresses = list[int]()
        self.table = self.gradients = _table(self._addresses, self.device)
        self._triton = use_triton(weights[0])

    def matches(self, states: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether these are still the states of its parameters, at the same addresses."""
        if _addresses(map(local_tensor, self.parameters)) != self._addresses[: len(self.parameters)]:
            return False
        current = (
            [states[p].get(name) for name in ("momentum", *self.kind.state_names)] for p in self.parameters
        )
        return all(a is b for mine, theirs in zip(self.tensors, current) for a, b in zip(mine, theirs))

    @property
    def aligned(self) -> bool:
        """Whether every tensor begins at a multiple of 16 bytes."""
        return all(address % 16 == 0 for address in (*self._addresses, *self._gradient_addresses))

    def run(self, rates: StepCoefficients) -> None:
        """One step: update weights and states by the parameters' gradients."""
        gradients = [local_tensor(p.grad).contiguous() for p in self.parameters if p.grad is not None]
        gradient_addresses = _addresses(gradients)
        if gradient_addresses != self._gradient_addresses:
            _check_gradients(gradients, self.sizes)
            self._gradient_addresses, self.gradients = (
                gradient_addresses,
                _table(gradient_addresses, self.device),
            )
        if self._triton:
            from scalevit.kernels.triton import updates as kernels
        else:
            from scalevit.kernels.cpu import updates as kernels
        kernels.run(self, rates)


def _check_sizes(kind: UpdateKind, columns: list[list[Tensor]]) -> None:
    """Raise ValueError where a state tensor, which may have been loaded, has not the size that is read."""
    for weight, momentum, *moments in zip(*columns, strict=True):
        sizes = [weight.numel()] * len(moments)
        if isinstance(kind, FactoredUpdate):
            by_row, by_column = kind.A * kind.I * kind.B, kind.A * kind.B * kind.J
            sizes = [by_row, by_column]
            assert weight.numel() == by_row * kind.J
        for tensor, size in zip((momentum, *moments), (weight.numel(), *sizes), strict=True):
            if tensor.numel() != size or tensor.device != weight.device:
                raise ValueError(
                    f"the optimizer's state holds {tensor.numel()} numbers on {tensor.device} where its "
                    f"parameter needs {size} on {weight.device}"
                )
        if momentum.dtype != columns[1][0].dtype or any(moment.dtype != torch.float32 for moment in moments):
            raise ValueError("the optimizer's state is not in the dtypes that it was made with")


def _check_gradients(gradients: list[Tensor], sizes: tuple[int, ...]) -> None:
    """Raise ValueError where gradients are not as large as their parameters, in fp32."""
    found = tuple(gradient.numel() for gradient in gradients)
    if found != sizes or any(gradient.dtype != torch.float32 for gradient in gradients):
        raise ValueError("gradients have another size or dtype than their parameters")


@lru_cache(maxsize=64)
def chunk_table(sizes: tuple[int, ...], chunk: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Table of chunks: lengths of the tensors, and of every chunk its tensor and its first element."""
    pairs = [(which, first) for which, size in enumerate(sizes) for first in range(0, size, chunk)]
    return torch.tensor(sizes, device=device), torch.tensor(pairs, device=device)


def _addresses(tensors: Iterable[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _table(addresses: list[int], device: torch.device) -> Tensor:
    table = torch.tensor(addresses)
    return table if device.type == "cpu" else table.pin_memory().to(device, non_blocking=True)
