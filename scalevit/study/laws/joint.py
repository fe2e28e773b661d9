"""Laws of several inputs, fitted and forecast, with intervals from groups that were left out.

`fit_joint` reads the error of a run from its size, the images it saw and the unique ones among them;
`forecast_joint` takes any columns. Size is forward FLOPs of one image, not parameters: patches of 16 and 32
pixels share their weights. One group (a model, a data size) is left out at a time and predicted from the
rest; how far such predictions miss, inside the other groups' range and beyond it, is the interval's width.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from scalevit.study.design.table import columns_of
from scalevit.study.laws.fit import (
    bayesian_bootstrap,
    check_level,
    check_positive,
    multistart,
    robust_scale,
    student_quantile,
)
from scalevit.study.laws.forecast import FARTHEST, Forecast
from scalevit.study.laws.forms import Array, Form
from scalevit.study.laws.joint_forms import REPEATING, crossed, products, sums
from scalevit.study.laws.least_squares import Problem, levenberg_marquardt

if TYPE_CHECKING:
    from scalevit.study.laws.compute_optimal import ComputeOptimal

NAMES = ("model size", "images seen", "unique images")
#: Before any group lay outside the others: an e-fold beyond the data adds half of what a left-out group
#: inside misses by; worth so many groups whose points lie one e-fold outside.
COMMON_SHARE, COMMON_WEIGHT = 0.25, 3.0
FEWEST_GROUPS = 3
REPLICATES = 300
#: The first, simplest form is taken unless another one predicts left-out groups better by this factor.
SIMPLER = 1.02
#: Joint forms by name, of inputs' names.
JOINT_FORMS: dict[str, Callable[[tuple[str, ...]], Form]] = {
    "sum": sums, "crossed": crossed, "product": products, "repeating": lambda names: REPEATING,
}  # fmt: skip
#: An input with more values than this is cut into so many groups.
MOST_GROUPS = 8


@dataclass(frozen=True)
class ExpectedError:
    """Error as a fraction with its interval for a new run; `beyond` names what lies outside the data."""

    error: float
    low: float
    high: float
    beyond: tuple[str, ...]


@dataclass(frozen=True)
class JointUncertainty:
    """How far predictions miss, as standard deviations of ln y: `near` inside the data, and `slope` more for
    each e-fold outside (the inputs' e-folds added up). `groups` were left out to find it."""

    near: float
    slope: float
    groups: int
    lowest: Array
    highest: Array

    def outside(self, x: Array) -> Array:
        """e-folds beyond the data, input by input: x (n, k) -> (n, k)."""
        return np.maximum(0, np.maximum(np.log(self.lowest / x), np.log(x / self.highest)))

    def half(self, x: Array, level: float) -> Array:
        """Half width of the interval in ln y: x (n, k) -> (n,)."""
        far = self.outside(x).sum(axis=1)
        return student_quantile(self.groups, (1 + level) / 2) * np.hypot(self.near, self.slope * far)


@dataclass(frozen=True)
class JointLaw:
    """A fitted law of two or more inputs. `params` by name in natural units (`law` and `form.formula` say
    which); `spread`: robust scale of the log residuals; `left_out`: root mean square of log errors on groups
    left out of the fit; `agreeing` of `starts` starts reached this optimum; x (n, inputs) and y (n,) are the
    points; `chance` the largest y there can be."""

    law: str
    params: dict[str, float]
    floor: float
    spread: float
    left_out: float
    starts: int
    agreeing: int
    reach: JointUncertainty
    form: Form = field(repr=False)
    theta: Array = field(repr=False)
    x0: Array = field(repr=False)
    y0: float = field(repr=False)
    x: Array = field(repr=False)
    y: Array = field(repr=False)
    knee: float = field(repr=False)
    chance: float = 1.0

    @cached_property
    def replicates(self) -> Array:
        """theta (replicates, p) of the Bayesian bootstrap over runs; computed when first asked for."""
        u, v = np.log(self.x / self.x0)[None], np.log(self.y / self.y0)[None]
        return bayesian_bootstrap(self.form, u, v, np.ones(len(self.y)), self.theta, self.knee, REPLICATES, 0)

    def ranges(self, level: float = 0.9) -> dict[str, tuple[float, float]]:
        """Bootstrap interval of each parameter, natural units."""
        check_level(level)
        natural = self.form.natural(self.replicates, self.x0, self.y0)
        low, high = np.quantile(natural, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return {name: (float(a), float(b)) for name, a, b in zip(self.form.parameters, low, high)}

    def optimal(self, compute: ArrayLike, level: float = 0.9, flops_per: float = 6.0) -> ComputeOptimal:
        """The compute-optimal size N and data D with flops_per N D = compute, by this law: see
        `compute_optimal`."""
        from scalevit.study.laws.compute_optimal import optimal_allocation

        return optimal_allocation(self, compute, level, flops_per)

    def predict(self, flops: ArrayLike, seen: ArrayLike, unique: ArrayLike | None = None) -> Array:
        """Error (or loss), broadcast over the inputs; never above `chance`."""
        given = self._inputs(flops, seen, unique)
        x = np.stack(np.broadcast_arrays(*given), axis=-1)
        value = _values(self.form, self.theta, x.reshape(-1, len(given)) / self.x0)
        return np.asarray(np.minimum(self.chance, self.y0 * np.exp(value)).reshape(x.shape[:-1]))

    def error(self, flops: float, seen: float, unique: float | None = None) -> float:
        """Error of one run as a fraction."""
        return float(self.predict(flops, seen, unique))

    def expect(
        self, flops: float, seen: float, unique: float | None = None, level: float = 0.9
    ) -> ExpectedError:
        """Error with the interval for a new run, which widens with the distance from the data."""
        check_level(level)
        x = np.array([self._inputs(flops, seen, unique)], float)
        error, half = self.error(flops, seen, unique), min(FARTHEST, float(self.reach.half(x, level)[0]))
        outside = self.reach.outside(x)[0] > 1e-9
        beyond = tuple(name for name, far in zip(NAMES, outside) if far)
        return ExpectedError(error, error * math.exp(-half), min(self.chance, error * math.exp(half)), beyond)

    def _inputs(self, *given: ArrayLike | None) -> list[ArrayLike]:
        known = [one for one in given if one is not None]
        if len(known) != self.form.inputs:
            raise ValueError(
                f"this law was fitted {'with' if self.form.inputs == 3 else 'without'} unique images; "
                f"it takes {', '.join(NAMES[: self.form.inputs])}"
            )
        return known


def fit_joint(
    flops: ArrayLike | str, seen: ArrayLike | str, unique: ArrayLike | str | None = None,
    error: ArrayLike | str | None = None, groups: ArrayLike | None = None, *, form: str | None = None,
    chance: float | None = None, data: Any = None,
) -> JointLaw:  # fmt: skip
    """Fit the error or loss of runs jointly in model size, images (or tokens) seen, and unique ones.

    Size is forward FLOPs of one image, or parameters N. Forms by name: `sum` (Chinchilla's
    a_F F^-b_F + a_n n^-b_n + c), `crossed` (the sum, + g F^-b_F n^-b_n), `product`, and `repeating`

        E = a F^-alpha + b n_eff^-beta + c,     n_eff = ((n + d)^-q + (k u F^h)^-q)^(-1/q)

    which needs unique images: those seen beyond what u unique ones can teach stop to help, sooner for larger
    models (h < 0) or later (h > 0). `form` None takes `repeating` with unique images, else `sum`, or
    `crossed` where that predicts left-out groups better. With three arguments alone the third is the
    error: fit_joint(N, D, loss). `groups` labels each run, by size when None. `chance` is the largest y
    there can be; None: 1 where no y is above 1, else none, as for losses. Robust least squares in log
    error; runs with NaN are left out. With `data`, a DataFrame or a file, columns are given by name.
    ValueError for an unknown form, fewer than three groups, fewer runs than parameters, and values that
    have no logarithm.
    """
    flops, seen, unique, error = columns_of(data, flops, seen, unique, error)
    if error is None:
        unique, error = None, unique
    if error is None:
        raise ValueError("fit_joint takes model size, images seen, and the error (or loss) of runs")
    inputs = [flops, seen] if unique is None else [flops, seen, unique]
    x, y, labels = _rows(inputs, error, flops if groups is None else groups, chance or np.inf)
    masks = _masks([labels])
    forms = _forms(form, ("F", "n", "u")[: len(inputs)])
    fitted = [_member(one, x, y, masks) for one in forms if len(y) > len(one.parameters)]
    if not fitted:
        raise ValueError(
            f"{len(y)} runs cannot fix the {len(forms[0].parameters)} parameters of "
            f"{forms[0].formula}; measure more"
        )
    best = min(fitted, key=lambda member: member.left_out)
    best = fitted[0] if fitted[0].left_out < SIMPLER * best.left_out else best
    natural = best.form.natural(best.theta[None], best.x0, best.y0)
    return JointLaw(
        best.form.name, dict(zip(best.form.parameters, map(float, natural[0]))),
        float(best.form.floor(natural)[0]), robust_scale(best.residual, len(best.theta)), best.left_out,
        best.starts, best.agreeing, _reach(x, best.residual, best.misses, np.ones(1)),
        best.form, best.theta, best.x0, best.y0, x, y, best.knee,
        chance or (1.0 if y.max() <= 1 else np.inf),
    )  # fmt: skip


def _forms(form: str | None, names: tuple[str, ...]) -> list[Form]:
    """The form of a name, or those to choose from; ValueError names the nearest."""
    if form is None:
        return [REPEATING] if len(names) == 3 else [sums(names), crossed(names)]
    if form not in JOINT_FORMS:
        near = difflib.get_close_matches(form, JOINT_FORMS, n=2, cutoff=0.3) or list(JOINT_FORMS)
        raise ValueError(f"no joint form {form!r}; nearest: {', '.join(near)}; all: {', '.join(JOINT_FORMS)}")
    if form == "repeating" and len(names) != 3:
        raise ValueError("the form repeating needs three inputs: size, images seen, and unique images")
    return [JOINT_FORMS[form](names)]


def forecast_joint(
    x: ArrayLike, y: ArrayLike, x_new: ArrayLike, level: float = 0.9, *,
    groups: ArrayLike | None = None, chance: float = np.inf,
) -> Forecast:  # fmt: skip
    """Forecast y at `x_new` (m, k) from points x (n, k), k >= 2 inputs, y (n,), all positive.

    Sums, sums with a crossed term and products of powers are averaged in ln y; those that predict left-out
    groups better weigh more, by the likelihood of these. `groups` labels the points; None leaves out the
    values of each input in turn (eight stretches of it when it has more values). `chance` is the largest y
    possible. ValueError as for `fit_joint`, and for inputs of different width.
    """
    check_level(level)
    x, new = np.asarray(x, float), np.atleast_2d(np.asarray(x_new, float))
    if x.ndim != 2 or x.shape[1] < 2 or new.ndim != 2 or new.shape[1] != x.shape[1]:
        raise ValueError(f"x and x_new must be (points, inputs), inputs >= 2, not {x.shape} and {new.shape}")
    if not np.all(np.isfinite(new) & (new > 0)):
        raise ValueError("x_new must be positive and finite")
    x, y, labels = _rows(list(x.T), y, np.arange(len(x)) if groups is None else groups, chance)
    masks = _masks([stretches(column) for column in x.T] if groups is None else [labels])
    names = tuple(f"x{i + 1}" for i in range(x.shape[1]))
    forms = [form for form in (sums(names), crossed(names), products(names)) if len(y) > len(form.parameters)]
    if not forms:
        raise ValueError(f"{len(y)} points are too few for a law of {len(names)} inputs; measure more")
    members = [_member(form, x, y, masks) for form in forms]
    misses = [
        LeftOutGroup(np.stack([one.error[0] for one in same]), same[0].distance)
        for same in zip(*(member.misses for member in members))
    ]
    weights = _weights(members, len(masks))
    residual = weights @ np.stack([member.residual for member in members])
    reach = _reach(x, residual, misses, weights)
    mean = weights @ np.stack([_values(m.form, m.theta, new / m.x0) + np.log(m.y0) for m in members])
    half = reach.half(new, level)
    ends = (np.exp(np.clip(mean + sign * half, -FARTHEST, FARTHEST)) for sign in (-1, 0, 1))
    low, middle, high = (np.minimum(end, chance) for end in ends)
    shares = {member.form.name: float(weight) for member, weight in zip(members, weights)}
    return Forecast(new, middle, low, high, level, len(misses), shares, _warnings(names, reach, new))


@dataclass(frozen=True)
class LeftOutGroup:
    """A group predicted from the rest: errors in ln y by member (m, n), e-folds outside the rest (n,)."""

    error: Array
    distance: Array


@dataclass(frozen=True)
class _Member:
    """One form fitted to all points, and its misses on each group left out."""

    form: Form
    theta: Array
    starts: int
    agreeing: int
    residual: Array
    misses: list[LeftOutGroup]
    x0: Array
    y0: float
    knee: float

    @property
    def left_out(self) -> float:
        return float(np.sqrt(np.mean(np.concatenate([miss.error[0] for miss in self.misses]) ** 2)))


def _member(form: Form, x: Array, y: Array, masks: Sequence[Array]) -> _Member:
    x0, y0 = np.exp(np.log(x).mean(axis=0)), float(np.min(y))
    u, v = np.log(x / x0), np.log(y / y0)
    theta, agreeing, starts, knee = multistart(form, u[None], v[None], np.ones((1, len(v))))
    kept = 1.0 - np.stack(masks)
    again, _ = levenberg_marquardt(
        Problem(form, u[None], v[None], kept, np.full(len(masks), knee)),
        np.repeat(theta[None], len(masks), axis=0), 40, 1e-6,
    )  # fmt: skip
    misses = []
    for mask, row in zip(masks, again):
        rest = u[~mask]
        outside = np.maximum(0, np.maximum(rest.min(axis=0) - u[mask], u[mask] - rest.max(axis=0)))
        error = form.value(row[None], u[None, mask])[0] - v[mask]
        misses.append(LeftOutGroup(error, outside.sum(axis=1)))
    residual = form.value(theta[None], u[None])[0][0] - v
    return _Member(form, theta, starts, agreeing, residual, misses, x0, y0, knee)


def _weights(members: Sequence[_Member], groups: int) -> Array:
    """The likelihood of the left-out groups, each of them counted as one observation: (members,)."""
    squared = np.array([member.left_out**2 for member in members]) + 1e-18
    weights = (squared / squared.min()) ** (-groups / 2)
    return weights / weights.sum()


def _values(form: Form, theta: Array, scaled: Array) -> Array:
    return form.value(theta[None], np.log(scaled)[None])[0][0]


def _reach(x: Array, residual: Array, misses: Sequence[LeftOutGroup], weights: Array) -> JointUncertainty:
    """What groups inside the others' range miss by, and the slope: what points outside miss by beyond it, by
    least squares of the squared errors against the squared distance, a group each, so that a point close to
    the edge says little. By luck some miss by less: they count as well, else luck the other way would be
    taken for distance."""
    errors = [(weights @ miss.error, miss.distance) for miss in misses]
    inside = np.concatenate([error[distance <= 1e-9] for error, distance in errors])
    near = max(float(np.mean(residual**2)), float(np.mean(inside**2)) if len(inside) else 0.0)
    outside = [(error[far], distance[far]) for error, distance in errors if np.any(far := distance > 1e-9)]
    excess = sum(float(np.mean(error**2)) - near for error, _ in outside)
    reach = sum(float(np.mean(distance**2)) for _, distance in outside)
    slope = max(0.0, COMMON_SHARE * COMMON_WEIGHT * near + excess) / (COMMON_WEIGHT + reach)
    return JointUncertainty(
        float(np.sqrt(near)), float(np.sqrt(slope)), len(misses), x.min(axis=0), x.max(axis=0)
    )


def _rows(
    inputs: Sequence[ArrayLike], y: ArrayLike, groups: ArrayLike, chance: float
) -> tuple[Array, Array, Array]:
    """x (n, k), y (n,) and labels (n,) without rows that hold NaN."""
    columns, y = [np.asarray(column, float) for column in inputs], np.asarray(y, float)
    labels = np.asarray(groups)
    for name, column in (*((f"input {i + 1}", c) for i, c in enumerate(columns)), ("groups", labels)):
        if y.ndim != 1 or column.shape != y.shape:
            raise ValueError(f"{name} and y must be 1-d and equally long, not {column.shape} and {y.shape}")
    x = np.stack(columns, axis=1)
    known = ~(np.isnan(x).any(axis=1) | np.isnan(y))
    x, y = x[known], y[known]
    check_positive(x.min(axis=1, initial=np.inf), y, chance)
    if not np.all(np.isfinite(x)):
        raise ValueError("inputs must be finite; laws need logs")
    return x, y, labels[known]


def _masks(labelings: Sequence[Array]) -> list[Array]:
    """Who is left out together: one mask (n,) for each label of each labelling."""
    masks = [labels == one for labels in labelings for one in dict.fromkeys(labels.tolist())]
    masks = [mask for mask in masks if not mask.all()]
    if len(masks) < FEWEST_GROUPS:
        raise ValueError(f"{len(masks)} groups: an interval needs {FEWEST_GROUPS} models or sizes at least")
    return masks


def stretches(column: Array) -> Array:
    """Its values, or as many stretches of about equally many points when it has more."""
    values, index = np.unique(column, return_inverse=True)
    if len(values) <= MOST_GROUPS:
        return index
    return np.searchsorted(np.quantile(column, np.linspace(0, 1, MOST_GROUPS + 1)[1:-1]), column)


def _warnings(names: tuple[str, ...], reach: JointUncertainty, new: Array) -> tuple[str, ...]:
    far = reach.outside(new).max(axis=0, initial=0.0)
    length = np.log(reach.highest / reach.lowest)
    found = [
        f"{name} lies outside the data by a factor of {np.exp(out):.3g}"
        for name, out in zip(names, far) if out > 1e-9
    ]  # fmt: skip
    if np.any(far > length):
        found.append("a forecast lies farther out than the data are long")
    return tuple(found)
