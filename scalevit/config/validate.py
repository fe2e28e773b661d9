"""Validation of a configuration: the range of every key in one table, and cross-checks between keys.

Nothing is opened or created. `KEYS` is the table: `validate` checks by it, `describe_keys` prints it.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scalevit.config.key_ranges import KEYS, key_leaves
from scalevit.config.lr_schedule import Schedule
from scalevit.config.model_sizes import POOLS
from scalevit.config.number_range import Range, nearest_divisors
from scalevit.config.run import Data, Model, Parallel, Run


class ConfigErrors(ValueError):
    """All errors of a configuration, one a line."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = tuple(errors)


# --------------------------------------------------------------------------- the table of keys


# --------------------------------------------------------------------------- validation

#: The longest text that a value may be, and the most items of a list.
MAX_TEXT, MAX_ITEMS = 4096, 100_000


def validate(run: Run) -> list[str]:
    """All errors that can be seen before anything is opened or created, one line each."""
    values = leaf_values(run)
    wrong = range_errors(values)
    return [*wrong.values(), *_combination_errors(run, set(wrong))]


def leaf_values(tree: Any, where: str = "") -> dict[str, Any]:
    """The values of a dataclass tree by key, e.g. "train.batch"."""
    out: dict[str, Any] = {}
    for field in dataclasses.fields(tree):
        value = getattr(tree, field.name)
        if dataclasses.is_dataclass(value):
            out |= leaf_values(value, f"{where}{field.name}.")
        else:
            out[f"{where}{field.name}"] = value
    return out


def range_errors(values: Mapping[str, Any]) -> dict[str, str]:
    """By key: what is wrong with a value by itself; values of the wrong type are others' to report."""
    errors = {}
    for key, value in values.items():
        items = value if isinstance(value, tuple) else (value,)
        message = _items_error(key, items) if key in KEYS else None
        if message:
            errors[key] = message
    return errors


def _items_error(key: str, items: tuple[Any, ...]) -> str | None:
    bounds = KEYS[key][1]
    if len(items) > MAX_ITEMS:
        return f"{key}: {len(items)} values, more than {MAX_ITEMS}"
    for item in items:
        number = isinstance(item, int | float) and not isinstance(item, bool)
        if bounds is not None and number and item not in bounds:
            default = key_leaves(Run)[key][1]
            default = default if isinstance(default, int | float) else 1
            nearest = bounds.nearest(item, default)
            return f"{key}: must lie in {bounds}, found {short(item)}; nearest: {short(nearest)}"
        if isinstance(item, str) and (len(item) > MAX_TEXT or not item.isprintable()):
            return f"{key}: must be printable text of at most {MAX_TEXT} characters, found {short(item)}"
    return None


def short(value: Any) -> str:
    """A value as text of at most 60 characters."""
    if isinstance(value, int) and abs(value) >= 10**18:
        return f"about {'-' if value < 0 else ''}1e{len(hex(value)) * 1204 // 1000 - 3}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def missing_source(run: Run) -> list[str]:
    """The error of a run without images, which planning does not need and training does."""
    if run.data.source:
        return []
    return ["data.source: say where your images are, e.g. data.source=/path/to/folder"]


def _combination_errors(run: Run, wrong: set[str]) -> Iterator[str]:
    """Errors of several keys together, of which none is in `wrong`."""
    if not any(key.startswith("model.") for key in wrong):
        yield from _model_errors(run.model)
    if not any(key.startswith("schedule.") for key in wrong):
        yield from _schedule_errors(run.schedule)
    if not wrong & {"train.batch", "train.micro_batch", "train.ema", "train.polyak"}:
        yield from _train_errors(run)
    if not run.name.strip():
        yield "name: must not be empty"
    if bool(run.start.weights) != bool(run.start.content):
        yield "start: weights and their content belong together; scalevit finetune MODEL DATA fills them in"
    if run.start.weights and run.branch.trunk:
        yield "start and branch: a run begins with weights or goes on from a trunk, not both"
    for key in ("mean", "std"):
        if len(getattr(run.start.preprocessing, key)) != 3:
            yield f"start.preprocessing.{key}: expected three numbers, of red, green and blue"
    yield from _mixture_errors(run.data)
    if run.data.mixup and not run.model.classes:
        yield "data.mixup mixes labels: it needs model.classes of at least 1"
    if run.branch.trunk and run.branch.step > run.schedule.steps - run.schedule.cooldown:
        yield f"branch.step={run.branch.step} lies inside the cooldown, which the trunk does not share"


def _model_errors(model: Model) -> Iterator[str]:
    try:
        resolved = model.resolve()
    except ValueError as error:
        yield f"model.shape: {error}"
        return
    if resolved.patch not in typing.cast(Range, KEYS["model.patch"][1]):
        yield f"model.shape={model.shape}: the patch must lie in {KEYS['model.patch'][1]}"
        return
    if model.image % resolved.patch:
        below = max(1, model.image // resolved.patch) * resolved.patch
        yield (
            f"model.image={model.image} is not divisible by the patch {resolved.patch}; "
            f"nearest: {below}, {below + resolved.patch}"
        )
    if resolved.width % resolved.heads:
        near = nearest_divisors(resolved.width, resolved.heads)
        yield f"model.heads={resolved.heads} does not divide the width {resolved.width}; nearest: {near}"
    if model.positions == "sincos2d" and resolved.width % 4:
        yield f"model.positions=sincos2d needs a width divisible by 4, found {resolved.width}"
    if model.channels != 3 or model.image_width:
        yield "model.channels and model.image_width: a run trains on square images of 3 channels"
    if model.pool not in POOLS:
        yield f"model.pool={model.pool}: a run trains with {', '.join(POOLS)}"


def _schedule_errors(schedule: Schedule) -> Iterator[str]:
    if schedule.warmup + schedule.cooldown > schedule.steps:
        yield (
            f"schedule: warmup {schedule.warmup} + cooldown {schedule.cooldown} steps are longer than the "
            f"run's {schedule.steps}; shorten them or raise schedule.steps"
        )
    if schedule.end > schedule.lr:
        yield f"schedule.end={schedule.end:g} lies above schedule.lr={schedule.lr:g}"


def _train_errors(run: Run) -> Iterator[str]:
    train = run.train
    if train.micro_batch and train.batch % train.micro_batch:
        near = nearest_divisors(train.batch, train.micro_batch)
        yield (
            f"train.micro_batch={train.micro_batch} does not divide train.batch={train.batch}; "
            f"nearest: {near}"
        )
    if train.polyak and train.ema:
        yield "train.polyak: one average is kept; leave train.ema at 0"
    if run.data.names and len(run.data.names) != run.model.classes:
        yield f"data.names: {len(run.data.names)} names for model.classes={run.model.classes}"


def _mixture_errors(data: Data) -> Iterator[str]:
    expected = 1 + len(data.more) if data.more else 0
    if len(data.weights) != expected:
        yield (
            f"data.weights: expected {expected} numbers, one for data.source and each of data.more, "
            f"found {len(data.weights)}"
        )
    if data.more and (data.images or data.part != "all"):
        yield "data.more: of a mixture all images are used; leave data.images=0 and data.part=all"


def parallel_errors(parallel: Parallel, batch: int, size: int) -> list[str]:
    """Why `size` processes, one a device, cannot share this batch and model, with what would be possible."""
    errors = []
    if batch % size:
        batches = f"{batch // size * size or size} or {(batch // size + 1) * size}"
        sizes = " or ".join(map(str, nearest_divisors(batch, size)))
        errors.append(
            f"train.batch={batch} cannot be shared evenly by {size} processes; nearest: a batch of "
            f"{batches}, or {sizes} processes"
        )
    if parallel.strategy == "hybrid" and size > 1 and (parallel.shard < 1 or size % parallel.shard):
        fits = nearest_divisors(size, max(1, parallel.shard))
        errors.append(f"parallel.shard={parallel.shard} does not divide {size} processes; nearest: {fits}")
    return errors
