"""Training speed as `scalevit bench model --json` found it on one's own machine, for plans to rest on."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalevit.config.devices import Device, device_from_driver
from scalevit.config.model_sizes import Shape, shape
from scalevit.config.run import Run

#: What a row must say; more is allowed.
WORDS, NUMBERS = ("model", "precision", "work", "candidate"), ("image", "images_per_second")
OURS, COMPILED = "scalevit", "scalevit compiled"


@dataclass(frozen=True)
class Throughput:
    """One training step that was timed: trunk FLOPs of an image forward, and images/s."""

    name: str
    shape: Shape
    image: int
    precision: str
    compiled: bool
    flops: float
    images_per_second: float


@dataclass(frozen=True)
class MeasuredSpeeds:
    """The rates of a file, and the device that they were found on. ceiling: its matrix products' FLOP/s."""

    path: Path
    device: str
    ceiling: float
    rates: tuple[Throughput, ...]

    def hardware(self) -> Device:
        """The device of the table that the file names; else this machine, whose peak is the ceiling found."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        return device_from_driver(self.device) or Device(
            self.device, self.ceiling / 1e12, memory, math.nan, self.device, fp32=self.ceiling / 1e12
        )

    def images_per_second(self, run: Run, resolved: Shape) -> tuple[float, str]:
        """Of one device, and where the figure comes from: a row of this very model, or FLOP/s between the
        rows of the nearest sizes."""
        known, said = self._fitting(run)
        image = run.model.image
        for rate in known:
            if (rate.shape, rate.image) == (resolved, image):
                return rate.images_per_second, f"scalevit bench, {self.path.name}{said}"
        own = resolved.flops(image)
        known = sorted(known, key=lambda rate: rate.flops)
        sizes = np.log([rate.flops for rate in known])
        speeds = np.log([rate.flops * rate.images_per_second for rate in known])
        nearest = known[int(np.argmin(np.abs(sizes - np.log(own))))].name
        source = f"FLOP/s of {nearest} in scalevit bench, {self.path.name}{said}"
        return float(np.exp(np.interp(np.log(own), sizes, speeds)) / own), source

    def _fitting(self, run: Run) -> tuple[list[Throughput], str]:
        """The rates of the run's precision, compiled or not as the run is, as far as there are any."""
        rates, said = list(self.rates), ""
        for what, wanted in (("precision", run.train.precision), ("compiled", run.train.compile)):
            same = [rate for rate in rates if getattr(rate, what) == wanted]
            if same:
                rates = same
            else:
                said += f", no row with {what} {wanted}"
        return rates, said


def read_bench(path: Path) -> MeasuredSpeeds:
    """The training rows of ours in a JSON file of `scalevit bench model` or `all`. ValueError where there are
    none, or where the file is something else."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"--bench {path}: not a file of `scalevit bench model --json`: {error}") from None
    found = found.get("model", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list):
        raise ValueError(f"--bench {path}: no rows; it should come from `scalevit bench model --json`")
    rows = [_checked(row, path) for row in found["rows"]]
    ours = [row for row in rows if row["work"] == "train" and row["candidate"] in (OURS, COMPILED)]
    if not ours:
        raise ValueError(f"--bench {path}: no row of work=train by scalevit; run the bench with --work train")
    ceiling = 1e9 * max(float(row.get("ceiling_gflops") or math.nan) for row in ours)
    return MeasuredSpeeds(path, str(found.get("device", "this machine")), ceiling, tuple(map(_rate, ours)))


def _checked(row: Any, path: Path) -> dict[str, Any]:
    words = isinstance(row, dict) and all(isinstance(row.get(name), str) for name in WORDS)
    if not words or not all(_positive(row.get(name)) for name in NUMBERS):
        raise ValueError(f"--bench {path}: a row lacks {', '.join(WORDS + NUMBERS)}, or is not above 0")
    return row


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _rate(row: dict[str, Any]) -> Throughput:
    resolved, image = shape(row["model"].partition("-")[0]), int(row["image"])
    return Throughput(
        row["model"], resolved, image, row["precision"], row["candidate"] == COMPILED, resolved.flops(image),
        float(row["images_per_second"]),
    )  # fmt: skip
