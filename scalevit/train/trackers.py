"""Where a run's numbers go besides its records: TensorBoard, Weights & Biases, trackio; each one an extra.

A tracker that fails is let go with a line: no run ends because a service is away.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from scalevit import config
from scalevit.artifacts import records

PROJECT = "scalevit"
#: Rows of these kinds are about attempts, not about the model.
ABOUT = ("start", "stop", "run", "event")


@runtime_checkable
class Tracker(Protocol):
    """numbers: values by name, of one step."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `tensorboard/` of the run's folder; what an earlier attempt wrote after `step` is hidden
    there, as it will be written again."""

    def __init__(self, run: config.Run, out: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()  # a killed process loses nothing

    def close(self) -> None:
        self.writer.close()


class Service:
    """What `wandb` and `trackio` have in common: the same run again is one line there, under its id. Where to
    and as whom, their own environment variables say."""

    def __init__(self, package: str, run: config.Run, **settings: Any) -> None:
        project = os.environ.get(f"{package.upper()}_PROJECT", PROJECT)
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for answers
            self.run = import_module(package).init(
                project=project, config=config.to_dict(run), resume="allow", **settings
            )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self.run.finish()


def _wandb(run: config.Run, out: Path, step: int) -> Service:
    return Service("wandb", run, id=config.run_id(run), name=run.name, dir=str(out))


def _trackio(run: config.Run, out: Path, step: int) -> Service:
    return Service("trackio", run, name=f"{run.name} {config.run_id(run)}")


#: By the name of the package.
TRACKERS: dict[str, Callable[[config.Run, Path, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": _wandb,
    "trackio": _trackio,
}


def tracker_errors(run: config.Run) -> list[str]:
    """Trackers that the run asks for and that are not installed, one line each."""
    found = []
    for name in run.train.trackers:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            found.append(f'train.trackers: {name} is not installed: pip install "scalevit[{name}]"')
    return found


@dataclass
class Trackers:
    """Those that are open, until this context ends. say: where a line goes about one that fails."""

    say: Callable[[str], None]
    open: dict[str, Tracker] = field(default_factory=dict)

    def begin(self, run: config.Run, out: Path, step: int) -> None:
        """Open those that the run asks for, at step `step`."""
        for name in run.train.trackers:
            with self._failing(name):
                self.open[name] = TRACKERS[name](run, out, step)

    def record(self, rows: Iterable[records.Row]) -> None:
        for step, values in numbers(rows).items():
            for name, tracker in [*self.open.items()]:
                with self._failing(name):
                    tracker.numbers(step, values)

    @contextlib.contextmanager
    def _failing(self, name: str):
        try:
            yield
        except Exception as error:  # whatever a service and its client may raise
            self.open.pop(name, None)
            self.say(f"{name} failed, and the run goes on without it: {' '.join(str(error).split())}")

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, tracker in [*self.open.items()]:
            with self._failing(name):
                tracker.close()


def numbers(rows: Iterable[records.Row]) -> dict[int, dict[str, float]]:
    """Values by step and name, such as "train/loss" or "probe/digits/10-shot/accuracy", a mean over draws."""
    found: dict[int, dict[str, list[float]]] = {}
    for row in rows:
        if row["kind"] not in ABOUT:
            dataset = None if row["kind"] == "train" else row["dataset"]
            shots = f"{row['shots']}-shot" if row["shots"] else None
            name = "/".join(part for part in (row["kind"], dataset, shots, row["metric"]) if part)
            found.setdefault(row["step"], {}).setdefault(name, []).append(row["value"])
    return {
        step: {name: statistics.fmean(values) for name, values in named.items()}
        for step, named in found.items()
    }
