"""What is caught before it enters the weights: a loss or gradient that is not finite, and a loss that jumps.

The median and the median absolute deviation of recent losses say what is usual: unlike mean and standard
deviation, one spike among them hardly moves them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scalevit.config.run import Guard


def check_loss(loss: float, norm: float, history: Sequence[float], guard: Guard) -> str | None:
    """What is wrong with a step of this loss and gradient norm, or None. history: the losses before it."""
    if not math.isfinite(loss):
        return f"a loss of {loss}"
    if not math.isfinite(norm):
        return f"a gradient norm of {norm}"
    if not guard.spike or len(history) < guard.window:
        return None
    middle = statistics.median(history)
    deviation = statistics.median(abs(value - middle) for value in history)
    if loss > middle + guard.spike * deviation:
        return f"a loss of {loss:.4g}, where {middle:.4g} ± {deviation:.2g} is usual"
    return None


def update_history(history: list[float], loss: float, guard: Guard) -> None:
    """Add a loss to the history, of which the last `guard.window` are kept; nothing when nobody asks."""
    if guard.spike:
        history.append(loss)
        del history[: -guard.window]


def skip_offset(step: int, skips: Sequence[tuple[int, int]]) -> int:
    """The skip offset of step `step`: how far its batch lies ahead of its own number, since each
    (step, batches) of `skips` left out so many batches from that step on."""
    return sum(batches for first, batches in skips if step >= first)
