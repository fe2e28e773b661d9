"""SoViT's law of one dimension of a shape: how wide, how deep, how large an MLP at which compute.

Runs that differ in one dimension x only, trained for different compute t, end with the error

    f(x, t) = alpha x^-a + (beta x^b + xi) t^-c + eps

so at compute t the best is x*(t) = (alpha a t^c / (beta b))^(1 / (a + b)), which grows with t to the power
s = c / (a + b) (arXiv 2305.13035).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from scalevit.study.laws.fit import bayesian_bootstrap, check_level, check_positive, multistart, robust_scale
from scalevit.study.laws.forms import Array
from scalevit.study.laws.joint_forms import DIMENSION


@dataclass(frozen=True)
class DimensionLaw:
    """`params` by name in natural units; `spread`: robust scale of the log residuals; `agreeing` of `starts`
    starts reached this optimum; `replicates` (r, p) are bootstrap draws of theta."""

    params: dict[str, float]
    spread: float
    starts: int
    agreeing: int
    lowest: Array
    highest: Array
    warnings: tuple[str, ...]
    theta: Array = field(repr=False)
    replicates: Array = field(repr=False)
    x0: Array = field(repr=False)
    y0: float = field(repr=False)

    @property
    def exponent(self) -> float:
        """s in x* ~ t^s."""
        return self.params["c"] / (self.params["a"] + self.params["b"])

    def exponent_range(self, level: float = 0.9) -> tuple[float, float]:
        """Bootstrap interval of `exponent`."""
        check_level(level)
        natural = DIMENSION.natural(self.replicates, self.x0, self.y0)
        a, b, c = natural[:, 3:6].T
        low, high = np.quantile(c / (a + b), [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def predict(self, x: ArrayLike, t: ArrayLike) -> Array:
        """Error of dimension x at compute t, broadcast."""
        x, t = np.broadcast_arrays(np.asarray(x, float), np.asarray(t, float))
        u = np.log(np.stack([x.ravel(), t.ravel()], axis=1) / self.x0)
        return (self.y0 * np.exp(DIMENSION.value(self.theta[None], u[None])[0][0])).reshape(x.shape)

    def optimum(self, t: ArrayLike) -> Array:
        """The best x at compute t."""
        p = self.params
        ratio = p["alpha"] * p["a"] / (p["beta"] * p["b"])
        return np.asarray((ratio * np.asarray(t, float) ** p["c"]) ** (1 / (p["a"] + p["b"])))


def fit_dimension(
    x: ArrayLike, t: ArrayLike, y: ArrayLike, *, bootstrap: int = 300, seed: int = 0
) -> DimensionLaw:
    """Fit error y of runs with dimension x and compute t, all 1-d and positive; rows with NaN are left out.

    Robust least squares in log error, which is relative error for small ones. ValueError for fewer than eight
    runs, three values of x or two of t: the law has seven parameters.
    """
    u, v, x0, y0, warnings = _scaled(x, t, y)
    weights = np.ones(len(v))
    theta, agreeing, starts, knee = multistart(DIMENSION, u[None], v[None], weights[None])
    replicates = bayesian_bootstrap(DIMENSION, u[None], v[None], weights, theta, knee, bootstrap, seed)
    residual = DIMENSION.value(theta[None], u[None])[0][0] - v
    natural = DIMENSION.natural(theta[None], x0, y0)[0]
    return DimensionLaw(
        dict(zip(DIMENSION.parameters, map(float, natural))), robust_scale(residual, len(theta)), starts,
        agreeing, np.exp(u.min(axis=0)) * x0, np.exp(u.max(axis=0)) * x0, warnings, theta, replicates, x0, y0,
    )  # fmt: skip


def _scaled(x: ArrayLike, t: ArrayLike, y: ArrayLike) -> tuple[Array, Array, Array, float, tuple[str, ...]]:
    """ln of (x, t) and of y about their middle and smallest, these scales, and what makes the fit weak."""
    columns = [np.asarray(one, float) for one in (x, t, y)]
    if columns[0].ndim != 1 or len({one.shape for one in columns}) != 1:
        shapes = ", ".join(str(one.shape) for one in columns)
        raise ValueError(f"x, t and y must be 1-d and equally long, not {shapes}")
    known = ~np.isnan(np.stack(columns)).any(axis=0)
    x, t, y = (one[known] for one in columns)
    check_positive(x, y, np.inf)
    check_positive(t, y, np.inf)
    sizes, computes = len(np.unique(x)), len(np.unique(t))
    if len(y) <= len(DIMENSION.parameters) or sizes < 3 or computes < 2:
        raise ValueError(
            f"{len(y)} runs of {sizes} sizes at {computes} computes: this law needs more than "
            f"{len(DIMENSION.parameters)} runs, three sizes and two computes"
        )
    best = [x[t == one][np.argmin(y[t == one])] for one in np.unique(t)]
    inside = any(x[t == one].min() < at < x[t == one].max() for one, at in zip(np.unique(t), best))
    warnings = () if inside else ("no compute has its best x inside the sweep: the optimum is extrapolated",)
    inputs = np.stack([x, t], axis=1)
    x0, y0 = np.exp(np.log(inputs).mean(axis=0)), float(y.min())
    return np.log(inputs / x0), np.log(y / y0), x0, y0, warnings
