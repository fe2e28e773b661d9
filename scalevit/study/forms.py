"""The forms of scaling laws: value and gradient of log y, bounds, starts, and their natural parameters.

Every form works on u = ln(x / x0) and gives ln(y / y0), so its parameters `theta` are free of units and of the
order of one; `natural` turns them into the published ones. Rows of `theta` are a batch: many starts or many
bootstrap replicates are evaluated at once. theta (b, p), u (n,) or (b, n) -> value (b, n), gradient (b, n, p).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

#: Bounds in theta: amplitudes and floors in logs, exponents in logs, scales of x in logs.
AMPLITUDE, EXPONENT, FLOOR, SCALE = (-12.0, 12.0), (-5.0, 1.6), (-9.0, 3.0), (-16.0, 4.0)
EXPONENTS = (0.1, 0.3, 0.7, 1.5)
#: Starts of the floor, as a share of the smallest y seen.
FLOORS = (0.02, 0.4, 0.7, 0.92)

Array = np.ndarray
Value = tuple[Array, Array]


@dataclass(frozen=True)
class Form:
    """One law. `parameters` are the published names, in theta's order; `floor` is y at infinite x."""

    name: str
    formula: str
    parameters: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...]
    value: Callable[[Array, Array], Value]
    starts: Callable[[Array, Array], Array]
    natural: Callable[[Array, float, float], Array]
    floor: Callable[[Array], Array]

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
    return np.array(
        [
            (*_above_floor(np.logaddexp(u, d), v, b, c), d)
            for b in EXPONENTS for c in FLOORS for d in delays
        ]
    )  # fmt: skip


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


FORMS = {
    form.name: form
    for form in (
        Form(
            "M1", "a x^-b", ("a", "b"), (AMPLITUDE, EXPONENT), _power, _power_starts, _power_natural,
            lambda natural: np.zeros(len(natural)),
        ),
        Form(
            "M2", "a x^-b + c", ("a", "b", "c"), (AMPLITUDE, EXPONENT, FLOOR), _offset, _offset_starts,
            _offset_natural, lambda natural: natural[:, 2],
        ),
        Form(
            "M3", "a (1/x + g)^b", ("a", "b", "g"), (AMPLITUDE, EXPONENT, SCALE), _inverse, _inverse_starts,
            _inverse_natural, lambda natural: natural[:, 0] * natural[:, 2] ** natural[:, 1],
        ),
        Form(
            "saturating", "a (x + d)^-b + c", ("a", "b", "c", "d"), (AMPLITUDE, EXPONENT, FLOOR, SCALE),
            _saturating, _saturating_starts, _saturating_natural, lambda natural: natural[:, 2],
        ),
    )
}  # fmt: skip
