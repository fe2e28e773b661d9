"""Bottleneck analysis of a run on this machine: times of computing, the optimizer and reading images, and the
speedup of each setting that could change, measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from scalevit.config.run import Guard, Run
from scalevit.distributed import world
from scalevit.kernels import fp8_linear
from scalevit.kernels.fp8_autotune import LayerTiming, autotune
from scalevit.tools.doctor import median_seconds, synchronize
from scalevit.train.loop import MicroBatch, State, accumulate_gradients
from scalevit.train.precision import compile_blocks, eager, precision_errors
from scalevit.train.run import open_batches
from scalevit.train.state import build_recipe, build_state

#: Least speedup of a change that is reported.
MIN_GAIN = 1.1
#: Compiling is tried, which takes up to a minute, where a run lasts longer than so many seconds.
LONG_RUN_SECONDS = 1800.0


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one step: forward and backward passes of all micro-batches; the optimizer update; reading
    the images on one core. threads: of the passes. workers: threads that read ahead. cores: for both."""

    passes: float
    update: float
    reading: float
    threads: int
    workers: int
    cores: int
    on_cpu: bool

    @property
    def computing(self) -> float:
        return self.passes + self.update

    @property
    def step(self) -> float:
        """Seconds from one step to the next, with reading and computing beside each other where they can be.
        On a CPU both want its cores."""
        if not self.workers:
            return self.computing + self.reading
        readers = min(self.workers, self.cores)
        shared = (self.computing * self.threads + self.reading) / self.cores if self.on_cpu else 0.0
        return max(self.computing, self.reading / readers, shared)

    @property
    def limit(self) -> str:
        """The part that takes most of a step's time."""
        reading = self.reading / max(1, min(self.workers, self.cores))
        shares = {"computing": self.passes, "the optimizer": self.update, "reading images": reading}
        return max(shares, key=shares.__getitem__)


@dataclass(frozen=True)
class SettingChange:
    """A setting to change, and the expected speedup."""

    setting: str
    gain: float


def examine_run(run: Run) -> dict[str, Any]:
    """Bottleneck of `run` on this process's device: parts of a step, the limit, and changes, best first."""
    bench = _Bench(run)
    parts = bench.parts()
    tried = [*_workers(parts), *bench.tried(parts)]
    changes = sorted((one for one in tried if one.gain >= MIN_GAIN), key=lambda one: -one.gain)
    return {
        **asdict(parts), "step_seconds": parts.step, "images_per_second": run.train.batch / parts.step,
        "limited_by": parts.limit, "changes": [asdict(one) for one in changes],
    }  # fmt: skip


def verdict(run: Run, found: dict[str, Any]) -> str:
    """One sentence on what limits `run` here and what would help."""
    said = (
        f"{run.name}: limited by {found['limited_by']}; a step of {found['step_seconds']:.3f} s takes "
        f"{found['passes']:.3f} s of passes, {found['update']:.3f} s of the optimizer and "
        f"{found['reading']:.3f} s of reading on one core: {found['images_per_second']:.0f} images/s"
    )
    changes = [f"{one['setting']} should give {one['gain']:.2f} ×" for one in found["changes"]]
    return "; ".join([said, *(changes or ["none of the changes that were tried helps"])])


def fp8_layers(run: Run) -> list[LayerTiming]:
    """fp8 timings of the linear layers of the run's blocks; empty without fp8 hardware, and for a run in
    fp32."""
    if run.train.precision == "fp32" or precision_errors("fp8"):
        return []
    return autotune(run, 1, torch.device("cuda"))


def _workers(parts: StepTimes) -> Iterator[SettingChange]:
    """Change of data.workers to the fewest threads that read as fast as any number would."""
    ways = {count: replace(parts, workers=count).step for count in range(1, parts.cores + 1)}
    fewest = min(ways, key=lambda count: (round(ways[count] / parts.step, 2), count))
    yield SettingChange(f"data.workers={fewest}", parts.step / ways[fewest])


class _Bench:
    """A run's state of step 0 and one of its micro-batches."""

    def __init__(self, run: Run) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.run, size = run, run.train.micro_batch or run.train.batch
        self.batches = open_batches(replace(run, train=replace(run.train, batch=size)))
        self.state: State = build_state(run, replace(world.SINGLE_PROCESS, device=device))
        if run.train.precision == "fp8":
            fp8_linear.set_granularities(
                self.blocks, {choice.layer: choice.granularity for choice in fp8_layers(run)}
            )
        found = self.batches[0]
        self.micro: MicroBatch = (found.images.to(device), found.labels.to(device))
        self.count = run.train.batch // size

    @property
    def blocks(self) -> list[nn.Module]:
        return [*self.state.model.get_submodule("blocks").children()]

    def parts(self) -> StepTimes:
        numbers = iter(range(1, 10**9))
        passes, update = self.passes(self.run.train.precision), self.update()
        reading = median_seconds(lambda: self.batches[next(numbers)])
        return StepTimes(
            self.count * passes, update, self.count * reading, torch.get_num_threads(),
            self.run.data.workers, os.cpu_count() or 1, self.state.device.type == "cpu",
        )  # fmt: skip

    def passes(self, precision: str) -> float:
        """Seconds of one micro-batch, forward and backward."""
        run = self.run
        recipe = build_recipe(
            replace(run, train=replace(run.train, precision=precision), guard=Guard(on=False))
        )

        def work() -> None:
            for parameter in self.state.model.parameters():
                parameter.grad = None
            accumulate_gradients(self.state, [self.micro], recipe)
            synchronize(self.state.device)

        return median_seconds(work)

    def update(self) -> float:
        """Seconds of the optimizer, on the gradients that the passes have left, at learning rate 0."""

        def work() -> None:
            self.state.optimizer.step()
            synchronize(self.state.device)

        return median_seconds(work)

    def tried(self, parts: StepTimes) -> Iterator[SettingChange]:
        """Time each change by itself; compiling comes last, since it cannot be undone."""

        def gain(passes: Callable[[], float], **changed: Any) -> float:
            return parts.step / replace(parts, passes=self.count * passes(), **changed).step

        precision, train = self.run.train.precision, self.run.train
        if not train.compile:
            other = "fp32" if precision == "bf16" else "bf16"
            yield SettingChange(f"train.precision={other}", gain(lambda: self.passes(other)))
        if parts.on_cpu and parts.threads < parts.cores:
            torch.set_num_threads(parts.cores)
            found = gain(lambda: self.passes(precision), threads=parts.cores)
            torch.set_num_threads(parts.threads)
            yield SettingChange(f"OMP_NUM_THREADS={parts.cores}", found)
        if train.compile and parts.on_cpu:
            with eager(True):
                yield SettingChange("train.compile=false", gain(lambda: self.passes(precision)))
        if not train.compile and parts.step * self.run.schedule.steps > LONG_RUN_SECONDS:
            compile_blocks(self.blocks)
            yield SettingChange("train.compile=true", gain(lambda: self.passes(precision)))
