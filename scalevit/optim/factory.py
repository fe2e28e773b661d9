"""Build a run's optimizer: the update rule by name over the paper's parameter groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from scalevit import config
from scalevit.optim.adafactor import Adafactor
from scalevit.optim.adam import Adam
from scalevit.optim.param_groups import parameter_groups
from scalevit.optim.sgd import SGD


def build(optimizer: config.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a run, at learning rate 0: fill each group's `lr` with lr_at(…) × its `lr_scale`."""
    return OPTIMIZERS[optimizer.name](parameter_groups(model, optimizer), optimizer)


#: Dtypes of `optimizer.momentum`.
MOMENTUM_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


#: Constructors by name; the learning rate is 0 until the training loop sets it.
OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], config.Optimizer], torch.optim.Optimizer]] = {
    "adafactor": lambda groups, o: Adafactor(
        groups, 0.0, beta1=o.beta1, beta2_cap=o.beta2, momentum_dtype=MOMENTUM_DTYPES[o.momentum]
    ),
    "adam": lambda groups, o: Adam(
        groups, 0.0, beta1=o.beta1, beta2=o.beta2, momentum_dtype=MOMENTUM_DTYPES[o.momentum]
    ),
    "sgd": lambda groups, o: SGD(groups, 0.0, beta1=o.beta1, momentum_dtype=MOMENTUM_DTYPES[o.momentum]),
}
