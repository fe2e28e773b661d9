"""Next nodes: the cheapest runs that would decide a comparison that the present ones leave open.

Near its parameters each law is linear, so a run at compute x with standard deviation s of ln error adds the
information g gᵀ / s² to its arm, and the variance of ln worth at any error follows (optimal design; Atkinson,
Donev and Tobias, Optimum Experimental Designs, chapter 10). Runs are added in pairs, the same node for both
arms, the pair that lowers ln variance most for its price first, until a decision is likely enough: the same
rule as the verdict's, tried on draws of what the multiplier may be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalevit.study.compare.multiplier import Multiplier
from scalevit.study.compare.verdict import EQUAL
from scalevit.study.laws.forms import Array

#: Chance of a decision that the proposed runs must reach.
POWER = 0.85
MOST_PAIRS = 60
#: Compute of candidates, as multiples of the largest that was measured.
LONGER = (2.0, 4.0)
#: What starting a run costs beside its compute, as a share of the largest node.
STARTING = 0.1
#: Errors at which the multiplier is looked at, and deviations of the band that holds it at all of them.
LEVELS, BAND = 5, 2.5
DRAWS = 400


@dataclass(frozen=True)
class NextNodes:
    """compute: (k,), falling, of each pair of runs, one of each arm. keys: the node that each repeats with
    another seed, None for one that is larger than all. cost: of both arms together. chance: of a decision
    after them; enough: whether it reaches `POWER`."""

    compute: Array
    keys: tuple[object, ...]
    cost: float
    chance: float

    @property
    def enough(self) -> bool:
        return self.chance >= POWER


def next_nodes(result: Multiplier, seed: int = 0) -> NextNodes:
    """The cheapest pairs of runs after which the comparison is decided with a chance of `POWER`; at most
    `MOST_PAIRS`, and then `enough` says whether they suffice."""
    arms = [_Linear.of(result, which) for which in (0, 1)]
    errors = np.linspace(0, len(result.errors) - 1, LEVELS).round().astype(int)
    middle = np.log(result.worth[errors])
    compute, keys = _candidates(result)
    price = 2 * (compute + STARTING * compute.max() / max(LONGER))
    rows = [arm.gradients(compute) for arm in arms]
    information = [arm.information for arm in arms]
    aims = [arm.aims(result.compute[which][errors]) for which, arm in enumerate(arms)]
    now = after = _covariance(information, aims)
    normal = np.random.default_rng(seed).standard_normal((2, DRAWS, LEVELS))
    chosen: list[int] = []
    while _chance(middle, now, after, normal) < POWER and len(chosen) < MOST_PAIRS:
        options = [
            [m + np.outer(row[i], row[i]) / arm.noise**2 for m, row, arm in zip(information, rows, arms)]
            for i in range(len(compute))
        ]
        spreads = np.array([_ln_variance(_covariance(option, aims)) for option in options])
        best = int(np.argmax((_ln_variance(after) - spreads) / price))
        information = options[best]
        chosen.append(best)
        after = _covariance(information, aims)
    order = sorted(chosen, key=lambda index: -compute[index])
    chance = _chance(middle, now, after, normal)
    return NextNodes(compute[order], tuple(keys[i] for i in order), float(2 * compute[order].sum()), chance)


def _candidates(result: Multiplier) -> tuple[Array, list[object]]:
    """Nodes of arm A again with another seed, and longer ones."""
    largest = float(max(result.a.compute[-1], result.b.compute[-1]))
    longer = [largest * factor for factor in LONGER]
    return np.r_[result.a.compute, longer], [*result.a.keys, *[None] * len(longer)]


@dataclass(frozen=True)
class _Linear:
    """One arm's likeliest law near its parameters. information: (p, p) of its nodes. noise: standard
    deviation of ln error of one run."""

    result: Multiplier
    which: int
    information: Array
    noise: float

    @classmethod
    def of(cls, result: Multiplier, which: int) -> _Linear:
        law = max(result.laws, key=lambda law: law.weight)
        fronts = result.a.frontier(), result.b.frontier()
        points = sum(len(front.compute) for front in fronts)
        noise = float(np.sqrt(law.loss / max(1, points - 2 * len(law.form.parameters))))
        arm = cls(result, which, np.zeros((0, 0)), max(noise, 1e-4))
        gradient = arm.gradients(fronts[which].compute) * np.sqrt(fronts[which].seeds)[:, None]
        weak = 1e-6 * np.eye(gradient.shape[1])
        return cls(result, which, gradient.T @ gradient / arm.noise**2 + weak, arm.noise)

    def _value(self, compute: Array) -> tuple[Array, Array]:
        law = max(self.result.laws, key=lambda law: law.weight)
        value, gradient = law.form.value(law.theta[self.which][None], np.log(compute / self.result.x0)[None])
        return value[0], gradient[0]

    def gradients(self, compute: Array) -> Array:
        """d ln error / d theta at each compute: (n, p)."""
        return self._value(compute)[1]

    def aims(self, compute: Array) -> Array:
        """d ln compute / d theta at the errors that are reached at these computes: (n, p)."""
        step = 1.01
        slope = (self._value(compute * step)[0] - self._value(compute / step)[0]) / (2 * np.log(step))
        return self.gradients(compute) / np.minimum(slope, -1e-3)[:, None]


def _covariance(information: list[Array], aims: list[Array]) -> Array:
    """Of ln worth at the levels: (LEVELS, LEVELS)."""
    return np.sum([aim @ np.linalg.solve(matrix, aim.T) for matrix, aim in zip(information, aims)], axis=0)


def _ln_variance(covariance: Array) -> float:
    """Mean of ln variance over the levels, the smallest error counting as much as all others."""
    variance = np.log(np.diag(covariance))
    return float((variance.mean() + variance[-1]) / 2)


def _chance(middle: Array, now: Array, after: Array, normal: Array) -> float:
    """Share of draws in which the band after the new runs leaves out 1 at the smallest error, or lies within
    10 % of 1 everywhere. What is known now of ln worth is normal around `middle` with covariance `now`."""
    measured = middle + normal[0] @ _root(now).T + normal[1] @ _root(after).T
    half = BAND * np.sqrt(np.diag(after))
    different = np.abs(measured[:, -1]) > half[-1]
    equal = np.all(np.abs(measured) + half < -np.log(1 - EQUAL), axis=1)
    return float(np.mean(different | equal))


def _root(covariance: Array) -> Array:
    """A matrix whose product with its own transpose is the covariance, which may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))
