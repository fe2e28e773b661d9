"""Stochastic gradient descent with momentum in bf16 and decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from scalevit.kernels.updates import ElementwiseUpdate, StepCoefficients, UpdateKind
from scalevit.optim.base import (
    DecoupledOptimizer,
    GradientParameter,
    apply_updates,
    flat_local,
    step_coefficients,
    tensor_batches,
    update_momenta,
)


class SGD(DecoupledOptimizer):
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

    def _kind(self, group: dict[str, Any], index: int, parameter: Tensor) -> UpdateKind:
        return ElementwiseUpdate("sgd", ())

    def _rates(self, group: dict[str, Any], step: float) -> StepCoefficients:
        return step_coefficients(group, 1.0)

    def _apply(self, pending: list[GradientParameter]) -> None:
        alike: dict[int, tuple[dict[str, Any], list[list[Tensor]]]] = {}
        for group, index, parameter in pending:
            state = self._start(parameter, group, index)
            state["step"] += 1
            row = [flat_local(parameter), flat_local(parameter.grad), flat_local(state["momentum"])]  # pyright: ignore
            alike.setdefault(id(group), (group, []))[1].append(row)
        for group, rows in alike.values():
            for batch in tensor_batches(rows):
                weights, gradients, momenta = batch.columns
                torch._foreach_copy_(batch.buffers, gradients)
                update_momenta(momenta, batch.buffers, group)
                apply_updates(weights, batch.buffers, group)
