"""Numbers as text: errors in percent, intervals, powers of ten, names of tasks."""

from __future__ import annotations

from collections.abc import Sequence

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


Task = tuple[str, int]


def task_name(task: Task) -> str:
    """digits, 10-shot."""
    return f"{task[0]} {task[1]}-shot" if task[1] else task[0]


def percent(error: float) -> str:
    return f"{100 * error:.1f}%"


def interval(low: float, high: float) -> str:
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def span(values: Sequence[float], unit: str = "") -> str:
    low, high = min(values), max(values)
    ends = number(low) if low == high else f"{number(low)} to {number(high)}"
    return f"{ends}{unit}"


def number(value: float) -> str:
    """Two or three digits as people write them: 0.046, 600, 1.1 × 10¹³."""
    if 1e-3 <= abs(value) < 1e5 or value == 0:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPT)}"


def formula_text(formula: str) -> str:
    return formula.replace("x", "C").replace("^-b", "⁻ᵇ").replace("^b", "ᵇ")
