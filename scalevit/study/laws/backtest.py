"""Many extrapolators on many curves at once, and how well each would have forecast what is already known.

A back-test cuts a curve at a smaller x, fits what lies before the cut and predicts the rest. An extrapolator
is a law fitted with weights that fade with the distance from the last x (the law must hold where it is
extended, not everywhere), with or without a prior on its parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalevit.study.laws.fit import average_neighbours
from scalevit.study.laws.forms import FORMS, Array, Form
from scalevit.study.laws.least_squares import Prior, Problem, levenberg_marquardt

#: Huber's knee in log error.
KNEE = 0.02
ITERATIONS = 40
TOLERANCE = 1e-7
#: A prior that holds for error curves of vision models at large: ln of the exponent, ln of the floor as a
#: share of the smallest error. Centre and spread of the nine laws of arXiv 2106.04560, figures 2 and 9.
COMMON_MEAN, COMMON_SPREAD = np.log([0.36, 0.6]), np.array([0.6, 0.8])
#: The shift of the saturating law, in e-folds: about the smallest x seen.
DELAY_SPREAD = 3.0
#: Added to the spread of related parameters, which are few and alike.
RELATED_SPREAD = 0.25
FEWEST, FEWEST_RELATED = 4, 3
#: A related curve that is so many e-folds longer (20 times) teaches by what it was like before its end.
MUCH_LONGER = 3.0


RECENT = np.log(2.0)
#: So many x within a factor of four, of which hardly any rises, are no independent measurements: they were
#: smoothed, or each is the best so far.
DENSE, SELDOM = 16, 0.05
#: Of twice as many points or more, neighbours are averaged before anything is fitted.
MOST_POINTS = 100


@dataclass(frozen=True)
class ScaledCurve:
    """u = ln(x / last x) and v = ln(y / smallest y), by growing x; w weighs the points, 1 on average."""

    u: Array
    v: Array
    w: Array
    x0: float
    y0: float


def scale_curve(x: Array, y: Array, weights: Array | None = None) -> ScaledCurve:
    """Scale points that are sorted by x."""
    x0, y0 = float(x[-1]), float(np.min(y))
    w = np.ones(len(x)) if weights is None else weights / np.mean(weights)
    return ScaledCurve(np.log(x / x0), np.log(y / y0), w, x0, y0)


def average_points(piece: ScaledCurve, most: int = MOST_POINTS) -> ScaledCurve:
    """The same with its neighbours averaged where there are twice `most` points or more."""
    u, v, w = average_neighbours(piece.u, piece.v, piece.w, most)
    return ScaledCurve(u, v, w / np.mean(w), piece.x0, piece.y0)


def is_smoothed(piece: ScaledCurve) -> bool:
    """Whether the points are too many and rise too seldom to be independent measurements."""
    recent = piece.u >= -2 * RECENT - 1e-9
    return len(np.unique(piece.u[recent])) >= DENSE and bool(np.mean(np.diff(piece.v) > 0) <= SELDOM)


def truncate_to_stage(piece: ScaledCurve, length: float, horizon: float) -> ScaledCurve:
    """A much longer curve as if it had come `length` e-folds far, and the next `horizon` of them were known
    too: u and v are 0 there. A floor as a share of the last y would be too high for a shorter curve."""
    stage = piece.u[0] + length
    if stage > -MUCH_LONGER or np.sum(piece.u <= stage) < FEWEST:
        return piece
    kept = piece.u <= stage + horizon
    last, lowest = piece.u[piece.u <= stage][-1], np.min(piece.v[piece.u <= stage])
    return ScaledCurve(
        piece.u[kept] - last, piece.v[kept] - lowest, piece.w[kept], piece.x0 * np.exp(last),
        piece.y0 * np.exp(lowest),
    )  # fmt: skip


@dataclass(frozen=True)
class Extrapolator:
    """One member of the mixture: a law, e-folds of x over which weights fade, strength of the prior in units
    of the scatter (0: none), and whether the prior is learned from related curves."""

    law: str
    recency: float
    strength: float
    learned: bool = False

    @property
    def form(self) -> Form:
        return FORMS[self.law]

    @property
    def kind(self) -> tuple[str, float]:
        return self.law, self.recency

    def __str__(self) -> str:
        related = " related" if self.learned else ""
        return f"{self.law} {self.recency:g} {self.strength:g}{related}"


#: Chosen by forward selection over 85 candidates on families of curves (`benchmarks/laws.py` says how).
MEMBERS = (
    Extrapolator("M2", 0.7, 0.25), Extrapolator("M2", 0.7, 16.0), Extrapolator("M2", 1.2, 16.0),
    Extrapolator("M3", 2.5, 0.0), Extrapolator("M3", 2.5, 1.0),
    Extrapolator("saturating", 1.2, 0.25), Extrapolator("saturating", 2.5, 0.0),
)  # fmt: skip
#: Members whose prior is learned, instead of these where related curves teach one.
RELATED = tuple(
    Extrapolator(law, recency, 4.0, True)
    for law in ("M2", "M3", "saturating") for recency in (0.7, 1.2, 2.5)
)  # fmt: skip
#: Different x of a related curve that may teach a prior: shorter ones do not fix their own parameters.
FEWEST_TEACHING = 8
#: Times as firm a learned prior is for curves whose scatter was smoothed away.
FIRMER = 4.0


@dataclass(frozen=True)
class ParameterPrior:
    """Mean (p,) and covariance (p, p) of theta for one law and recency; the amplitude is never believed."""

    mean: Array
    covariance: Array


def common_prior(form: Form, piece: ScaledCurve) -> ParameterPrior:
    """The prior without related curves."""
    mean = np.concatenate([[0.0], COMMON_MEAN, [piece.u[0] - 1]])[: len(form.bounds)]
    spread = np.concatenate([[np.inf], COMMON_SPREAD, [DELAY_SPREAD]])[: len(form.bounds)]
    return ParameterPrior(mean, np.diag(spread**2))


def learned_prior(theta: Array) -> ParameterPrior:
    """The prior that the fits of related curves (r, p) suggest."""
    mean = np.median(theta, axis=0)
    near = np.clip(theta, mean - 2, mean + 2)
    covariance = np.cov(near.T) + RELATED_SPREAD**2 * np.eye(theta.shape[1])
    return ParameterPrior(mean, covariance)


def backtest_cuts(
    piece: ScaledCurve, ratios: Sequence[float], horizon: float
) -> list[tuple[ScaledCurve, Array, Array]]:
    """(what lies before the cut, ln distance and ln y of what lies within `horizon` e-folds after it)."""
    tests = []
    for ratio in ratios:
        before = piece.u <= -np.log(ratio) + 1e-9
        if np.sum(before) < FEWEST or len(np.unique(piece.u[before])) < FEWEST:
            continue
        last = piece.u[before][-1]
        after = ~before & (piece.u <= last + horizon + 1e-9)
        if np.any(after):
            short = scale_curve(np.exp(piece.u[before]), np.exp(piece.v[before]), piece.w[before])
            tests.append((short, piece.u[after] - last, piece.v[after] - np.log(short.y0)))
    return tests


LearnedPriors = dict[tuple[str, float], ParameterPrior]


def fit_without_prior(
    pieces: Sequence[ScaledCurve], members: Sequence[Extrapolator] = (*MEMBERS, *RELATED)
) -> dict[tuple[str, float], Array]:
    """theta (curves, p) of every law and recency of `members` without prior."""
    return {
        kind: fit_member(
            Extrapolator(*kind, 0.0), pieces, [_starts(kind[0], piece) for piece in pieces], None
        )
        for kind in dict.fromkeys(member.kind for member in members)
    }


def learn_priors(theta: dict[tuple[str, float], Array], kept: Sequence[int]) -> LearnedPriors:
    """Priors from the fits without prior of some curves."""
    return {member.kind: learned_prior(theta[member.kind][list(kept)]) for member in RELATED}


def fit_members(
    pieces: Sequence[ScaledCurve], priors: Sequence[LearnedPriors] = (),
    members: Sequence[Extrapolator] = MEMBERS,
) -> tuple[tuple[Extrapolator, ...], list[Array]]:  # fmt: skip
    """The members and theta (curves, p) of each; `priors` are learned ones, for each curve, and then the
    members are those that use them; or none."""
    members = RELATED if priors else tuple(members)
    unbiased = fit_without_prior(pieces, members)
    firm = np.array([FIRMER if is_smoothed(piece) else 1.0 for piece in pieces])
    thetas = []
    for member in members:
        free = unbiased[member.kind]
        if member.strength == 0.0:
            thetas.append(free)
            continue
        if member.learned:
            own = [prior[member.kind] for prior in priors]
        else:
            own = [common_prior(member.form, piece) for piece in pieces]
        strength = member.strength * (firm if member.learned else 1.0) * _noise(member, pieces, free)
        starts = [_warm(member.form, theta, prior) for theta, prior in zip(free, own)]
        thetas.append(fit_member(member, pieces, starts, _prior(own, strength)))
    return members, thetas


def _starts(law: str, piece: ScaledCurve) -> Array:
    """Some of the form's starts: a recent stretch of a curve has few optima."""
    starts = FORMS[law].starts(piece.u, piece.v)
    return starts[:: 5 if law == "saturating" else 2 if law != "M1" else 1]


def _warm(form: Form, theta: Array, prior: ParameterPrior) -> Array:
    """From the fit without prior, and from the prior's centre through the last point."""
    centre = np.concatenate([[0.0], prior.mean[1:]])
    centre[0] = np.clip(-form.value(centre[None], np.zeros((1, 1)))[0][0, 0], -3, 3)
    return np.stack([theta, centre])


def _prior(priors: Sequence[ParameterPrior], strength: Array) -> Prior:
    mean = np.stack([prior.mean for prior in priors])
    precision = np.zeros((*mean.shape, mean.shape[1]))
    precision[:, 1:, 1:] = np.linalg.inv(np.stack([prior.covariance[1:, 1:] for prior in priors]))
    return Prior(mean, precision * strength[:, None, None])


def _noise(member: Extrapolator, pieces: Sequence[ScaledCurve], theta: Array) -> Array:
    """Weighted variance of log residuals; with hardly more points than parameters, about one per cent."""
    variances = []
    for piece, row in zip(pieces, theta):
        residual = member.form.value(row[None], piece.u[None])[0][0] - piece.v
        weight = piece.w * np.exp(piece.u / member.recency)
        free = len(piece.u) - len(row)
        guess = np.exp(-max(free, 0) / 2)
        variance = np.sum(weight * residual**2) / np.sum(weight) * len(piece.u) / max(1, free)
        variances.append(max((variance + guess * 1e-4) / (1 + guess), 1e-10))
    return np.array(variances)


def fit_member(
    member: Extrapolator, pieces: Sequence[ScaledCurve], starts: Sequence[Array], prior: Prior | None
) -> Array:
    """The best theta (curves, p) of one member, all curves and starts in one batch."""
    longest = max(len(piece.u) for piece in pieces)
    padded = np.zeros((3, len(pieces), longest))
    for row, piece in enumerate(pieces):
        fading = piece.w * np.exp(np.minimum(piece.u, 0) / member.recency)
        padded[:, row, : len(piece.u)] = piece.u, piece.v, fading
    row = np.repeat(np.arange(len(pieces)), [len(start) for start in starts])
    if prior is not None:
        prior = Prior(prior.mean[row], prior.precision[row])
    u, v, weights = (part[row] for part in padded)
    problem = Problem(member.form, u, v, weights, np.full(len(row), KNEE), prior)
    theta, loss = levenberg_marquardt(problem, np.concatenate(starts), ITERATIONS, TOLERANCE)
    return np.stack([theta[row == i][np.argmin(loss[row == i])] for i in range(len(pieces))])


def predict_members(
    members: Sequence[Extrapolator], thetas: Sequence[Array], index: int, distance: Array
) -> Array:
    """ln(y / y0) of curve `index` at ln distances from its last x, by every member: (members, n)."""
    u = np.asarray(distance, float)[None]
    return np.stack([m.form.value(t[index][None], u)[0][0] for m, t in zip(members, thetas)])
