"""Fit one law to one curve: robust least squares in log error, many deterministic starts, bootstrap.

Errors are fractions in the paper's laws and its way of fitting is not described; least squares of log
residuals on the strict Pareto points gives its coefficients back (arXiv 2106.04560, section 2.2, figures 2
and 9).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scalevit.study.design.table import columns_of
from scalevit.study.laws.forms import FORMS, RISING, Array, Form
from scalevit.study.laws.least_squares import Problem, levenberg_marquardt

#: Two starts agree when their losses differ by less than this share.
AGREE = 1e-3
HUBER = 1.345
#: Of twice as many points or more, neighbours are averaged before all starts and replicates are tried.
MOST_POINTS = 800
#: Of x and y: ratios of larger ones leave what a float can hold.
LARGEST = 1e100
EXACT = 1e-9


@dataclass(frozen=True)
class Fit:
    """A fitted law. `params` in natural units; `floor` is y at infinite x; `starts` were tried and `agreeing`
    of them reached the same loss; `spread` is the robust scale of the log residuals; `warnings` say what
    makes the fit weak. `replicates` (r, p) are bootstrap draws of theta."""

    law: str
    params: dict[str, float]
    floor: float
    starts: int
    agreeing: int
    spread: float
    x: Array
    y: Array
    weights: Array = field(repr=False)
    knee: float
    warnings: tuple[str, ...]
    chance: float
    x0: float
    y0: float
    theta: Array = field(repr=False)
    replicates: Array = field(repr=False)

    @property
    def form(self) -> Form:
        return FORMS[self.law]

    @property
    def residuals(self) -> Array:
        """ln y - ln prediction, point by point."""
        return np.log(self.y) - np.log(self.predict(self.x))

    def predict(self, x: ArrayLike) -> Array:
        """y at x, any shape; never above `chance`."""
        return self._curves(self.theta[None], x)[0]

    def interval(self, x: ArrayLike, level: float = 0.9) -> tuple[Array, Array]:
        """Where the law itself lies, from the bootstrap. A new measurement scatters more: see `forecast`."""
        check_level(level)
        curves = self._curves(self.replicates, x)
        low, high = np.quantile(curves, [(1 - level) / 2, (1 + level) / 2], axis=0)
        middle = self.predict(x)
        return np.minimum(low, middle), np.maximum(high, middle)

    def band(self, x: ArrayLike, level: float = 0.9) -> tuple[Array, Array]:
        """Where the whole law lies over these x at once: wider than `interval`, which is for each x alone."""
        check_level(level)
        middle = np.log(self.predict(x))
        curves = np.log(self._curves(self.replicates, x))
        spread = np.maximum(np.std(curves, axis=0), 1e-12)
        reach = np.quantile(np.max(np.abs(curves - middle) / spread, axis=-1), level)
        return np.exp(middle - reach * spread), np.minimum(np.exp(middle + reach * spread), self.chance)

    def profile(self, name: str, steps: ArrayLike) -> tuple[Array, Array]:
        """Profile likelihood of an exponent, floor or shift: (values, twice the log likelihood lost), with
        all other parameters fitted again at each of `steps` away from the best, in theta. Below 2.71 lies
        the 90 % interval if residuals are independent."""
        if name not in self.form.parameters[1:]:
            raise ValueError(f"no profile of {name!r}; {self.law} has {', '.join(self.form.parameters[1:])}")
        column = self.form.parameters.index(name)
        start = np.repeat(self.theta[None], np.size(steps), axis=0)
        start[:, column] += np.ravel(np.asarray(steps, float))
        u, v = np.log(self.x / self.x0)[None], np.log(self.y / self.y0)[None]
        problem = Problem(self.form, u, v, self.weights[None], np.array([self.knee]))
        theta, loss = levenberg_marquardt(problem, start, held=np.arange(len(self.theta)) == column)
        lost = 2 * (loss - problem.loss(self.theta[None])[0]) / max(self.spread, EXACT) ** 2
        return self.form.natural(theta, self.x0, self.y0)[:, column], lost

    def correlation(self) -> Array:
        """Of the parameters (in theta), over the bootstrap: (p, p); 0 where a bound holds one of them."""
        away = self.replicates - self.replicates.mean(axis=0)
        spread = np.sqrt(np.mean(away**2, axis=0))
        away = away / np.where(spread > EXACT, spread, np.inf)
        return np.where(np.eye(len(spread)), 1.0, away.T @ away / max(1, len(away)))

    def residuals_by(self, labels: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Mean and root mean square of the log residuals of each label (a model, a data size). Labels follow
        the points as they are in `x`."""
        if len(labels) != len(self.x):
            raise ValueError(f"{len(labels)} labels for {len(self.x)} points")
        groups = {label: self.residuals[np.array(labels) == label] for label in dict.fromkeys(labels)}
        return {label: (float(r.mean()), float(np.sqrt(np.mean(r**2)))) for label, r in groups.items()}

    def ranges(self, level: float = 0.9) -> dict[str, tuple[float, float]]:
        """Bootstrap interval of each parameter, natural units; NaN where y does not change (there is no law)
        and where there are no more x than parameters (the law goes through every point)."""
        through_all = len(np.unique(self.x)) <= len(self.theta)
        u, v = np.log(self.x), np.log(self.y)
        changes = declines(u, v) or (self.law in RISING and declines(u, -v))
        if through_all or not changes:
            return dict.fromkeys(self.form.parameters, (np.nan, np.nan))
        natural = self.form.natural(self.replicates, self.x0, self.y0)
        low, high = np.quantile(natural, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return {name: (float(a), float(b)) for name, a, b in zip(self.form.parameters, low, high)}

    def _curves(self, theta: Array, x: ArrayLike) -> Array:
        x = np.asarray(x, float)
        if np.any(~(x > 0)):
            raise ValueError("x must be positive and finite to predict at")
        value = self.form.value(theta, np.log(x.ravel()) - np.log(self.x0))[0]
        return np.minimum(self.y0 * np.exp(value), self.chance).reshape(len(theta), *x.shape)


def fit(
    x: ArrayLike | str, y: ArrayLike | str, law: str = "saturating", *,
    weights: ArrayLike | str | None = None, chance: float = np.inf, bootstrap: int = 1000, seed: int = 0,
    data: Any = None,
) -> Fit:  # fmt: skip
    """Fit `law` to y(x), both positive and 1-d. `chance` is the largest y possible: an error's chance level.
    With `data`, a DataFrame or a file, x, y and weights are names of its columns.

    Raises ValueError for an unknown law, for values that have no logarithm, and for fewer different x than
    the law has parameters.
    """
    x, y, weights = columns_of(data, x, y, weights)
    form = form_named(law)
    u_x, v_y, w = sorted_points(x, y, weights)
    warnings = _check(form, u_x, v_y, chance)
    x0, y0 = float(np.max(u_x)), float(np.min(v_y))
    u, v = np.log(u_x / x0)[None], np.log(v_y / y0)[None]
    short_u, short_v, short_w = (part[None] for part in average_neighbours(u[0], v[0], w, MOST_POINTS))
    theta, agreeing, starts, knee = multistart(form, short_u, short_v, short_w)
    replicates = bayesian_bootstrap(form, short_u, short_v, short_w[0], theta, knee, bootstrap, seed)
    if short_u.shape != u.shape:
        knee = HUBER * max(robust_scale(form.value(theta[None], u)[0][0] - v[0], len(theta)), EXACT)
        theta = levenberg_marquardt(Problem(form, u, v, w[None], np.array([knee])), theta[None])[0][0]
    natural = form.natural(theta[None], x0, y0)
    if agreeing < 2:
        warnings = (*warnings, f"only {agreeing} of {starts} starts reached this optimum")
    residual = form.value(theta[None], u)[0][0] - v[0]
    return Fit(
        law, dict(zip(form.parameters, map(float, natural[0]))), float(form.floor(natural)[0]), starts,
        agreeing,
        robust_scale(residual, len(theta)), u_x, v_y, w, knee, warnings, chance, x0, y0, theta, replicates,
    )  # fmt: skip


def form_named(law: str) -> Form:
    """The form of a name; ValueError names the nearest."""
    if law not in FORMS:
        near = difflib.get_close_matches(law, FORMS, n=2, cutoff=0.3) or list(FORMS)
        raise ValueError(f"no law {law!r}; nearest: {', '.join(near)}; all: {', '.join(FORMS)}")
    return FORMS[law]


def sorted_points(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array, Array]:
    """Rows sorted by (x, y), so that the order in which they come cannot matter; NaN rows are left out."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"x and y must be 1-d and equally long, not {x.shape} and {y.shape}")
    w = np.ones_like(x) if weights is None else np.asarray(weights, float)
    if w.shape != x.shape or np.any(~(w >= 0)) or (len(w) and not np.any(w > 0)):
        raise ValueError("weights must be one number >= 0 a point, and not all zero")
    kept = ~(np.isnan(x) | np.isnan(y))
    x, y, w = x[kept], y[kept], w[kept]
    order = np.lexsort((w, y, x))
    return x[order], y[order], w[order]


def average_neighbours(u: Array, v: Array, w: Array, most: int) -> tuple[Array, Array, Array]:
    """Runs of equally many neighbours averaged where there are twice `most` points or more, with the sums
    of their weights: as much is known of the law, in less time."""
    size = len(u) // most
    if size < 2:
        return u, v, w
    begin = np.arange(len(u) % size, len(u), size)
    total = np.add.reduceat(w, begin)
    some = total > 0
    u, v = (np.add.reduceat(w * part, begin)[some] / total[some] for part in (u, v))
    return u, v, total[some]


def check_positive(x: Array, y: Array, chance: float) -> None:
    """ValueError for what has no logarithm, and for errors above their largest possible value."""
    good = (x > 0) & (y > 0) & np.isfinite(x) & np.isfinite(y)
    if not len(x):
        raise ValueError("no points: every row lacks x or y")
    if not np.all(good):
        first = int(np.argmin(good))
        raise ValueError(
            f"{np.sum(~good)} points have x or y that is zero, negative or infinite, first x = {x[first]:g}, "
            f"y = {y[first]:g}; laws need logs"
        )
    for name, one in (("x", x), ("y", y)):
        if one.min() < 1 / LARGEST or one.max() > LARGEST:
            raise ValueError(
                f"{name} runs from {one.min():g} to {one.max():g}; beyond {LARGEST:g} or below its inverse "
                f"take other units"
            )
    if np.any(y > chance):
        raise ValueError(
            f"y reaches {y.max():g}, above its largest possible value {chance:g}; is it in per cent?"
        )


def declines(u: Array, v: Array) -> bool:
    """Whether v falls with u by more than two standard errors of its slope."""
    if len(u) < 3:
        return bool(np.polyfit(u, v, 1)[0] < 0)
    (slope, offset), away = np.polyfit(u, v, 1), u - u.mean()
    error = np.sqrt(np.sum((v - offset - slope * u) ** 2) / (len(u) - 2) / np.sum(away**2))
    return bool(slope < -max(2 * error, EXACT))


def _check(form: Form, x: Array, y: Array, chance: float) -> tuple[str, ...]:
    check_positive(x, y, chance)
    different = len(np.unique(x))
    if different < len(form.parameters):
        raise ValueError(
            f"{different} different x cannot fix the {len(form.parameters)} parameters of {form.name}; "
            f"measure more sizes or fit a smaller law"
        )
    _check_direction(form, np.log(x), np.log(y))
    found = []
    if different < len(form.parameters) + 2:
        found.append(
            f"{different} different x for {len(form.parameters)} parameters: the interval is a guess"
        )
    u, v = np.log(x), np.log(y)
    if form.name in RISING and not declines(u, v) and not declines(u, -v):
        found.append("y neither rises nor falls with x beyond its scatter: no exponent can be read from this")
    elif form.name not in RISING and not declines(u, v):
        found.append("y does not fall with x beyond its scatter: no law of decline can be read from this")
    return tuple(found)


def _check_direction(form: Form, u: Array, v: Array) -> None:
    """ValueError where y clearly rises and the form can only fall, or the reverse."""
    if form.name not in RISING and declines(u, -v):
        raise ValueError(
            f"y rises with x, and {form.name} = {form.formula} can only fall: fit power or ceiling, "
            "or, where y is an accuracy, give 1 - y (--accuracy)"
        )
    if form.name == "ceiling" and declines(u, v):
        raise ValueError("y falls with x, and ceiling can only rise: fit power, M2 or saturating")


def multistart(form: Form, u: Array, v: Array, w: Array) -> tuple[Array, int, int, float]:
    """Least squares from all starts, then Huber's loss with a knee from the residuals' own scale: the best
    theta (p,), how many starts agree, how many there were, and the knee. u, v and w are a batch of one."""
    start = form.starts(u[0], v[0])
    theta, loss = levenberg_marquardt(Problem(form, u, v, w, np.array([np.inf])), start)
    best = theta[np.argmin(loss)]
    knee = HUBER * max(robust_scale(form.value(best[None], u)[0][0] - v[0], len(best)), EXACT)
    theta, loss = levenberg_marquardt(
        Problem(form, u, v, w, np.array([knee])), np.vstack([theta, best[None]])
    )
    agreeing = int(np.sum(loss[:-1] <= loss.min() * (1 + AGREE) + 1e-18))
    return theta[np.argmin(loss)], agreeing, len(start), knee


def robust_scale(residual: Array, parameters: int) -> float:
    """Median absolute residual as a standard deviation, corrected for the parameters spent."""
    free = max(1, len(residual) - parameters)
    return float(np.median(np.abs(residual)) * 1.4826 * np.sqrt(len(residual) / free))


def bayesian_bootstrap(
    form: Form, u: Array, v: Array, w: Array, theta: Array, knee: float, replicates: int, seed: int
) -> Array:
    """theta (replicates, p) by Rubin's bootstrap: exponential weights instead of drawn points, so that no
    replicate is degenerate; widened by the degrees of freedom that the parameters took."""
    random = np.random.default_rng(seed)
    drawn = random.exponential(size=(replicates, u.shape[1])) * w
    start = np.broadcast_to(theta, (replicates, len(theta)))
    found = levenberg_marquardt(Problem(form, u, v, drawn, np.array([knee])), start, 25, 1e-6)[0]
    lost = np.sqrt(len(w) / max(1, len(w) - len(theta)))
    return np.clip(theta + (found - theta) * lost, form.low, form.high)


def check_level(level: float) -> None:
    """ValueError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level:g}")


def student_quantile(degrees: float, share: float) -> float:
    """The quantile `share` of Student's t distribution with `degrees` of freedom."""
    from scipy.special import stdtrit  # imported when first needed: it takes a tenth of a second and more

    return float(stdtrit(degrees, share))
