"""Benchmark of the memory model: what `scalevit plan` predicts beside the memory of real training steps.

On an accelerator the allocator's own count of the most that was in use; on a CPU every tensor is followed
from the operation that makes it (`tracker`), with the choices that a run takes on an accelerator.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import Any, Literal

import torch

from scalevit.config.lr_schedule import Schedule
from scalevit.config.memory import GIB, step_memory
from scalevit.config.run import Guard, Model, Optimizer, Parallel, Run, Train
from scalevit.distributed import world
from scalevit.kernels import fake_device
from scalevit.tools.memory_tracker import MemoryTracker
from scalevit.train.loop import MicroBatch, State, take_step
from scalevit.train.state import build_recipe, build_state

MIB = 2**20
#: Shapes of other proportions of width, depth, tokens and classes, small enough for a CPU; images at once.
SHAPES: dict[str, tuple[Model, int]] = {
    "S/32, 5000 classes, MAP": (Model(shape="S/32", depth=6, classes=5000, image=128), 24),
    "Ti/16, 1000 classes, GAP": (
        Model(shape="Ti/16", depth=8, pool="gap", positions="sincos2d", image=128), 16,
    ),
    "192×4/8, 100 classes, token": (
        Model(shape="Ti/8", depth=4, mlp=1024, heads=4, classes=100, pool="token", image=64), 24,
    ),
}  # fmt: skip
Name = Literal["adafactor", "adam"]
Precision = Literal["bf16", "fp32"]
Level = Literal["none", "selective", "full"]
LEVELS: tuple[Level, ...] = ("none", "selective", "full")
WAYS: tuple[tuple[Name, Precision], ...] = (
    ("adafactor", "bf16"), ("adafactor", "fp32"), ("adam", "bf16"), ("adam", "fp32"),
)  # fmt: skip


def measure(micro_batches: int) -> dict[str, Any]:
    """MiB planned and measured for every shape, optimizer, precision and way to recompute; `micro_batches`
    parts of a step's batch."""
    if micro_batches < 1:
        raise ValueError("--micro-batches must be at least 1")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [row(*case, micro_batches, device) for case in cases()]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu, tensors counted"
    worst = max(abs(one["difference"]) for one in rows)
    return {"device": name, "torch": torch.__version__, "rows": rows, "worst": worst, "missing": {}}


def cases() -> Iterable[tuple[str, Name, Precision, Level]]:
    return ((s, o, p, r) for s, (o, p), r in product(SHAPES, WAYS, LEVELS))


def row(
    shape: str,
    optimizer: Name,
    precision: Precision,
    recompute: Level,
    micro_batches: int,
    device: torch.device,
) -> dict[str, Any]:
    """One comparison."""
    model, images = SHAPES[shape]
    run = Run(
        model=model, optimizer=Optimizer(name=optimizer),
        schedule=Schedule(steps=100, warmup=10, cooldown=10),
        train=Train(batch=images * micro_batches, micro_batch=images, precision=precision),
        parallel=Parallel(recompute=recompute), guard=Guard(on=False),
    )  # fmt: skip
    planned = step_memory(run, model.resolve(), images, 1)
    found = peak(run, device)
    return {
        "shape": shape, "optimizer": optimizer, "precision": precision, "recompute": recompute,
        "planned": planned.total * GIB / MIB, "measured": found / MIB,
        "difference": planned.total * GIB / found - 1, "moment": planned.moment,
    }  # fmt: skip


def peak(run: Run, device: torch.device) -> int:
    """Bytes in use at the fullest moment of a training step, after one that built the optimizer's state."""
    with fake_device.fake_accelerator():
        state = build_state(run, replace(world.SINGLE_PROCESS, device=device))
        take_step(state, _batch(run, device)[:1], build_recipe(run))
        return _allocated(state, run) if device.type == "cuda" else _counted(state, run)


def _allocated(state: State, run: Run) -> int:
    torch.cuda.reset_peak_memory_stats(state.device)
    take_step(state, _batch(run, state.device), build_recipe(run))
    return torch.cuda.max_memory_allocated(state.device)


def _counted(state: State, run: Run) -> int:
    batch, tracker = _batch(run, state.device), MemoryTracker()
    tracker.track("inputs", [tensor for micro in batch for tensor in micro])
    tracker.track("weights", [*state.model.parameters(), *state.model.buffers()])
    tracker.track("averages", (state.average or {}).values())
    kept = (value for one in state.optimizer.state.values() for value in one.values())
    tracker.track("optimizer", (value for value in kept if isinstance(value, torch.Tensor)))
    with tracker:
        take_step(state, batch, build_recipe(run))
    return tracker.peak


def _batch(run: Run, device: torch.device) -> list[MicroBatch]:
    side, count = run.model.image, run.train.batch
    images = torch.zeros(count, side, side, 3, dtype=torch.uint8, device=device)
    labels = torch.zeros(count, dtype=torch.long, device=device)
    return list(zip(images.split(run.train.micro_batch), labels.split(run.train.micro_batch)))


def table(found: dict[str, Any]) -> str:
    """A line a comparison."""
    lines = [
        f"most memory in use during a training step, MiB; {found['device']}",
        f"{'':<30}{'optimizer':<11}{'computes':<10}{'recompute':<11}{'planned':>9}{'measured':>10}",
    ]
    lines += [
        f"{one['shape']:<30}{one['optimizer']:<11}{one['precision']:<10}{one['recompute']:<11}"
        f"{one['planned']:>9.1f}{one['measured']:>10.1f}  {one['difference']:+.1%}"
        for one in found["rows"]
    ]
    return "\n".join([*lines, f"largest difference {found['worst']:.1%}"])
