"""Reporting of a run: rows of its records, lines of its log, trackers, the display. Only rank 0 reports."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from scalevit import config
from scalevit.artifacts import records, run_folder
from scalevit.artifacts.printable import printable
from scalevit.artifacts.redact import redact
from scalevit.config.progress import LineDisplay, NoDisplay, open_display
from scalevit.data.corrupt import ReplacedSamples
from scalevit.data.registry import SourceInfo
from scalevit.distributed import world as mesh
from scalevit.kernels.fp8_autotune import LayerTiming
from scalevit.train import precision, progress, trackers
from scalevit.train.memory_check import MemoryCheck


@dataclass(frozen=True)
class RowFields:
    """The columns that are the same in every record of a run."""

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
        parent = run.branch.parent or run.start.parent
        if trunk and not parent:
            parent = config.run_id(config.load(str(Path(trunk) / run_folder.CONFIG)))
        return cls(run, config.run_id(run), parent or None, shape.parameters(*size), 3 * shape.flops(*size))

    def row(self, kind: str, step: int, metric: str, value: float) -> records.Row:
        images = step * self.run.train.batch
        return {
            "run": self.id, "parent": self.parent, "kind": kind, "dataset": self.run.data.source,
            "shots": None, "seed": self.run.train.seed, "step": step, "images_seen": images,
            "train_flops": images * self.flops, "parameters": self.parameters,
            "metric": metric, "value": value,
        }  # fmt: skip


def _discard(text: str) -> None:
    """The log of all processes but the first."""


@dataclass
class Reporter:
    """Log, records, trackers and display of one attempt at a run. saved: the step of the last checkpoint that
    is complete. replaced: corrupt samples reported so far. step, seconds: where the run is."""

    row_fields: RowFields
    out: Path
    world: mesh.World
    log: Callable[[str], None]
    display: NoDisplay
    source: SourceInfo
    saved: int | None = None
    replaced: int = 0
    step: int = 0
    seconds: float = 0.0
    trackers: trackers.Trackers = field(default_factory=lambda: trackers.Trackers(_discard))

    @classmethod
    def begin(cls, run: config.Run, out: Path, world: mesh.World, source: SourceInfo) -> Reporter:
        if not world.is_main:
            return cls(RowFields.of(run), out, world, _discard, NoDisplay(), source)
        return cls(RowFields.of(run), out, world, run_folder.LogFile(out), LineDisplay(), source)

    def open_displays(self, step: int) -> None:
        """Open trackers and the progress display at step `step`; before that, only events are shown."""
        if self.world.is_main:
            run = self.row_fields.run
            self.trackers = trackers.Trackers(self.log_event)
            self.trackers.begin(run, self.out, step)
            self.display = open_display()

    def log_event(self, text: str) -> None:
        """A line of the log and of the display."""
        text = printable(redact(text))
        self.log(text)
        self.display.event(text)

    def record(self, rows: Sequence[records.Row]) -> None:
        if self.world.is_main:
            records.append_records(self.out, rows)
            self.trackers.record(rows)

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        """One line of the log and one record for each value."""
        shown = {**values, "mfu": self.mfu(values)}
        self.log(f"step {step} · {progress.format_values(shown)}")
        rows = [
            self.row_fields.row("train", step, key, value)
            for key, value in shown.items()
            if value is not None
        ]
        self.record(rows)

    def update_display(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Note how far the run is, and show it."""
        self.step, self.seconds = step, seconds
        run, shown = self.row_fields.run, {**values, "mfu": self.mfu(values), "saved": self.saved}
        self.display.update(run.name, step, run.schedule.steps, progress.format_values(shown))

    def mfu(self, values: Mapping[str, float]) -> float | None:
        """Model FLOPs utilisation: the model's FLOP/s over the peak of the devices."""
        peak = precision.peak_flops(self.row_fields.run.train.precision, self.world.device)
        if peak is None or not values:
            return None
        return values["images_per_second"] * self.row_fields.flops / (peak * self.world.size)

    def log_corrupt_samples(self, step: int, found: Sequence[ReplacedSamples]) -> None:
        """A line and a record when more corrupt samples were replaced; `found`: those of each process."""
        times, first = sum(one.times for one in found), {line: 0 for one in found for line in one.first}
        if times > self.replaced:
            self.replaced = times
            source = self.row_fields.run.data.source
            self.log_event(f"{times} broken samples replaced; see scalevit data check {source}")
            self.record([self.row_fields.row("event", step, "broken_samples", times) | {"first": [*first]}])

    def log_fp8_layers(self, step: int, timings: Sequence[LayerTiming]) -> None:
        """How each layer of a run in fp8 computes, and how many times faster than in bf16 it is."""
        for choice in timings:
            self.log_event(f"fp8: {choice}")
            row = self.row_fields.row("layer", step, choice.layer, choice.gain)
            self.record([row | {"way": choice.granularity, "milliseconds": choice.milliseconds}])

    def log_memory(self, step: int, memory: MemoryCheck) -> None:
        """A line and a record where the micro-batch was chosen to fit into memory."""
        if memory.chosen:
            self.log_event(f"train.micro_batch=0: {memory}")
            row = self.row_fields.row("event", step, "micro_batch", memory.micro_batch)
            self.record([row | {"needed": memory.needed, "free": memory.free}])

    def record_start(self, step: int, seconds: float) -> None:
        """The record of an attempt, with its provenance."""
        row = self.row_fields.row("start", step, "seconds", seconds)
        self.record([row | records.provenance() | self.hardware() | self.images()])

    def record_stop(self, step: int, seconds: float, why: str) -> None:
        """A line and the record of an attempt that ended before the run did; the exit status may be lost, as
        torchrun's is."""
        self.log_event(f"stopped by {why} at step {step}; the same command goes on")
        self.record([self.row_fields.row("stop", step, "seconds", seconds) | {"why": why}])

    def record_failure(self, why: str) -> None:
        """A line and the record of a run that would fail again; written by whichever process meets it."""
        self.display.event(f"failed at step {self.step}: {why}")
        self.log(f"failed at step {self.step}: {why}")
        row = self.row_fields.row("stop", self.step, "seconds", self.seconds)
        with contextlib.suppress(OSError):
            records.append_records(self.out, [row | {"why": why, "failed": True}])

    def record_end(
        self, step: int, seconds: float, rows: Sequence[records.Row], evaluation_seconds: float
    ) -> None:
        """The last records of a run: `rows`, and the one of kind "run" that marks it as complete."""
        speed = step * self.row_fields.run.train.batch / max(1e-9, seconds)
        about = {
            **records.provenance(), **self.hardware(), "name": self.row_fields.run.name,
            "seconds": round(seconds, 3),
            "evaluation_seconds": round(evaluation_seconds, 3),
            "images_per_second": speed, "mfu": self.mfu({"images_per_second": speed}),
            "memory": round(self.memory(), 4), **self.images(),
        }  # fmt: skip
        self.record([*rows, self.row_fields.row("run", step, "seconds", seconds) | about])

    def memory(self) -> float:
        """Peak memory in GiB: of the device, on a CPU of the process."""
        if self.world.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.world.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes on Linux

    def images(self) -> dict[str, Any]:
        """Number of samples of the source, and of different images that the run sees; 0: without end."""
        data, samples = self.row_fields.run.data, self.source.samples
        return {
            "samples": samples, "distinct_images": min(data.images or samples, samples or data.images),
            "content": data.content, "accepted": list(data.accepted),
        }  # fmt: skip

    def hardware(self) -> dict[str, Any]:
        """Device, number of processes and parallel strategy."""
        device, world = self.world.device, self.world.size
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        strategy = self.row_fields.run.parallel.strategy if world > 1 else "single"
        return {"device": name, "world": world, "strategy": strategy}
