"""Adam with a bf16 first moment and decoupled weight decay (paper §3.4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from scalevit.kernels.updates import ElementwiseUpdate, StepCoefficients, UpdateKind
from scalevit.optim.base import (
    DecoupledOptimizer,
    GradientParameter,
    flat_local,
    round_to,
    step_coefficients,
    tensor_batches,
)


class Adam(DecoupledOptimizer):
    """Adam (Kingma and Ba 2015) whose first moment is kept in bf16; the second stays in fp32, which the
    paper found it needs (§3.4). Decay is decoupled."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        momentum_dtype: torch.dtype = torch.bfloat16,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            key: value for key, value in locals().items() if key not in ("self", "params", "__class__")
        }
        super().__init__(params, defaults)

    def _moments(self, parameter: Tensor, group: dict[str, Any], index: int) -> dict[str, Tensor]:
        return {"second_moment": torch.zeros_like(parameter, dtype=torch.float32)}

    def _kind(self, group: dict[str, Any], index: int, parameter: Tensor) -> UpdateKind:
        return ElementwiseUpdate("adam", ("second_moment",))

    def _rates(self, group: dict[str, Any], step: float) -> StepCoefficients:
        debiased = [debias(group[beta], torch.tensor(step)) for beta in ("beta1", "beta2")]
        return step_coefficients(group, 1 - group["beta1"], group["beta2"], group["eps"], *debiased)

    def _apply(self, pending: list[GradientParameter]) -> None:
        alike: dict[tuple[int, float], tuple[dict[str, Any], list[list[Tensor]]]] = {}
        for group, index, parameter in pending:
            state = self._start(parameter, group, index)
            state["step"] += 1
            row = [parameter, parameter.grad, state["momentum"], state["second_moment"]]
            _, rows = alike.setdefault((id(group), state["step"].item()), (group, []))
            rows.append([flat_local(tensor) for tensor in row])  # pyright: ignore[reportArgumentType]
        for (_, step), (group, rows) in alike.items():
            self._update(group, torch.tensor(step), rows)

    def _update(self, group: dict[str, Any], step: Tensor, rows: list[list[Tensor]]) -> None:
        decay, lr, update_weight = (
            round_to(group["beta1"], group["momentum_dtype"]),
            group["lr"].item(),
            1 - group["beta1"],
        )
        # torch's fused step weights momentum and gradient with b and 1 - b. With this b their ratio is the
        # paper's, and the result is too large by a factor that the rate and the stored momentum undo, as the
        # rate undoes torch's own debiasing, which knows only b
        large = 1 / (decay + update_weight)
        b = decay * large
        debiased = (1 - b ** step.item()) / debias(group["beta1"], step)
        exact = 1 - group["beta2"] ** step.item()  # theirs is in double precision
        root = (debias(group["beta2"], step) / exact) ** 0.5
        rate = lr / large * debiased * root
        settings = {"lr": rate, "beta1": b, "beta2": group["beta2"], "eps": group["eps"] * root}
        settings["weight_decay"] = group["weight_decay"] * lr / rate if rate else 0.0
        step = step.to(rows[0][0].device)
        for batch in tensor_batches(rows):
            weights, gradients, momenta, second = batch.columns
            torch._foreach_copy_(batch.buffers, momenta)
            torch._fused_adamw_(
                weights, gradients, batch.buffers, second, [], [step] * len(weights),
                amsgrad=False, maximize=False, **settings,
            )  # fmt: skip
            batch.buffer.div_(large)
            torch._foreach_copy_(momenta, batch.buffers)


def debias(beta: float, step: Tensor) -> float:
    """1 − β^t, the share of a moment that is not its start at 0; in fp32, as the authors' (else 1e-5 off)."""
    return float(1 - torch.tensor(beta) ** step)
