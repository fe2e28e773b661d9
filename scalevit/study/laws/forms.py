"""The forms of scaling laws: value and gradient of ln y, bounds, starts, and their natural parameters.

Every form works on u = ln(x / x0) and gives ln(y / y0), so its parameters `theta` are free of units and of
the order of one; `natural` turns them into the published ones. Rows of `theta` are a batch: many starts or
many replicates are evaluated at once. theta (b, p), u (b, n) or (1, n) -> value (b, n), gradient (b, n, p).
M1 to M4 are those of arXiv 2209.06640, BNSL of 2210.14891, the law saturating at both ends of 2106.04560.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

#: Bounds in theta: amplitudes and floors in logs, exponents in logs, scales of x in logs.
AMPLITUDE, EXPONENT, FLOOR, SCALE = (-12.0, 12.0), (-5.0, 1.6), (-9.0, 3.0), (-16.0, 4.0)
#: Change of slope at a break, and the log of its width.
BEND, WIDTH = (-1.5, 3.0), (-4.0, 2.0)
EXPONENTS = (0.1, 0.3, 0.7, 1.5)
#: Starts of the floor, as a share of the smallest y seen.
FLOORS = (0.02, 0.4, 0.7, 0.92)

Array = np.ndarray
Value = tuple[Array, Array]


@dataclass(frozen=True)
class Form:
    """One law of `inputs` columns. `parameters` are the published names, in theta's order; `floor` takes
    natural parameters to y at infinite x. With several inputs u is (b, n, inputs) and x0 (inputs,)."""

    name: str
    formula: str
    parameters: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...]
    value: Callable[[Array, Array], Value]
    starts: Callable[[Array, Array], Array]
    natural: Callable[[Array, Any, float], Array]
    floor: Callable[[Array], Array]
    inputs: int = 1

    @property
    def low(self) -> Array:
        return np.array([bound[0] for bound in self.bounds])

    @property
    def high(self) -> Array:
        return np.array([bound[1] for bound in self.bounds])


def _column(theta: Array, index: int) -> Array:
    return theta[:, index, None]


def _add(first: Array, second: Array) -> tuple[Array, Array]:
    """ln(e^first + e^second), and the share of the first."""
    total = np.logaddexp(first, second)
    return total, np.exp(first - total)


def _stack(*gradients: Array) -> Array:
    return np.stack(np.broadcast_arrays(*gradients), axis=-1)


# M1: a x^-b


def _power(theta: Array, u: Array) -> Value:
    b = np.exp(_column(theta, 1))
    value = _column(theta, 0) - b * u
    return value, _stack(np.ones_like(value), -b * u)


def _power_starts(u: Array, v: Array) -> Array:
    return np.array([[np.mean(v + b * u), np.log(b)] for b in EXPONENTS])


def _power_natural(theta: Array, x0: float, y0: float) -> Array:
    b = np.exp(theta[:, 1])
    return np.stack([y0 * np.exp(theta[:, 0]) * x0**b, b], 1)


# M2: a x^-b + c


def _offset(theta: Array, u: Array) -> Value:
    b = np.exp(_column(theta, 1))
    value, share = _add(_column(theta, 0) - b * u, _column(theta, 2))
    return value, _stack(share, -share * b * u, 1 - share)


def _offset_starts(u: Array, v: Array) -> Array:
    return np.array([_above_floor(u, v, b, c) for b in EXPONENTS for c in FLOORS])


def _above_floor(u: Array, v: Array, b: float, share: float) -> tuple[float, float, float]:
    """(ln a, ln b, ln c) with c a share of the smallest y and a by the mean of what remains."""
    c = share * np.exp(np.min(v))
    amplitude = np.mean(np.log(np.exp(v) - c + 1e-3 * np.exp(v)) + b * u)
    return float(np.clip(amplitude, -11, 11)), float(np.log(b)), float(np.clip(np.log(c), -8.9, 2.9))


def _offset_natural(theta: Array, x0: float, y0: float) -> Array:
    return np.column_stack([_power_natural(theta, x0, y0), y0 * np.exp(theta[:, 2])])


# The paper's law, saturating at both ends: a (x + d)^-b + c


def _saturating(theta: Array, u: Array) -> Value:
    b = np.exp(_column(theta, 1))
    shifted, reached = _add(u, _column(theta, 3))
    value, share = _add(_column(theta, 0) - b * shifted, _column(theta, 2))
    slope = -share * b
    return value, _stack(share, slope * shifted, 1 - share, slope * (1 - reached))


def _saturating_starts(u: Array, v: Array) -> Array:
    delays = (np.min(u) - 5, np.min(u), np.mean(u))
    b, share, d = np.array(list(product(EXPONENTS, FLOORS, delays))).T
    floor = share * np.exp(np.min(v))
    above = np.log(np.exp(v) - floor[:, None] + 1e-3 * np.exp(v))
    amplitude = np.mean(above + b[:, None] * np.logaddexp(u, d[:, None]), axis=1)
    return np.stack([np.clip(amplitude, -11, 11), np.log(b), np.clip(np.log(floor), -8.9, 2.9), d], 1)


def _saturating_natural(theta: Array, x0: float, y0: float) -> Array:
    return np.column_stack([_offset_natural(theta, x0, y0), x0 * np.exp(theta[:, 3])])


# M3: a (1/x + g)^b


def _inverse(theta: Array, u: Array) -> Value:
    b = np.exp(_column(theta, 1))
    inner, share = _add(-u, _column(theta, 2))
    value = _column(theta, 0) + b * inner
    return value, _stack(np.ones_like(value), b * inner, b * (1 - share))


def _inverse_starts(u: Array, v: Array) -> Array:
    shifts = (-np.max(u) - 4, -np.max(u), -np.mean(u))
    return np.array([(np.mean(v - b * np.logaddexp(-u, g)), np.log(b), g) for b in EXPONENTS for g in shifts])


def _inverse_natural(theta: Array, x0: float, y0: float) -> Array:
    return np.column_stack([_power_natural(theta, x0, y0), np.exp(theta[:, 2]) / x0])


# M4: (y - c) / (e0 - y)^alpha = a x^-b, solved for y = c + (e0 - c) s(z) with a logistic s


def _sigmoidal(theta: Array, u: Array) -> Value:
    b, alpha = np.exp(_column(theta, 1)), np.exp(_column(theta, 4))
    z = _logit(_column(theta, 0) - b * u, alpha)
    rising = 1 / (1 + np.exp(-z))
    stiffness = (1 - rising) + alpha * rising
    value, floor = _add(_column(theta, 2), _column(theta, 3) - np.logaddexp(0, -z))
    share = 1 - floor
    slope = share * (1 - rising) / stiffness
    return value, _stack(slope, -slope * b * u, floor, share, -slope * alpha * np.logaddexp(0, z))


def _logit(right: Array, alpha: Array) -> Array:
    """z with ln s(z) - alpha ln(1 - s(z)) = right. Newton: the left side is monotone and bends one way."""
    z = np.where(right < 0, right, right / alpha)
    for _ in range(12):
        left = -np.logaddexp(0, -z) + alpha * np.logaddexp(0, z)
        rising = 1 / (1 + np.exp(-z))
        z = z - (left - right) / (1 - rising + alpha * rising)
    return np.clip(z, -500, 500)


def _sigmoidal_starts(u: Array, v: Array) -> Array:
    found = []
    for b in EXPONENTS:
        for share in FLOORS:
            for gap in (1.05, 1.5):
                floor, top = share * np.exp(np.min(v)), gap * np.exp(np.max(v))
                s = (np.exp(v) - floor) / (top - floor)
                amplitude = np.mean(np.log(s) - np.log1p(-s) + b * u)
                found.append((amplitude, np.log(b), np.log(floor), np.log(top - floor), 0.0))
    return np.array(found)


def _sigmoidal_natural(theta: Array, x0: float, y0: float) -> Array:
    alpha, b = np.exp(theta[:, 4]), np.exp(theta[:, 1])
    a = np.exp(theta[:, 0] + theta[:, 3] * (1 - alpha)) * y0 ** (1 - alpha) * x0**b
    c = y0 * np.exp(theta[:, 2])
    return np.stack([a, b, c, c + y0 * np.exp(theta[:, 3]), alpha], 1)


# BNSL: c + a x^-b product over breaks of (1 + (x / d)^(1 / f))^(-s f)


def _broken(theta: Array, u: Array) -> Value:
    b = np.exp(_column(theta, 1))
    power, steps = _column(theta, 0) - b * u, []
    for first in range(3, theta.shape[1], 3):
        where, bend, f = _column(theta, first), _column(theta, first + 1), np.exp(_column(theta, first + 2))
        away = (u - where) / f
        soft, passed = np.logaddexp(0, away), np.exp(-np.logaddexp(0, -away))
        power = power - bend * f * soft
        steps += [bend * passed, -f * soft, -bend * f * (soft - away * passed)]
    value, share = _add(power, _column(theta, 2))
    return value, _stack(share, -share * b * u, 1 - share, *(share * step for step in steps))


def _broken_starts(breaks: int) -> Callable[[Array, Array], Array]:
    def starts(u: Array, v: Array) -> Array:
        spread = np.linspace(np.min(u), np.max(u), breaks + 2)[1:-1]
        found = []
        for early, late in ((0.05, 0.4), (0.3, 0.3), (0.6, -0.3)):
            for width in (-1.5, 0.0):
                for floor in FLOORS:
                    a, _, c = _above_floor(u, v, early, floor)
                    parts = [(where, late / breaks, width) for where in spread]
                    found.append((a, np.log(early), c, *np.ravel(parts)))
        return np.array(found)

    return starts


def _broken_natural(theta: Array, x0: float, y0: float) -> Array:
    columns = [_offset_natural(theta[:, :3], x0, y0)]
    for first in range(3, theta.shape[1], 3):
        columns += [x0 * np.exp(theta[:, first]), theta[:, first + 1], np.exp(theta[:, first + 2])]
    return np.column_stack(columns)


def _breaks(count: int) -> Form:
    names = [f"{name}{i}" for i in range(1, count + 1) for name in ("d", "s", "f")]
    return Form(
        "BNSL" if count == 1 else f"BNSL{count}", "c + a x^-b prod (1 + (x/d)^(1/f))^(-s f)",
        ("a", "b", "c", *names), (AMPLITUDE, EXPONENT, FLOOR, *((SCALE, BEND, WIDTH) * count)),
        _broken, _broken_starts(count), _broken_natural, _third,
    )  # fmt: skip


def _third(natural: Array) -> Array:
    return natural[:, 2]


# Rising laws: a x^b with an exponent of either sign, and c / (1 + (d / x)^b), whose inverse is M2


def _free_power(theta: Array, u: Array) -> Value:
    value = _column(theta, 0) + _column(theta, 1) * u
    return value, _stack(np.ones_like(value), u)


def _free_power_starts(u: Array, v: Array) -> Array:
    return np.array([[np.mean(v - b * u), b] for b in (-1.0, -0.3, 0.3, 1.0)])


def _free_power_natural(theta: Array, x0: float, y0: float) -> Array:
    return np.stack([y0 * np.exp(theta[:, 0]) * x0 ** -theta[:, 1], theta[:, 1]], 1)


def _ceiling(theta: Array, u: Array) -> Value:
    value, gradient = _offset(theta, u)
    return -value, -gradient


def _ceiling_starts(u: Array, v: Array) -> Array:
    return _offset_starts(u, -v)


def _ceiling_natural(theta: Array, x0: float, y0: float) -> Array:
    b, c = np.exp(theta[:, 1]), y0 * np.exp(-theta[:, 2])
    return np.stack([c, b, x0 * np.exp((theta[:, 0] - theta[:, 2]) / b)], 1)


FORMS = {
    "M1": Form(
        "M1", "a x^-b", ("a", "b"), (AMPLITUDE, EXPONENT), _power, _power_starts, _power_natural,
        lambda natural: np.zeros(len(natural)),
    ),
    "M2": Form(
        "M2", "a x^-b + c", ("a", "b", "c"), (AMPLITUDE, EXPONENT, FLOOR), _offset, _offset_starts,
        _offset_natural, _third,
    ),
    "M3": Form(
        "M3", "a (1/x + g)^b", ("a", "b", "g"), (AMPLITUDE, EXPONENT, SCALE), _inverse, _inverse_starts,
        _inverse_natural, lambda natural: natural[:, 0] * natural[:, 2] ** natural[:, 1],
    ),
    "M4": Form(
        "M4", "(y - c) / (e0 - y)^alpha = a x^-b", ("a", "b", "c", "e0", "alpha"),
        (AMPLITUDE, EXPONENT, FLOOR, AMPLITUDE, (-2.0, 2.0)), _sigmoidal, _sigmoidal_starts,
        _sigmoidal_natural, _third,
    ),
    "saturating": Form(
        "saturating", "a (x + d)^-b + c", ("a", "b", "c", "d"), (AMPLITUDE, EXPONENT, FLOOR, SCALE),
        _saturating, _saturating_starts, _saturating_natural, _third,
    ),
    "BNSL": _breaks(1),
    "BNSL2": _breaks(2),
    "BNSL3": _breaks(3),
    "power": Form(
        "power", "a x^b", ("a", "b"), ((-30.0, 30.0), (-5.0, 5.0)), _free_power, _free_power_starts,
        _free_power_natural, lambda natural: np.where(natural[:, 1] > 0, np.inf, 0.0),
    ),
    "ceiling": Form(
        "ceiling", "c / (1 + (d/x)^b)", ("c", "b", "d"), ((-40.0, 12.0), EXPONENT, (-40.0, 9.0)), _ceiling,
        _ceiling_starts, _ceiling_natural, lambda natural: natural[:, 0],
    ),
}  # fmt: skip

#: Forms that rise with x.
RISING = ("power", "ceiling")
