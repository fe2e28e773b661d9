"""Weight averaging along a run: exponential moving average (EMA) and Polyak averaging."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from scalevit.config.run import Train
from scalevit.distributed.parallelize import reshard
from scalevit.distributed.shards import local_tensor


def start_average(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights, by name: the average before the first step."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def decay_at(train: Train, step: int) -> float:
    """Decay of the average at `step`: `train.ema`; or, for Polyak averaging (the mean of the weights from
    step `train.polyak` on), 1 - 1 / their number, and 0 before that step."""
    if not train.polyak:
        return train.ema
    return 1 - 1 / max(1, step - train.polyak + 1)


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Moving average: average ← decay · average + (1 − decay) · weights."""
    weights = [local_tensor(p.detach()) for _, p in model.named_parameters()]
    torch._foreach_lerp_([local_tensor(value) for value in average.values()], weights, 1 - decay)


@contextlib.contextmanager
def swap_in_average(model: nn.Module, average: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Context in which the model's weights are their average (None: unchanged)."""
    pairs = [
        (local_tensor(model.get_parameter(name).data), local_tensor(value))
        for name, value in (average or {}).items()
    ]
    before = [now.clone() for now, _ in pairs]
    for now, mean in pairs:
        now.copy_(mean)
    try:
        yield
    finally:
        for (now, _), old in zip(pairs, before):
            now.copy_(old)
        reshard(model)
