"""The learning rate as a pure function of the step (paper §3.5, App. B; paper.md §0.5).

Every curve is warm-up × decay × cooldown. The reciprocal square root knows no horizon: a run can be extended
for ever, and a cooldown branched off it at any step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """lr: peak learning rate. steps, warmup, timescale, cooldown, shift: optimizer steps.

    rsqrt: lr / sqrt(1 + (step + shift - warmup) / timescale) after the warm-up.
    linear falls to `end`, cosine to 0. A cooldown multiplies whichever curve by (steps - step) / cooldown."""

    name: Literal["rsqrt", "cosine", "linear", "constant"] = "rsqrt"
    lr: float = 8e-4
    steps: int = 1_000_000
    warmup: int = 10_000
    timescale: int = 10_000
    cooldown: int = 50_000
    shift: int = 0
    end: float = 0.0


def lr_at(schedule: Schedule, step: int) -> float:
    """Learning rate of optimizer step `step`, counted from 0: the first step of a warm-up has rate 0."""
    lr = DECAYS[schedule.name](schedule, step)
    if schedule.warmup:
        lr *= min(1.0, step / schedule.warmup)
    if schedule.cooldown:
        lr *= min(1.0, max(0.0, schedule.steps - step) / schedule.cooldown)
    return lr


def branch_schedule(schedule: Schedule, at: int, cooldown: int) -> Schedule:
    """The schedule that follows its trunk until step `at` and then cools down to 0 within `cooldown` steps.

    Only a schedule without a horizon (rsqrt, constant) can be branched: others already knew where to end."""
    if schedule.name not in ("rsqrt", "constant"):
        raise ValueError(f"a {schedule.name} schedule cannot be branched: its curve depends on the last step")
    if not 0 <= at <= last_common_step(schedule):
        raise ValueError(
            f"cannot branch at step {at}: the trunk's plateau ends at {last_common_step(schedule)}"
        )
    return replace(schedule, steps=at + cooldown, cooldown=cooldown)


def last_common_step(schedule: Schedule) -> int:
    """Last step at which a branch still shares its past with this schedule."""
    return schedule.steps - schedule.cooldown


def _progress(schedule: Schedule, step: int) -> float:
    span = max(1, schedule.steps - schedule.warmup)
    return min(1.0, max(0.0, (step - schedule.warmup) / span))


def _rsqrt(schedule: Schedule, step: int) -> float:
    since = max(0, step - schedule.warmup) + schedule.shift
    return schedule.lr / math.sqrt(1 + since / schedule.timescale)


def _cosine(schedule: Schedule, step: int) -> float:
    return schedule.lr * 0.5 * (1 + math.cos(math.pi * _progress(schedule, step)))


def _linear(schedule: Schedule, step: int) -> float:
    return schedule.end + (schedule.lr - schedule.end) * (1 - _progress(schedule, step))


def _constant(schedule: Schedule, step: int) -> float:
    return schedule.lr


DECAYS: dict[str, Callable[[Schedule, int], float]] = {
    "rsqrt": _rsqrt,
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
}
