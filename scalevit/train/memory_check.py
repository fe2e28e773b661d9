"""Memory check before training: how many images at once fit into the memory that is free."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from scalevit import config
from scalevit.config.host_memory import available_memory
from scalevit.config.memory import micro_batch_that_fits, step_memory
from scalevit.distributed.world import World


@dataclass(frozen=True)
class MemoryCheck:
    """needed, free: GiB on each device. micro_batch: images at once, 0 when not even one fits; chosen:
    whether less than a device's whole share was chosen because that does not fit."""

    needed: float
    free: float
    micro_batch: int
    chosen: bool

    def __str__(self) -> str:
        return f"{self.micro_batch} images at once: {self.needed:.2f} GiB of {self.free:.2f} GiB free"


def free_memory(world: World) -> float:
    """GiB that this process can still take on its device; processes on one host share main memory."""
    if world.device.type == "cuda":
        return torch.cuda.mem_get_info(world.device)[0] / 2**30
    here = os.environ.get("LOCAL_WORLD_SIZE") or "1"
    return available_memory() / (int(here) if here.isdigit() and int(here) else 1)


def check_memory(run: config.Run, world: World) -> MemoryCheck:
    """Choose `train.micro_batch=0` so that a step fits, and check one that is set.

    A device's whole share is taken where it fits, so that runs which fit keep their bits. Raises ValueError,
    with the nearest that fits, for what does not."""
    free, share = free_memory(world), max(1, run.train.batch // world.size)
    fits = micro_batch_that_fits(run, world.size, free)
    size = min(run.train.micro_batch, share) or fits
    needed = step_memory(run, run.model.resolve(), size or 1, world.size).total
    if not fits or (run.train.micro_batch and needed > free):
        none = "not even one image at a time fits; try parallel.recompute=full or a smaller model"
        nearest = f"train.micro_batch={fits} fits" if fits else none
        raise ValueError(
            f"a step with {size or 1} images at once needs {needed:.2f} GiB and {free:.2f} GiB are free on "
            f"{world.device.type}; {nearest}"
        )
    return MemoryCheck(needed, free, size, chosen=not run.train.micro_batch and size < share)
