"""Laws of several inputs: sums of power terms, terms that cross, and images that repeat.

A law here is a sum of terms, each an amplitude times powers of the inputs; terms may share exponents. As in
`forms.py`, everything works on logs relative to a scale, so theta is free of units: amplitudes and exponents
in logs. With k inputs u is (b, n, k) or (1, n, k).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from scalevit.study.laws.forms import AMPLITUDE, EXPONENT, FLOOR, SCALE, Array, Form, Value

#: Starts of exponents, and of the floor as a share of the smallest y.
SLOPES, SHARES = (0.15, 0.5), (0.1, 0.5, 0.8)


def sums(names: tuple[str, ...]) -> Form:
    """a_1 x_1^-b_1 + a_2 x_2^-b_2 + ... + c: each input has a floor of its own to fall to."""
    return _powers("sum", "sum of a_i x_i^-b_i, + c", names, np.eye(len(names)))


def crossed(names: tuple[str, ...]) -> Form:
    """The sum, and g x_1^-b_1 x_2^-b_2 ...: an input helps more, or less, where the others are large."""
    terms = np.vstack([np.eye(len(names)), np.ones(len(names))])
    return _powers("crossed", "sum of a_i x_i^-b_i, + g prod x_i^-b_i, + c", names, terms)


def products(names: tuple[str, ...]) -> Form:
    """g x_1^-b_1 x_2^-b_2 ... + c: inputs replace each other at a fixed rate."""
    return _powers("product", "g prod x_i^-b_i + c", names, np.ones((1, len(names))))


def _powers(name: str, formula: str, inputs: tuple[str, ...], terms: Array) -> Form:
    """Falling in every input; `terms` (m, k) says which inputs a term has."""
    table = np.zeros((len(terms) + 1, len(inputs), len(inputs)))
    table[:-1, np.arange(len(inputs)), np.arange(len(inputs))] = -terms
    amplitudes = tuple(f"a_{inputs[int(np.argmax(row))]}" if sum(row) == 1 else "g" for row in terms)
    return terms_of(name, formula, (*amplitudes, "c"), tuple(f"b_{one}" for one in inputs), table)


def terms_of(
    name: str, formula: str, amplitudes: tuple[str, ...], exponents: tuple[str, ...], table: Array
) -> Form:
    """A form whose term i is A_i exp(sum over e, j of table[i, e, j] b_e ln x_j), all b_e > 0; the last term
    is the floor. theta holds the logs of the amplitudes, of the exponents, and of the floor."""
    count, powers, width = table.shape
    assert (count, powers) == (len(amplitudes), len(exponents)) and not table[-1].any()
    return Form(
        name, formula, (*amplitudes[:-1], *exponents, amplitudes[-1]),
        (*(AMPLITUDE,) * (count - 1), *(EXPONENT,) * powers, FLOOR),
        _value(table), _starts(table), _natural(table), lambda natural: natural[:, -1], width,
    )  # fmt: skip


def _value(table: Array) -> Callable[[Array, Array], Value]:
    count = len(table)

    def value(theta: Array, u: Array) -> Value:
        b = np.exp(theta[:, count - 1 : -1])
        slopes = np.einsum("iej,bnj->bnie", table, u) * b[:, None, None, :]
        amplitude = np.concatenate([theta[:, : count - 1], theta[:, -1:]], axis=1)
        total, share = _mix(amplitude[:, None] + slopes.sum(axis=-1))
        powers = np.einsum("bni,bnie->bne", share, np.broadcast_to(slopes, (*share.shape, slopes.shape[-1])))
        return total, np.concatenate([share[..., :-1], powers, share[..., -1:]], axis=-1)

    return value


def _mix(terms: Array) -> tuple[Array, Array]:
    """ln of the sum of exponentials over the last axis, and the share of each."""
    top = terms.max(axis=-1, keepdims=True)
    weights = np.exp(terms - top)
    total = weights.sum(axis=-1, keepdims=True)
    return (top + np.log(total))[..., 0], weights / total


def _starts(table: Array) -> Callable[[Array, Array], Array]:
    count, powers, _ = table.shape

    def starts(u: Array, v: Array) -> Array:
        middle = np.einsum("iej,j->ie", table[:-1], np.median(u, axis=0))
        found = []
        for slopes in product(SLOPES, repeat=powers):
            for share in SHARES:
                floor = np.log(share) + np.min(v)
                above = np.log(np.exp(np.median(v)) - np.exp(floor) + 1e-3) - np.log(count - 1)
                found.append((*(above - middle @ slopes), *np.log(slopes), floor))
        return np.array(found)

    return starts


def _natural(table: Array) -> Callable[[Array, Array, float], Array]:
    count = len(table)

    def natural(theta: Array, x0: Array, y0: float) -> Array:
        b = np.exp(theta[:, count - 1 : -1])
        scale = np.einsum("iej,be,j->bi", table[:-1], b, np.log(x0))
        return np.column_stack([y0 * np.exp(theta[:, : count - 1] - scale), b, y0 * np.exp(theta[:, -1])])

    return natural


# E = a F^-alpha + b n_eff^-beta + c,  n_eff = ((n + d)^-q + (k u F^h)^-q)^(-1/q), inputs F, n, u


def _repeating(theta: Array, u: Array) -> Value:
    a, b, c, d, k, h = (theta[:, i, None] for i in (0, 2, 4, 5, 6, 8))
    alpha, beta, q = (np.exp(theta[:, i, None]) for i in (1, 3, 7))
    size, images, unique = u[..., 0], u[..., 1], u[..., 2]
    seen = np.logaddexp(images, d)
    late = np.exp(images - seen)
    room = k + unique + h * size
    fresh = 1 / (1 + np.exp(np.clip(q * (seen - room), -500, 500)))
    enough = -np.logaddexp(-q * seen, -q * room) / q
    total, share = _mix(np.stack(np.broadcast_arrays(a - alpha * size, b - beta * enough, c), axis=-1))
    first, second, third = np.moveaxis(share, -1, 0)
    slope, taken = -beta * second, 1 - fresh
    sharp = slope * (fresh * seen + taken * room - enough)
    columns = (
        first, -first * alpha * size, second, slope * enough, third,
        slope * fresh * (1 - late), slope * taken, sharp, slope * taken * size,
    )  # fmt: skip
    return total, np.stack(columns, axis=-1)


def _repeating_starts(u: Array, v: Array) -> Array:
    middle, found = np.median(u, axis=0), []
    for alpha, beta in ((0.3, 0.5), (0.15, 0.3), (0.5, 0.3)):
        for share in SHARES:
            above = np.log(np.exp(np.median(v)) - share * np.exp(np.min(v)) + 1e-3) - np.log(2)
            found.append((
                above + alpha * middle[0], np.log(alpha), above + beta * middle[1], np.log(beta),
                np.log(share) + np.min(v), np.min(u[:, 1]) - 1, 2 + middle[1] - middle[2], 0.3, 0.0,
            ))  # fmt: skip
    return np.array(found)


def _repeating_natural(theta: Array, x0: Array, y0: float) -> Array:
    alpha, beta, h = np.exp(theta[:, 1]), np.exp(theta[:, 3]), theta[:, 8]
    flops, seen, unique = x0
    return np.stack([
        y0 * np.exp(theta[:, 0]) * flops**alpha, alpha, y0 * np.exp(theta[:, 2]) * seen**beta, beta,
        y0 * np.exp(theta[:, 4]), seen * np.exp(theta[:, 5]),
        seen * np.exp(theta[:, 6]) / unique * flops**-h, np.exp(theta[:, 7]), h,
    ], 1)  # fmt: skip


REPEATING = Form(
    "repeating", "a F^-alpha + b n_eff^-beta + c, n_eff = ((n + d)^-q + (k u F^h)^-q)^(-1/q)",
    ("a", "alpha", "b", "beta", "c", "d", "k", "q", "h"),
    (AMPLITUDE, EXPONENT, AMPLITUDE, EXPONENT, FLOOR, SCALE, (-8.0, 14.0), (-2.0, 2.5), (-2.0, 2.0)),
    _repeating, _repeating_starts, _repeating_natural, lambda natural: natural[:, 4], 3,
)  # fmt: skip

#: SoViT's law of one shape dimension x and compute t (arXiv 2305.13035):
#: alpha x^-a + (beta x^b + xi) t^-c + eps. Wider is better, until too little compute is left to train it.
DIMENSION = terms_of(
    "dimension", "alpha x^-a + (beta x^b + xi) t^-c + eps", ("alpha", "beta", "xi", "eps"), ("a", "b", "c"),
    np.array([
        [[-1, 0], [0, 0], [0, 0]],
        [[0, 0], [1, 0], [0, -1]],
        [[0, 0], [0, 0], [0, -1]],
        [[0, 0], [0, 0], [0, 0]],
    ], float),
)  # fmt: skip
