"""Ranges of numbers in a configuration: what lies inside, the nearest value that does, and how to say so."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; an open end does not belong to it. NaN and infinity never do."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"{left}{_number(self.low)}, {_number(self.high)}{right}"

    def nearest(self, value: float, default: float) -> float:
        """The end that lies next to `value` where it belongs to the range, else `default`."""
        if math.isnan(value):
            return default
        if value <= self.low:
            return default if self.open_low else self.low
        return default if self.open_high else self.high


def _number(value: float) -> str:
    return (
        f"{value:,}"
        if isinstance(value, int) or (float(value).is_integer() and value < 1e6)
        else f"{value:g}"
    )


def nearest_divisors(number: int, to: int) -> list[int]:
    """The divisors of `number` next below and above `to`, in O(√number)."""
    below, above = 1, number
    for divisor in range(1, math.isqrt(number) + 1):
        if number % divisor == 0:
            for one in (divisor, number // divisor):
                below = one if below < one <= to else below
                above = one if to <= one < above else above
    return sorted({below, above}) if to > 0 else [1]
