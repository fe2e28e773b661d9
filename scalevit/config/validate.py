"""Validation of a configuration: every range and every cross-check, before anything is opened or created."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from scalevit.config.lr_schedule import Schedule
from scalevit.config.model_sizes import POOLS
from scalevit.config.run import Data, Model, Parallel, Run


class ConfigErrors(ValueError):
    """All mistakes of a configuration, one a line."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.errors = tuple(mistakes)


def validate(run: Run) -> list[str]:
    """Every mistake that can be seen before anything is opened or created, one line each."""
    return [*_model_mistakes(run.model), *_schedule_mistakes(run.schedule), *_train_mistakes(run)]


def missing_source(run: Run) -> list[str]:
    """What planning can do without and training cannot: the images."""
    if run.data.source:
        return []
    return ["data.source: say where your images are, e.g. data.source=/path/to/folder"]


def _model_mistakes(model: Model) -> Iterator[str]:
    try:
        resolved = model.resolve()
    except ValueError as error:
        yield f"model.shape: {error}"
        return
    for name, value in dataclasses.asdict(resolved).items():
        if value < 1:
            yield f"model.{name}: must be at least 1, found {value}"
            return
    if model.image < 1 or model.image % resolved.patch:
        below = max(1, model.image // resolved.patch) * resolved.patch
        yield (
            f"model.image={model.image} is not divisible by the patch {resolved.patch}; "
            f"nearest: {below}, {below + resolved.patch}"
        )
    if resolved.width % resolved.heads:
        fits = [h for h in range(1, resolved.width + 1) if resolved.width % h == 0]
        near = sorted(fits, key=lambda h: abs(h - resolved.heads))[:2]
        yield f"model.heads={resolved.heads} does not divide the width {resolved.width}; nearest: {near}"
    if model.positions == "sincos2d" and resolved.width % 4:
        yield f"model.positions=sincos2d needs a width divisible by 4, found {resolved.width}"
    if model.channels != 3 or model.image_width:
        yield "model.channels and model.image_width: a run trains on square images of 3 channels"
    if model.pool not in POOLS:
        yield f"model.pool={model.pool}: a run trains with {', '.join(POOLS)}"
    if model.classes < 0 or model.registers < 0:
        yield "model.classes and model.registers must not be negative"


def _schedule_mistakes(schedule: Schedule) -> Iterator[str]:
    if schedule.steps < 1:
        yield f"schedule.steps: must be at least 1, found {schedule.steps}"
    if min(schedule.warmup, schedule.cooldown) < 0 or schedule.timescale < 1:
        yield "schedule: warmup and cooldown must not be negative, timescale at least 1"
    elif schedule.warmup + schedule.cooldown > schedule.steps:
        yield (
            f"schedule: warmup {schedule.warmup} + cooldown {schedule.cooldown} steps are longer than the "
            f"run's {schedule.steps}; shorten them or raise schedule.steps"
        )
    if not schedule.lr > 0:
        yield f"schedule.lr: must be positive, found {schedule.lr}"


def _train_mistakes(run: Run) -> Iterator[str]:
    train = run.train
    if train.batch < 1:
        yield f"train.batch: must be at least 1, found {train.batch}"
    elif train.micro_batch and (train.micro_batch < 0 or train.batch % train.micro_batch):
        fits = [m for m in range(1, train.batch + 1) if train.batch % m == 0]
        near = sorted(fits, key=lambda m: abs(m - train.micro_batch))[:2]
        yield (
            f"train.micro_batch={train.micro_batch} does not divide train.batch={train.batch}; "
            f"nearest: {near}"
        )
    if not 0 < run.optimizer.layer_decay <= 1:
        yield f"optimizer.layer_decay: must lie in (0, 1], found {run.optimizer.layer_decay}"
    if not 0 <= train.ema < 1:
        yield f"train.ema: must lie in [0, 1), found {train.ema}"
    if train.polyak < 0 or (train.polyak and train.ema):
        yield "train.polyak: must not be negative, and one average is kept: leave train.ema at 0"
    if train.keep_last < 1 or train.keep_every < 0:
        yield "train.keep_last must be at least 1, and train.keep_every not negative"
    if bool(run.start.weights) != bool(run.start.content):
        yield "start: weights and their content belong together; scalevit finetune MODEL DATA fills them in"
    if run.start.weights and run.branch.trunk:
        yield "start and branch: a run begins with weights or goes on from a trunk, not both"
    yield from _mixture_mistakes(run.data)
    if run.data.images < 0:
        yield f"data.images: must not be negative, found {run.data.images}"
    if not 0 <= run.data.randaugment <= 20 or run.data.mixup < 0:
        yield "data.randaugment must lie between 0 and 20, and data.mixup must not be negative"
    if run.data.mixup and not run.model.classes:
        yield "data.mixup mixes labels: it needs model.classes of at least 1"
    if run.branch.trunk and run.branch.step > run.schedule.steps - run.schedule.cooldown:
        yield f"branch.step={run.branch.step} lies inside the cooldown, which the trunk does not share"
    if any(shots < 1 for shots in run.probe.shots) or run.probe.draws < 1:
        yield "probe.shots and probe.draws must be at least 1"


def _mixture_mistakes(data: Data) -> Iterator[str]:
    wanted = 1 + len(data.more) if data.more else 0
    if len(data.weights) != wanted:
        yield (
            f"data.weights: expected {wanted} numbers, one for data.source and each of data.more, "
            f"found {len(data.weights)}"
        )
    if any(weight <= 0 for weight in data.weights):
        yield f"data.weights: must be positive, found {list(data.weights)}"
    if data.more and (data.images or data.part != "all"):
        yield "data.more: of a mixture all images are used; leave data.images=0 and data.part=all"


def parallel_errors(parallel: Parallel, batch: int, size: int) -> list[str]:
    """Why `size` processes, one a device, cannot share such batches and models, with what would be
    possible."""
    found = []
    if batch % size:
        batches = f"{batch // size * size or size} or {(batch // size + 1) * size}"
        sizes = [n for n in range(1, batch + 1) if batch % n == 0]
        sizes = sorted(sizes, key=lambda n: abs(n - size))[:2]
        found.append(
            f"train.batch={batch} cannot be shared evenly by {size} processes; nearest: a batch of "
            f"{batches}, or {' or '.join(map(str, sorted(sizes)))} processes"
        )
    if parallel.strategy == "hybrid" and size > 1 and (parallel.shard < 1 or size % parallel.shard):
        fits = [n for n in range(1, size + 1) if size % n == 0]
        found.append(f"parallel.shard={parallel.shard} does not divide {size} processes; possible: {fits}")
    return found
