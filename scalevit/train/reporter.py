"""What a run tells: rows of its records, lines of its log, the display. The first process speaks for all."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from scalevit import config
from scalevit.artifacts import records, run_folder
from scalevit.data.corrupt import ReplacedSamples
from scalevit.distributed import world as mesh
from scalevit.kernels.fp8_autotune import LayerTiming
from scalevit.train import precision, progress, trackers


@dataclass(frozen=True)
class RowFields:
    """What every row of a run says about it."""

    run: config.Run
    id: str
    parent: str | None
    parameters: int
    flops: float

    @classmethod
    def of(cls, run: config.Run) -> RowFields:
        """flops: of training on one image, that is three forward passes."""
        shape, model = run.model.resolve(), run.model
        size = (model.image, model.pool, model.classes)
        trunk = run.branch.trunk
        parent = (
            config.run_id(config.load(str(Path(trunk) / run_folder.CONFIG))) if trunk else run.start.parent
        )
        return cls(run, config.run_id(run), parent or None, shape.parameters(*size), 3 * shape.flops(*size))

    def row(self, kind: str, step: int, metric: str, value: float) -> records.Row:
        images = step * self.run.train.batch
        return {
            "run": self.id, "parent": self.parent, "kind": kind, "dataset": self.run.data.source,
            "shots": None, "seed": self.run.train.seed, "step": step, "images_seen": images,
            "train_flops": images * self.flops, "parameters": self.parameters,
            "metric": metric, "value": value,
        }  # fmt: skip


@dataclass
class Reporter:
    """One attempt's voice. display: where events and progress are shown. saved: the step of the last
    checkpoint that is in place. replaced: broken samples that were told of."""

    facts: RowFields
    out: Path
    world: mesh.World
    log: Callable[[str], None]
    display: progress.LineDisplay | progress.ProgressBar
    saved: int | None = None
    replaced: int = 0
    trackers: trackers.Trackers = field(default_factory=lambda: trackers.Trackers(progress.discard))

    @classmethod
    def begin(cls, run: config.Run, out: Path, world: mesh.World) -> Reporter:
        if not world.is_main:
            return cls(RowFields.of(run), out, world, progress.discard, progress.NoDisplay())
        return cls(RowFields.of(run), out, world, run_folder.LogFile(out), progress.LineDisplay())

    def show(self, step: int) -> None:
        """Events only up to now: from step `step` on trackers, and where stderr is a terminal a progress
        line."""
        if self.world.is_main:
            run = self.facts.run
            self.trackers = trackers.Trackers(self.say)
            self.trackers.begin(run, self.out, step)
            self.display = progress.open_display(run.name, run.schedule.steps, step)

    def say(self, text: str) -> None:
        self.log(text)
        self.display.say(text)

    def record(self, rows: Sequence[records.Row]) -> None:
        if self.world.is_main:
            records.append_records(self.out, rows)
            self.trackers.record(rows)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """One line of log and one row a value."""
        shown = {**values, "mfu": self.mfu(values)}
        self.log(f"step {step} · {progress.format_values(shown)}")
        rows = [
            self.facts.row("train", step, key, value) for key, value in shown.items() if value is not None
        ]
        self.record(rows)

    def tick(self, step: int, values: Mapping[str, float]) -> None:
        self.display.show(step, {**values, "mfu": self.mfu(values), "saved": self.saved})

    def mfu(self, values: Mapping[str, float]) -> float | None:
        """Model FLOPs over what the devices' maker promises."""
        peak = precision.peak_flops(self.facts.run.train.precision, self.world.device)
        if peak is None or not values:
            return None
        return values["images_per_second"] * self.facts.flops / (peak * self.world.size)

    def broken(self, step: int, found: Sequence[ReplacedSamples]) -> None:
        """A line and a record when more broken samples were replaced; `found` by each process."""
        times, first = sum(one.times for one in found), {line: 0 for one in found for line in one.first}
        if times > self.replaced:
            self.replaced = times
            source = self.facts.run.data.source
            self.say(f"{times} broken samples replaced; see scalevit data check {source}")
            self.record([self.facts.row("event", step, "broken_samples", times) | {"first": [*first]}])

    def chosen(self, step: int, found: Sequence[LayerTiming]) -> None:
        """How each layer of a run in fp8 computes, and how many times faster than in bf16 it is."""
        for choice in found:
            self.say(f"fp8: {choice}")
            row = self.facts.row("layer", step, choice.layer, choice.gain)
            self.record([row | {"way": choice.granularity, "milliseconds": choice.milliseconds}])

    def started(self, step: int, seconds: float) -> None:
        """The row of an attempt."""
        row = self.facts.row("start", step, "seconds", seconds)
        self.record([row | records.provenance() | self.where()])

    def stopped(self, step: int, seconds: float, why: str) -> None:
        """A line, and the row of an attempt that ended before the run did: the exit status may be lost, as
        torchrun's is."""
        self.say(f"stopped by {why} at step {step}; the same command goes on")
        self.record([self.facts.row("stop", step, "seconds", seconds) | {"why": why}])

    def ended(self, step: int, seconds: float, rows: Sequence[records.Row]) -> None:
        """The last rows of a run: `rows`, and the one about itself that says that it has ended."""
        speed = step * self.facts.run.train.batch / max(1e-9, seconds)
        about = {
            **records.provenance(), **self.where(), "name": self.facts.run.name, "seconds": round(seconds, 3),
            "images_per_second": speed, "mfu": self.mfu({"images_per_second": speed}),
            "memory": round(self.memory(), 4),
        }  # fmt: skip
        self.record([*rows, self.facts.row("run", step, "seconds", seconds) | about])

    def memory(self) -> float:
        """GiB that were held at the fullest moment: the device's, else the process's own."""
        if self.world.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.world.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes on Linux

    def where(self) -> dict[str, Any]:
        device, world = self.world.device, self.world.size
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        strategy = self.facts.run.parallel.strategy if world > 1 else "single"
        return {"device": name, "world": world, "strategy": strategy}
