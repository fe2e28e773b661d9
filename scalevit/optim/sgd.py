"""Stochastic gradient descent with momentum in bf16 and decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from scalevit.kernels.updates import Elements, Kind, Rates
from scalevit.optim.base import Decoupled, Due, batches, descend_all, flat, follow_all, rates


class SGD(Decoupled):
    """Stochastic gradient descent, m ← g + β m, θ ← θ − lr · (m + λ θ), with m kept in bf16."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        beta1: float = 0.9,
        momentum_dtype: torch.dtype = torch.bfloat16,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            key: value for key, value in locals().items() if key not in ("self", "params", "__class__")
        }
        super().__init__(params, defaults)

    def _kind(self, group: dict[str, Any], index: int, parameter: Tensor) -> Kind:
        return Elements("sgd", ())

    def _rates(self, group: dict[str, Any], step: float) -> Rates:
        return rates(group, 1.0)

    def _apply(self, due: list[Due]) -> None:
        alike: dict[int, tuple[dict[str, Any], list[list[Tensor]]]] = {}
        for group, index, parameter in due:
            state = self._start(parameter, group, index)
            state["step"] += 1
            row = [flat(parameter), flat(parameter.grad), flat(state["momentum"])]  # pyright: ignore
            alike.setdefault(id(group), (group, []))[1].append(row)
        for group, rows in alike.values():
            for batch in batches(rows):
                weights, gradients, momenta = batch.columns
                torch._foreach_copy_(batch.rooms, gradients)
                follow_all(momenta, batch.rooms, group)
                descend_all(weights, batch.rooms, group)
