"""Benchmark of one optimizer step over all parameters of a ViT, as a ratio to copying them.

Candidates alternate, so that a busy machine slows all of them; the best round of each counts. The copy of all
gradients onto as many numbers is the floor: an optimizer that did nothing else would need as long.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scalevit import config, optim
from scalevit.config.run import Model
from scalevit.model.formats.torchvision_shim import import_despite_torchvision
from scalevit.model.vit import ViT
from scalevit.tools.bench.interleaved import (
    bench_device,
    busy_note,
    device_name,
    rounds_spread,
    time_interleaved,
)  # fmt: skip

LEARNING_RATE = 1e-6


def measure(shape: str, rounds: int, threads: int) -> dict[str, Any]:
    """Milliseconds, ratio to the copy and bytes of state a parameter, of every optimizer installed."""
    if min(rounds, threads) < 1:
        raise ValueError("--rounds and --threads must be at least 1")
    torch.set_num_threads(threads)
    device = bench_device()
    model = ViT(Model(shape=shape, pool="gap"), device=device)
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * 1e-3
    made, missing = _candidates(model)
    steps = {"copy": _copy(parameters), **{name: one.step for name, one in made.items()}}
    spent = time_interleaved(steps, rounds, threads, device)
    best = {name: min(seconds) for name, seconds in spent.items()}
    total = sum(p.numel() for p in parameters)
    rows = [
        {
            "optimizer": name,
            "milliseconds": 1e3 * seconds,
            "ratio": seconds / best["copy"],
            "state_bytes": _state_bytes(made[name]) / total if name in made else 0.0,
        }
        for name, seconds in best.items()
    ]
    about = {
        "shape": shape,
        "parameters": total,
        "threads": threads,
        "rounds": rounds,
        "device": device_name(device),
        "rounds_spread": rounds_spread(spent),
    }
    return {**about, "torch": torch.__version__, "rows": rows, "missing": missing}


def table(found: dict[str, Any]) -> str:
    lines = [
        f"one step over {found['parameters'] / 1e6:.1f} M parameters ({found['shape']}), {found['device']}, "
        f"{found['threads']} thread(s), best of {found['rounds']}",
        f"{'':<26}{'ms':>8}{'× copy':>9}{'state, bytes a parameter':>27}",
    ]
    return "\n".join(
        lines
        + [
            f"{row['optimizer']:<26}{row['milliseconds']:>8.1f}{row['ratio']:>9.2f}{row['state_bytes']:>27.2f}"
            for row in found["rows"]
        ]
        + busy_note(found["rounds_spread"])
    )


def _candidates(model: ViT) -> tuple[dict[str, torch.optim.Optimizer], dict[str, str]]:
    made: dict[str, torch.optim.Optimizer] = {}
    for name in ("adafactor", "adam", "sgd"):
        made[f"scalevit {name}"] = optim.build(config.Optimizer(name=name), model)
        for group in made[f"scalevit {name}"].param_groups:
            group["lr"].fill_(LEARNING_RATE)
    parameters = list(model.parameters())
    adamw = partial(torch.optim.AdamW, parameters, lr=LEARNING_RATE, weight_decay=0.03)
    made |= {"torch AdamW foreach": adamw(foreach=True), "torch AdamW fused": adamw(fused=True)}
    missing = {}
    try:
        made["timm AdafactorBigVision"] = _timm()(parameters, lr=LEARNING_RATE, weight_decay=0.03)
    except (ImportError, RuntimeError) as error:
        missing["timm AdafactorBigVision"] = str(error).splitlines()[0]
    return made, missing


def _timm() -> Any:
    """timm's port of the same optimizer, with the reference's settings."""
    port = import_despite_torchvision("timm.optim.adafactor_bv").AdafactorBigVision
    return partial(port, min_dim_size_to_factor=32, momentum_dtype=torch.bfloat16)


def _copy(parameters: list[torch.nn.Parameter]) -> Callable[[], None]:
    pairs: list[tuple[Tensor, Tensor]] = [
        (torch.empty_like(p, requires_grad=False), p.grad) for p in parameters if p.grad is not None
    ]

    def copy() -> None:
        for target, source in pairs:
            target.copy_(source)

    return copy


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    held = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.nbytes for value in held if isinstance(value, Tensor))
