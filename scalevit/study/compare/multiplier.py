"""Compute multiplier of recipe B over recipe A: how much compute A needs for the error that B reaches.

Each arm gets the laws M1, M2 and the saturating one (`laws/forms.py`), weighted by how well they describe
both arms (Akaike weights of the corrected criterion, Burnham and Anderson 2002, section 6.4). Intervals come
from Bayesian bootstrap replicates (Rubin 1981) of all forms in proportion to these weights, widened for the
parameters spent. Nodes that differ in the recipe alone get the same bootstrap weight in both arms, so that
luck that they share cancels.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scalevit.study.compare.arm import Arm
from scalevit.study.laws.fit import student_quantile
from scalevit.study.laws.forms import FORMS, Array, Form
from scalevit.study.laws.least_squares import Problem, levenberg_marquardt

CANDIDATES = ("M1", "M2", "saturating")
REPLICATES = 600
#: Error levels at which the multiplier is tabulated, from the larger error to the smaller one.
LEVELS = 25
#: ln compute below the largest node and above it within which a law is inverted.
BELOW, ABOVE, STEPS = 16.0, 8.0, 1600
NORMAL_90 = 1.6448536
#: Largest ln of a constant multiplier that the test looks for.
WIDEST_SHIFT = 3.0


@dataclass(frozen=True)
class _Law:
    """One form fitted to both arms. theta: (p,) of each arm. loss: residual sum of squares of ln error, both
    arms. replicates: (r, p) of each arm."""

    form: Form
    theta: tuple[Array, Array]
    loss: float
    replicates: tuple[Array, Array]
    weight: float


@dataclass(frozen=True)
class Multiplier:
    """The compute multiplier of arm B over arm A, at every error that both arms reach.

    errors: (n,), falling. worth: (n,), compute of A over compute of B at the same error: above 1 B is the
    cheaper one. low, high: the interval of each error alone at `level`. band_low, band_high: of the whole
    curve at once. p_value: of the hypothesis that one law describes both arms (F test over residuals of ln
    error). formula: the form with the largest weight."""

    a: Arm
    b: Arm
    level: float
    errors: Array
    worth: Array
    low: Array
    high: Array
    band_low: Array
    band_high: Array
    p_value: float
    formula: str
    laws: tuple[_Law, ...]
    x0: float
    y0: float

    @cached_property
    def compute(self) -> tuple[Array, Array]:
        """Compute at which arm A and arm B reach each of `errors`."""
        return self._compute(0), self._compute(1)

    def _compute(self, which: int) -> Array:
        level = np.log(self.errors / self.y0)
        return self.x0 * np.exp(
            _mean(self.laws, lambda law: _inverse(law.form, law.theta[which][None], level)[0])
        )

    def curve(self, which: int, x: Array) -> Array:
        """Error of arm A (0) or arm B (1) at compute x, geometric mean over the forms."""
        u = np.log(np.asarray(x, float) / self.x0)
        return self.y0 * np.exp(
            _mean(self.laws, lambda law: law.form.value(law.theta[which][None], u[None])[0][0])
        )

    def draws(self, errors: Array) -> Array:
        """ln worth of all replicates (r, n) at these errors; NaN where a replicate never reaches one."""
        level = np.log(np.asarray(errors, float) / self.y0)
        return np.concatenate([_difference(law, law.replicates, level) for law in self.laws])

    def at(self, error: float) -> tuple[float, float, float]:
        """(worth, low, high) at one error between the smallest and the largest of `errors`.

        Raises ValueError outside of them: there one of the arms was not measured."""
        largest, smallest = float(self.errors[0]), float(self.errors[-1])
        if not smallest * (1 - 1e-9) <= error <= largest * (1 + 1e-9):
            raise ValueError(
                f"both arms reach errors from {smallest:.4g} to {largest:.4g}; {error:.4g} lies outside"
            )
        at = np.log(error)
        grid = np.log(self.errors)[::-1]
        worth, low, high = (
            float(np.exp(np.interp(at, grid, np.log(values)[::-1])))
            for values in (self.worth, self.low, self.high)
        )
        return worth, low, high


def multiplier(a: Arm, b: Arm, level: float = 0.9, seed: int = 0) -> Multiplier:
    """Compare two arms on the frontier of each.

    Raises ValueError when an arm is too small for a law, or when no error is reached by both."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level:g}")
    front_a, front_b = a.frontier(), b.frontier()
    x0 = float(max(front_a.compute[-1], front_b.compute[-1]))
    y0 = float(min(front_a.error.min(), front_b.error.min()))
    draws = _bootstrap_weights(front_a, front_b, seed)
    laws = _weighed([_fitted(FORMS[name], (front_a, front_b), x0, y0, draws) for name in CANDIDATES], draws)
    errors = _common_errors(front_a, front_b, laws, x0, y0)
    best = max(laws, key=lambda law: law.weight)
    middle = _mean(
        laws, lambda law: _difference(law, tuple(t[None] for t in law.theta), np.log(errors / y0))[0]
    )
    replicates = np.concatenate([_difference(law, law.replicates, np.log(errors / y0)) for law in laws])
    low, high, band = _intervals(middle, replicates, level)
    return Multiplier(
        a, b, level, errors, np.exp(middle),
        np.exp(np.minimum(low, middle)), np.exp(np.maximum(high, middle)),
        np.exp(middle - band), np.exp(middle + band), _p_value(best, front_a, front_b, x0, y0),
        best.form.formula, laws, x0, y0,
    )  # fmt: skip


# --------------------------------------------------------------------------- laws of both arms


def _bootstrap_weights(a: Arm, b: Arm, seed: int) -> tuple[Array, Array]:
    """Exponential weights (replicates, nodes) of each arm; nodes of one key share theirs."""
    generator = np.random.default_rng(seed)
    keys: list[Hashable] = list(dict.fromkeys([*a.keys, *b.keys]))
    drawn = dict(zip(keys, generator.exponential(size=(len(keys), REPLICATES))))
    of_a, of_b = (np.stack([drawn[key] for key in arm.keys], axis=1) for arm in (a, b))
    return of_a, of_b


def _fitted(form: Form, arms: Sequence[Arm], x0: float, y0: float, draws: Sequence[Array]) -> _Law:
    thetas, replicates, loss = [], [], 0.0
    for arm, drawn in zip(arms, draws):
        theta, own = _least_squares(form, arm, x0, y0)
        u = np.log(arm.compute / x0)[None]
        v = _released(form, theta, u, np.log(arm.error / y0)[None], arm.seeds)
        start = np.broadcast_to(theta, (len(drawn), len(theta)))
        moved = levenberg_marquardt(
            Problem(form, u, v, drawn * arm.seeds, np.array([np.inf])), start, 25, 1e-6
        )[0]
        thetas.append(theta)
        widened = theta + (moved - theta) * _student(len(drawn[0]) - len(theta))
        replicates.append(np.clip(widened, form.low, form.high))
        loss += own
    return _Law(form, (thetas[0], thetas[1]), loss, (replicates[0], replicates[1]), 1.0)


def _released(form: Form, theta: Array, u: Array, v: Array, weights: Array) -> Array:
    """ln error with each residual divided by 1 - its leverage (HC3, MacKinnon and White 1985): a fit pulls
    its own ends towards itself, and the bootstrap would take what is left for all the noise there is."""
    value, jacobian = form.value(theta[None], u)
    root = jacobian[0] * np.sqrt(weights)[:, None]
    leverage = np.einsum("np,pq,nq->n", root, np.linalg.pinv(root.T @ root), root)
    return value + (v - value) / np.maximum(1 - leverage, 0.05)


def _least_squares(form: Form, arm: Arm, x0: float, y0: float) -> tuple[Array, float]:
    """theta (p,) and the weighted residual sum of squares, from all of the form's starts."""
    u, v = np.log(arm.compute / x0)[None], np.log(arm.error / y0)[None]
    problem = Problem(form, u, v, arm.seeds[None], np.array([np.inf]))
    theta, loss = levenberg_marquardt(problem, form.starts(u[0], v[0]))
    return theta[np.argmin(loss)], 2 * float(loss.min())


def _student(free: int) -> float:
    """How much wider Student's 90 % interval is than the normal's, for so many degrees of freedom."""
    return student_quantile(max(1, free), 0.95) / NORMAL_90


def _weighed(laws: Sequence[_Law], draws: Sequence[Array]) -> tuple[_Law, ...]:
    """Laws with their Akaike weights and their share of the replicates; those without one are dropped."""
    points = sum(drawn.shape[1] for drawn in draws)
    criterion = np.array([_corrected(law, points) for law in laws])
    weight = np.exp(-(criterion - criterion.min()) / 2)
    weight /= weight.sum()
    out = []
    for law, share in zip(laws, weight):
        count = round(share * REPLICATES)
        if count:
            kept = (law.replicates[0][:count], law.replicates[1][:count])
            out.append(_Law(law.form, law.theta, law.loss, kept, float(share)))
    return tuple(out)


def _corrected(law: _Law, points: int) -> float:
    """Akaike's criterion, corrected for few points (Hurvich and Tsai 1989); both arms' parameters count."""
    spent = 2 * len(law.form.parameters)
    free = points - spent - 1
    if free < 1:
        return np.inf
    return points * np.log(max(law.loss, 1e-18) / points) + 2 * spent + 2 * spent * (spent + 1) / free


def _p_value(law: _Law, a: Arm, b: Arm, x0: float, y0: float) -> float:
    """Of "one law describes both arms": F tests against a law for each and against one law with B's compute
    multiplied by a number, which sees a constant multiplier sooner; the smaller p value, doubled."""
    from scipy.special import fdtrc  # slow to import

    spent, points = len(law.form.parameters), len(a.compute) + len(b.compute)
    theta, one_law = _least_squares(law.form, _joined(a, b, 0.0), x0, y0)
    shifted = _shifted_loss(law.form, a, b, theta, x0, y0)
    free = max(1, points - spent - 1), max(1, points - 2 * spent)
    by_shift = fdtrc(1, free[0], (one_law - shifted) / max(shifted / free[0], 1e-18))
    by_form = fdtrc(spent, free[1], max(0.0, one_law - law.loss) / spent / max(law.loss / free[1], 1e-18))
    return float(min(1.0, 2 * min(by_shift, by_form)))


def _joined(a: Arm, b: Arm, shift: float) -> Arm:
    """Both arms as one, B's compute multiplied by e^shift."""
    compute = np.r_[a.compute, b.compute * np.exp(shift)]
    return Arm("both", compute, np.r_[a.error, b.error], np.r_[a.seeds, b.seeds], (), ())


def _shifted_loss(form: Form, a: Arm, b: Arm, theta: Array, x0: float, y0: float) -> float:
    """Residual sum of squares of one law with the best constant multiplier, by golden sections."""

    def loss(shift: float) -> float:
        both = _joined(a, b, shift)
        u, v = np.log(both.compute / x0)[None], np.log(both.error / y0)[None]
        return 2 * float(
            levenberg_marquardt(Problem(form, u, v, both.seeds[None], np.array([np.inf])), theta[None])[1][0]
        )

    low, high, ratio = -WIDEST_SHIFT, WIDEST_SHIFT, (np.sqrt(5) - 1) / 2
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    losses = [loss(inner[0]), loss(inner[1])]
    for _ in range(24):
        if losses[0] < losses[1]:
            high, inner[1], losses[1] = inner[1], inner[0], losses[0]
            inner[0] = high - ratio * (high - low)
            losses[0] = loss(inner[0])
        else:
            low, inner[0], losses[0] = inner[0], inner[1], losses[1]
            inner[1] = low + ratio * (high - low)
            losses[1] = loss(inner[1])
    return min(loss(0.0), *losses)


# --------------------------------------------------------------------------- where the laws lie


def _common_errors(a: Arm, b: Arm, laws: Sequence[_Law], x0: float, y0: float) -> Array:
    """Errors that both arms reach between their cheapest and their dearest node, by their laws."""
    ends = []
    for which, arm in enumerate((a, b)):
        u = np.log(arm.compute[[0, -1]] / x0)[None]
        ends.append(_law_at(laws, which, u, y0))
    largest, smallest = min(ends[0][0], ends[1][0]), max(ends[0][1], ends[1][1])
    if largest <= smallest * 1.0001:
        raise ValueError(
            f"{a.name!r} reaches errors from {ends[0][0]:.4g} to {ends[0][1]:.4g} and {b.name!r} from "
            f"{ends[1][0]:.4g} to {ends[1][1]:.4g}: no error is reached by both; train the worse one longer "
            f"or the better one for shorter"
        )
    return np.geomspace(largest, smallest, LEVELS)


def _law_at(laws: Sequence[_Law], which: int, u: Array, y0: float) -> Array:
    """Error of one arm at ln compute u (1, n), geometric mean over the forms: (n,)."""
    return y0 * np.exp(_mean(laws, lambda law: law.form.value(law.theta[which][None], u)[0][0]))


def _difference(law: _Law, thetas: Sequence[Array], level: Array) -> Array:
    """ln compute of A minus ln compute of B at ln error `level`: (r, n)."""
    return _inverse(law.form, thetas[0], level) - _inverse(law.form, thetas[1], level)


def _inverse(form: Form, theta: Array, level: Array) -> Array:
    """ln compute at which each row of theta reaches ln error `level` (n,): (r, n), NaN where it does not."""
    u = np.linspace(-BELOW, ABOVE, STEPS)
    values = form.value(theta, u[None])[0]
    rows = [np.interp(-level, -row, u, left=np.nan, right=np.nan) for row in values]
    return np.array(rows).reshape(len(theta), len(level))


def _mean(laws: Sequence[_Law], quantity) -> Array:
    """The mean of a quantity over the laws by their weights; laws that give NaN are left out."""
    values = np.array([quantity(law) for law in laws])
    weight = np.array([law.weight for law in laws]).reshape(-1, *[1] * (values.ndim - 1))
    known = np.isfinite(values)
    total = np.sum(np.where(known, weight, 0.0), axis=0)
    return np.sum(np.where(known, weight * np.where(known, values, 0.0), 0.0), axis=0) / np.where(
        total > 0, total, np.nan
    )


def _intervals(middle: Array, replicates: Array, level: float) -> tuple[Array, Array, Array]:
    """Low and high of each error alone, and the half width of the band that holds the whole curve."""
    low, high = np.nanquantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)
    spread = np.maximum((high - low) / 2 / NORMAL_90, 1e-9)
    away = np.nanmax(np.abs(replicates - middle) / spread, axis=1)
    return low, high, np.nanquantile(away, level) * spread
