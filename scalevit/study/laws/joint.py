"""Laws of several inputs, fitted and forecast, with intervals from groups that were left out.

`fit_joint` reads the error of a run from its size, the images it saw and the unique ones among them;
`forecast_joint` takes any columns. Size is forward FLOPs of one image, not parameters: patches of 16 and 32
pixels share their weights. One group (a model, a data size) is left out at a time and predicted from the
rest; how far such predictions miss, inside the other groups' range and beyond it, is the interval's width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from scalevit.study.laws.fit import check_level, check_positive, multistart, robust_scale, student_quantile
from scalevit.study.laws.forecast import FARTHEST, Forecast
from scalevit.study.laws.forms import Array, Form
from scalevit.study.laws.joint_forms import REPEATING, crossed, products, sums
from scalevit.study.laws.least_squares import Problem, levenberg_marquardt

NAMES = ("model size", "images seen", "unique images")
#: Before any group lay outside the others: an e-fold beyond the data adds half of what a left-out group
#: inside misses by; worth so many groups.
COMMON_SHARE, COMMON_WEIGHT = 0.25, 3.0
FEWEST_GROUPS = 3
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
    """A fitted law of two or three inputs. `params` by name in natural units (`law` and `form.formula` say
    which); `spread`: robust scale of the log residuals; `left_out`: root mean square of log errors on groups
    left out of the fit; `agreeing` of `starts` starts reached this optimum."""

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

    def predict(self, flops: ArrayLike, seen: ArrayLike, unique: ArrayLike | None = None) -> Array:
        """Error as a fraction, broadcast over the inputs; never above 1."""
        given = self._inputs(flops, seen, unique)
        x = np.stack(np.broadcast_arrays(*given), axis=-1)
        value = _values(self.form, self.theta, x.reshape(-1, len(given)) / self.x0)
        return np.asarray(np.minimum(1.0, self.y0 * np.exp(value)).reshape(x.shape[:-1]))

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
        return ExpectedError(error, error * math.exp(-half), min(1.0, error * math.exp(half)), beyond)

    def _inputs(self, *given: ArrayLike | None) -> list[ArrayLike]:
        known = [one for one in given if one is not None]
        if len(known) != self.form.inputs:
            raise ValueError(
                f"this law was fitted {'with' if self.form.inputs == 3 else 'without'} unique images; "
                f"it takes {', '.join(NAMES[: self.form.inputs])}"
            )
        return known


def fit_joint(
    flops: ArrayLike, seen: ArrayLike, unique: ArrayLike | None, error: ArrayLike,
    groups: ArrayLike | None = None,
) -> JointLaw:  # fmt: skip
    """Fit the error of runs jointly in forward FLOPs of one image, images seen, and unique images.

    With unique images, the law is

        E = a F^-alpha + b n_eff^-beta + c,     n_eff = ((n + d)^-q + (k u F^h)^-q)^(-1/q)

    where images seen beyond what u unique ones can teach stop to help, sooner for larger models (h < 0) or
    later (h > 0). With `unique` None it is a_F F^-b_F + a_n n^-b_n + c, and a term g F^-b_F n^-b_n where that
    predicts left-out groups better. `groups` labels each run, by size when None. Robust least squares in log
    error; runs with NaN are left out. ValueError for fewer than three groups, fewer runs than parameters, and
    errors that are not fractions above 0.
    """
    inputs = [flops, seen] if unique is None else [flops, seen, unique]
    x, y, labels = _rows(inputs, error, flops if groups is None else groups, chance=1.0)
    masks = _masks([labels])
    names = ("F", "n")
    forms = [REPEATING] if unique is not None else [sums(names), crossed(names)]
    found = [_member(form, x, y, masks) for form in forms if len(y) > len(form.parameters)]
    if not found:
        raise ValueError(
            f"{len(y)} runs cannot fix the {len(forms[0].parameters)} parameters of "
            f"{forms[0].formula}; measure more"
        )
    best = min(found, key=lambda member: member.left_out)
    natural = best.form.natural(best.theta[None], best.x0, best.y0)
    return JointLaw(
        best.form.name, dict(zip(best.form.parameters, map(float, natural[0]))),
        float(best.form.floor(natural)[0]), robust_scale(best.residual, len(best.theta)), best.left_out,
        best.starts, best.agreeing, _reach(x, best.residual, best.misses, np.ones(1)),
        best.form, best.theta, best.x0, best.y0,
    )  # fmt: skip


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
    masks = _masks([_stretches(column) for column in x.T] if groups is None else [labels])
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
    return _Member(form, theta, starts, agreeing, residual, misses, x0, y0)


def _weights(members: Sequence[_Member], groups: int) -> Array:
    """The likelihood of the left-out groups, each of them counted as one observation: (members,)."""
    squared = np.array([member.left_out**2 for member in members]) + 1e-18
    weights = (squared / squared.min()) ** (-groups / 2)
    return weights / weights.sum()


def _values(form: Form, theta: Array, scaled: Array) -> Array:
    return form.value(theta[None], np.log(scaled)[None])[0][0]


def _reach(x: Array, residual: Array, misses: Sequence[LeftOutGroup], weights: Array) -> JointUncertainty:
    """What groups inside the others' range miss by; what those outside miss by beyond it, a group each. By
    luck some miss by less: they count as well, else luck the other way would be taken for distance."""
    errors = [(weights @ miss.error, miss.distance) for miss in misses]
    inside = np.concatenate([error[distance <= 1e-9] for error, distance in errors])
    near = max(float(np.mean(residual**2)), float(np.mean(inside**2)) if len(inside) else 0.0)
    far = [
        float(np.sum(error**2) - near * len(error)) / float(np.sum(distance**2))
        for error, distance in errors if distance.max() > 1e-9
    ]  # fmt: skip
    slope = max(0.0, COMMON_SHARE * COMMON_WEIGHT * near + sum(far)) / (COMMON_WEIGHT + len(far))
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


def _stretches(column: Array) -> Array:
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
