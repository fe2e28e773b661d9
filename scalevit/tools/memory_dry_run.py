"""Memory dry run: one training step of a run on many devices, simulated on this machine with the true model,
sharded as the run says, fake tensors (a shape, no memory) and a fake process group.

Gathering, casting, recomputing, accumulating and updating are those of a run. Only DDP's reducer is left out:
its buckets are the gradients themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from scalevit import optim
from scalevit.config.memory import GIB
from scalevit.config.run import Guard, Run
from scalevit.distributed import parallelize
from scalevit.distributed import world as mesh
from scalevit.distributed.shards import is_sharded
from scalevit.kernels import fake_device
from scalevit.model.vit import ViT
from scalevit.optim.weight_averaging import start_average
from scalevit.tools.memory_tracker import MemoryTracker
from scalevit.train.loop import State, take_step
from scalevit.train.state import build_recipe


@dataclass(frozen=True)
class StepMemory:
    """Memory of a step in GiB on the first of `devices` devices, with `micro_batch` images at once. peak: the
    most that was live; kinds: its parts. sent: GiB a step that this device gives to collectives, by
    purpose."""

    devices: int
    micro_batch: int
    peak: float
    kinds: dict[str, float]
    sent: dict[str, float]


def dry_run_step(run: Run, devices: int, micro_batch: int) -> StepMemory:
    """Memory of a step of `run` on the first of `devices` devices."""
    with fake_device.fake_accelerator(), _fake_process_group(run, devices) as world:
        model = ViT(run.model, device="meta")
        if run.parallel.recompute != "none":
            parallelize.checkpoint_activations(model.blocks, run.parallel.recompute)
        forward = parallelize.parallelize(model, run.parallel, world) if _is_sharded(run, devices) else model
        with _fake_tensors():
            _materialise(model, world.device)
            average = start_average(model) if run.train.averages else None
            state = State(model, optim.build(run.optimizer, model), average, world, forward)
            tracker = _run_step(state, run, max(1, run.train.batch // devices), micro_batch)
    kinds, sent = ({k: v / GIB for k, v in of.items() if v} for of in (tracker.at_peak, tracker.sent))
    return StepMemory(devices, micro_batch, tracker.peak / GIB, kinds, sent)


def largest_micro_batch(
    run: Run, devices: int, room: float, near: int
) -> tuple[StepMemory, StepMemory | None]:
    """The step with the largest micro-batch that stays within `room` GiB, and the next larger one that does
    not; None when that is all of a device's share. Begins looking at a micro-batch of `near` images; when
    none fits, the first one is of one image."""
    share = max(1, run.train.batch // devices)
    parts = [size for size in range(1, share + 1) if share % size == 0]
    place = max(i for i, size in enumerate(parts) if size <= max(1, near))
    here, above = dry_run_step(run, devices, parts[place]), None
    while here.peak > room and place > 0:
        place, above = place - 1, here
        here = dry_run_step(run, devices, parts[place])
    while above is None and here.peak <= room and place + 1 < len(parts):
        place += 1
        other = dry_run_step(run, devices, parts[place])
        here, above = (other, None) if other.peak <= room else (here, other)
    return here, above


def _run_step(state: State, run: Run, share: int, micro_batch: int) -> MemoryTracker:
    """The memory tracker after one step on `share` images."""
    tracker = MemoryTracker(sharded=_is_sharded(run, state.world.size))
    tracker.track("weights", [*state.model.parameters(), *state.model.buffers()])
    tracker.track("averages", (state.average or {}).values())
    _make_moments(state, tracker)
    if state.world.size > 1 and run.parallel.strategy == "ddp":
        _make_buckets(state, tracker)
    inputs = torch.empty(share, run.model.image, run.model.image, 3, dtype=torch.uint8)
    labels = torch.empty(share, dtype=torch.long)
    tracker.track("inputs", [inputs, labels])
    batch = list(zip(inputs.split(micro_batch), labels.split(micro_batch)))
    with tracker:
        _step(state, run, batch[:1] + batch[-1:] if len(batch) > 1 else batch)
    if len(batch) > 1:  # all but the last one are alike
        tracker.sent["gather weights"] = tracker.sent["gather weights"] * len(batch) // 2
    return tracker


# --------------------------------------------------------------------------- the stage


@contextlib.contextmanager
def _fake_process_group(run: Run, devices: int) -> Iterator[mesh.World]:
    """Context: the first process of a fake process group of `devices`."""
    cpu = torch.device("cpu")
    if devices == 1:
        yield mesh.World(0, 1, cpu)
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=devices, store=FakeStore())
    try:
        yield mesh.World(0, devices, cpu, mesh.init_mesh(run.parallel, devices, cpu))
    finally:
        torch.distributed.destroy_process_group()


def _fake_tensors() -> contextlib.AbstractContextManager[Any]:
    """Context in which new tensors have a shape, a dtype, a device, and no memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


def _is_sharded(run: Run, devices: int) -> bool:
    return devices > 1 and run.parallel.strategy != "ddp"


def _materialise(model: ViT, device: torch.device) -> None:
    """Give parameters and buffers fake memory."""
    if any(is_sharded(p) for p in model.parameters()):
        model.to_empty(device=device)
        return
    for module in model.modules():  # to_empty cannot exchange plain tensors for fake ones
        for name, parameter in module._parameters.items():
            assert parameter is not None
            module._parameters[name] = nn.Parameter(torch.empty(parameter.shape, device=device))
        for name, buffer in module._buffers.items():
            assert buffer is not None
            module._buffers[name] = torch.empty(buffer.shape, device=device)


# --------------------------------------------------------------------------- the step


def _step(state: State, run: Run, batch: list[tuple[Tensor, Tensor]]) -> None:
    """One step of the training loop; the guard, which would read values, is off."""
    take_step(state, batch, replace(build_recipe(run), guard=Guard(on=False)))


def _make_moments(state: State, tracker: MemoryTracker) -> None:
    """Create the optimizer's state, which it makes in its first step, and track it."""
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    state.optimizer.zero_grad()
    kept = (value for one in state.optimizer.state.values() for value in one.values())
    tracker.track("optimizer", (value for value in kept if isinstance(value, Tensor)))


def _make_buckets(state: State, tracker: MemoryTracker) -> None:
    """Track DDP's gradient buckets, which exist all the time and are averaged once a step."""
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    tracker.track("gradients", gradients)
    tracker.sent["average gradients"] += sum(gradient.nbytes for gradient in gradients)
