"""Loss guard: detects a loss or gradient norm that is not finite, and loss spikes, before the update.

A spike is measured by the median and the median absolute deviation of recent losses: unlike mean and standard
deviation, one outlier among them hardly moves them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scalevit.config.run import Guard

#: The least median absolute deviation, as a share of the median.
LEAST_DEVIATION = 1e-3


def check_loss(loss: float, norm: float, history: Sequence[float], guard: Guard) -> str | None:
    """Check a step's loss and gradient norm: what is wrong with them, or None. history: losses of the steps
    before.

    Where more than half of the history is one value the deviation is 0, which says nothing about the noise:
    then it is taken to be at least `LEAST_DEVIATION` of the median."""
    if not math.isfinite(loss):
        return f"a loss of {loss}"
    if not math.isfinite(norm):
        return f"a gradient norm of {norm}"
    if not guard.spike or len(history) < guard.window:
        return None
    middle = statistics.median(history)
    deviation = statistics.median(abs(value - middle) for value in history)
    deviation = max(deviation, LEAST_DEVIATION * abs(middle))
    if loss > middle + guard.spike * deviation:
        return f"a loss of {loss:.4g}, where {middle:.4g} ± {deviation:.2g} is usual"
    return None


def update_history(history: list[float], loss: float, guard: Guard) -> None:
    """Append a loss to the history of the last `guard.window`; nothing where spikes are not looked for."""
    if guard.spike:
        history.append(loss)
        del history[: -guard.window]


def skip_offset(step: int, skips: Sequence[tuple[int, int]]) -> int:
    """The skip offset of step `step`: how far its batch lies ahead of its own number, since each
    (step, batches) of `skips` left out so many batches from that step on."""
    return sum(batches for first, batches in skips if step >= first)
