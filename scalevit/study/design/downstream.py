"""What a study does with every run that it has trained: probes and fine-tunes, each a node of its own.

What such a node costs is known beforehand, as training is: a probe takes one forward pass an image that it
looks at, a fine-tune three an image that it trains on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from scalevit import config

#: Images of the named sets, support and query together.
DATASET_SIZES = {
    "digits": 1_797, "mnist": 5_000, "fashion": 70_000, "photographs": 720, "unseen-strokes": 3_840,
    "unseen-atoms": 3_840, "unseen-fractals": 3_840,
}  # fmt: skip

#: What the dataset of a fine-tuned error is called behind the set's own name.
FINETUNED_SUFFIX = "fine-tuned"


@dataclass(frozen=True)
class ProbeSpec:
    """A few-shot probe, as `scalevit probe` does it. images: that it looks at; named sets know it."""

    data: str
    shots: tuple[int, ...] = (1, 5, 10, 25)
    draws: int = 5
    images: int = 0

    kind = "probe"
    steps = 0

    def error(self) -> str:
        if self.images or self.data in DATASET_SIZES:
            return ""
        return f"probes: say how many images {self.data} holds (images: 5000); the cost follows from it"

    def run(self, trained: config.Run) -> config.Run:
        return trained

    def flops(self, trained: config.Run) -> float:
        return forward_flops(trained) * (self.images or DATASET_SIZES[self.data])

    def command(self, model: Path, out: Path) -> tuple[str, ...]:
        """The command that does it."""
        shots = (str(shots) for shots in self.shots)
        told = ("--draws", str(self.draws), "--no-cache", "--records", str(out))
        return "probe", str(model), self.data, "--shots", *shots, *told


@dataclass(frozen=True)
class Finetune:
    """Further training of all weights, as `scalevit finetune` does it: the paper's protocol but for these."""

    data: str
    steps: int = 20_000
    batch: int = 512
    lr: float = 0.03
    overrides: tuple[str, ...] = ()

    kind = "finetune"

    def error(self) -> str:
        small = self.steps < 1 or self.batch < 1 or not self.lr > 0
        return f"finetunes: steps, batch and lr of {self.data} must be positive" if small else ""

    def run(self, trained: config.Run) -> config.Run:
        """The run as far as its cost goes; the head keeps its classes, on which few FLOPs depend."""
        keys = [word for word in self.overrides if not word.startswith("schedule.")]
        made = config.override(trained, keys)
        plan = replace(trained.schedule, steps=self.steps, warmup=0, cooldown=0)
        return replace(made, schedule=plan, train=replace(made.train, batch=self.batch))

    def flops(self, trained: config.Run) -> float:
        return 3 * forward_flops(self.run(trained)) * self.batch * self.steps

    def command(self, model: Path, out: Path) -> tuple[str, ...]:
        """The command that does it."""
        said = (f"schedule.steps={self.steps}", f"train.batch={self.batch}", *self.overrides)
        return "finetune", str(model), self.data, *said, "--lr", repr(self.lr), "--out", str(out)


DownstreamJob = ProbeSpec | Finetune


def job_name(parent: str, follow: DownstreamJob) -> str:
    """The node's, and its folder's."""
    return f"{parent}-{follow.kind}-{re.sub(r'[^A-Za-z0-9._+]+', '_', Path(follow.data).name)}"


def forward_flops(run: config.Run) -> float:
    """FLOPs of one image's forward pass."""
    model = run.model
    return model.resolve().flops(model.image, model.pool, model.classes)
