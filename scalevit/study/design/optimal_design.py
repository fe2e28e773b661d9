"""Which runs to do with a given budget so that the forecast beyond it is sharpest.

An optimal design: near parameters theta a law predicts ln error with gradient g, runs of variance s² carry
the information M = sum g gᵀ / s², and the forecast at x* then has the variance g*ᵀ M⁻¹ g* (c-optimality;
Atkinson, Donev and Tobias, Optimum Experimental Designs, ch. 10 and 12). The parameters are not known
beforehand, so the mean of ln variance over draws from a prior is made small, run by run and by exchanges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from scalevit.study.design import grid
from scalevit.study.design.spec import Spec
from scalevit.study.laws.forms import Array
from scalevit.study.laws.joint_forms import REPEATING
from scalevit.study.planning.expected_error import paper_law

#: Standard deviation of ln error from one run to the next (seed, draws of the probe's support set).
NOISE = 0.03
#: Standard deviations of the prior: amplitudes and floor, exponents, and what repeating does, in e-folds.
SPREAD = np.array([0.5, 0.3, 0.5, 0.3, 0.7, 1.0, 1.0, 0.5, 0.2])
#: Draws from the prior that a design has to serve.
DRAWS = 24
#: Durations to choose from: from the study's shortest to what half the budget buys of the cheapest model.
RUNGS = 12
#: What is forecast has so many times the budget's compute.
REACH = 10.0
#: Half width of a 90 % interval in standard deviations.
Z90 = 1.6449


@dataclass(frozen=True)
class Candidates:
    """Runs that could be done. inputs (n, 3): forward FLOPs of an image, images seen, unique among them.
    family: same model, images. steps, step_flops: (n,). cooldown: share of a run that is its own. unique:
    images that there are, which a run need not get through."""

    names: tuple[str, ...]
    inputs: Array
    family: Array
    steps: Array
    step_flops: Array
    cooldown: float
    unique: Array

    @cached_property
    def alone(self) -> Array:
        return self.steps * self.step_flops

    def cost(self, chosen: Sequence[int]) -> float:
        """FLOPs with shared trunks: the longest run of a family whole, of the others the cooldown."""
        index = np.array(chosen, int)
        whole = sum(self.alone[index[self.family[index] == one]].max() for one in {*self.family[index]})
        return float(whole * (1 - self.cooldown) + self.cooldown * self.alone[index].sum())


@dataclass(frozen=True)
class LawPrior:
    """A prior about the law: draws theta (d, p) in units of x0 (3,), and their covariance (p, p)."""

    theta: Array
    x0: Array
    covariance: Array

    def gradient(self, inputs: Array) -> Array:
        """d ln error / d theta at inputs (n, 3), for each draw: (d, n, p)."""
        return REPEATING.value(self.theta, np.log(inputs / self.x0)[None])[1]


@dataclass(frozen=True)
class Design:
    """The chosen runs, their cost, what is forecast, and the half width of its 90 % interval (ln error):
    of this design, and of a uniform grid that costs the same."""

    spec: Spec
    names: tuple[str, ...]
    cost: float
    target: Array
    half: float
    uniform: float
    uniform_runs: int

    def reason(self) -> str:
        """Why these runs, in words."""
        flops, seen, _ = self.target
        return (
            f"{len(self.names)} runs for {self.cost:.3g} FLOPs, chosen for the forecast of a run with ten "
            f"times that ({flops / 1e6:.3g} MFLOPs an image, {seen / 1e6:.3g} M images): its error should be "
            f"known to ±{self.half:.0%}; the study's own grid at the same cost ({self.uniform_runs} runs) "
            f"would give ±{self.uniform:.0%}. Believed: the paper's law and exponents, give or take a third."
        )


def optimal_design(spec: Spec, budget: float) -> Design:
    """The study that spends at most `budget` FLOPs on runs of the spec's models and image counts, of any
    duration, and forecasts best. Raises ValueError when the budget buys too little."""
    if spec.probes or spec.finetunes:
        raise ValueError("--budget chooses runs to train: leave probes and finetunes out, and add them later")
    wide = candidate_durations(spec, budget)
    candidates = candidates_of(wide)
    cheapest = float(np.sort(candidates.alone)[:3].sum())
    if budget < cheapest:
        raise ValueError(
            f"--budget {budget:.3g} FLOPs buys no study: the three cheapest runs cost {cheapest:.3g}; "
            "spend more, or give the study smaller models or shorter durations"
        )
    law = law_prior(candidates.inputs)
    target = forecast_target(candidates, law, REACH * budget)
    chosen = exchange_runs(
        candidates, law, target, budget, greedy_design(candidates, law, target, budget, [])
    )
    even = uniform_design(spec, budget)
    names = tuple(candidates.names[index] for index in sorted(chosen))
    return Design(
        restrict_spec(wide, names), names, candidates.cost(chosen), target,
        interval_half_width(candidates.inputs[chosen], law, target),
        interval_half_width(even, law, target), len(even),
    )  # fmt: skip


def candidate_durations(spec: Spec, budget: float) -> Spec:
    """The study with `RUNGS` durations, evenly spaced in logs."""
    shortest = min(spec.durations)
    longest = budget / 2 / min(grid.step_flops(node.run) for node in grid.expand(spec))
    steps = np.geomspace(shortest, max(longest, 2 * shortest), RUNGS).round().astype(int)
    durations = tuple(map(int, np.unique(steps)))
    return replace(
        spec, durations=durations, added_durations=(), seeds=spec.seeds[:1], recipes=spec.recipes[:1]
    )


def restrict_spec(spec: Spec, names: Sequence[str]) -> Spec:
    """The study with nothing but these runs, and without axes' values that none of them has."""
    nodes = [node for node in grid.expand(spec) if node.name in names]
    kept = {node.model for node in nodes}
    return replace(
        spec,
        models=tuple(one for one in spec.models if one.name in kept or not one.name),
        images=tuple(n for n in spec.images if any(node.images == n for node in nodes)),
        durations=tuple(n for n in spec.durations if any(node.duration == n for node in nodes)),
        only=tuple(names),
    )


def candidates_of(spec: Spec) -> Candidates:
    """Every run of the study as a candidate."""
    nodes = grid.expand(spec)
    seen = np.array([float(node.duration * node.run.train.batch) for node in nodes])
    unique = np.array([float(node.images) or np.inf for node in nodes])
    forward = [grid.step_flops(node.run) / grid.TRAINING_PASSES / node.run.train.batch for node in nodes]
    families: dict[tuple[str, int], int] = {}
    family = [families.setdefault((node.model, node.images), len(families)) for node in nodes]
    steps = np.array([float(node.duration) for node in nodes])
    return Candidates(
        tuple(node.name for node in nodes),
        np.stack([np.array(forward), seen, np.minimum(seen, unique)], axis=1),
        np.array(family), steps, np.array([grid.step_flops(node.run) for node in nodes]), spec.cooldown,
        unique,
    )  # fmt: skip


# --------------------------------------------------------------------------- what is believed beforehand


def law_prior(inputs: Array, draws: int = DRAWS, seed: int = 0) -> LawPrior:
    """The paper's exponents at the study's own scale: in the middle of the candidates model size and images
    cost alike, and a fifth of the error is floor."""
    x0 = np.exp(np.log(inputs).mean(axis=0))
    paper = paper_law("imagenet_10shot").params
    first = np.log(inputs[:, 1].min() / x0[1])
    room = 1.0 + np.log(x0[1] / x0[2])  # a unique image teaches so many e-folds of looks at it
    mean = np.array([
        np.log(0.4), np.log(paper["alpha"]), np.log(0.4), np.log(paper["beta"]), np.log(0.2), first - 1,
        room, 0.3, 0.0,
    ])  # fmt: skip
    generator = np.random.default_rng(seed)
    theta = mean + SPREAD * generator.standard_normal((draws, len(mean)))
    low, high = np.array(REPEATING.bounds).T
    return LawPrior(np.clip(theta, low, high), x0, np.diag(SPREAD**2))


def forecast_target(candidates: Candidates, law: LawPrior, compute: float) -> Array:
    """The run (3,) on new images that ends with the smallest error, by the middle of the prior, for so much
    compute, between the largest candidate and thirty times it."""
    largest = candidates.inputs[:, 0].max()
    flops = largest * np.geomspace(1, 30, 40)
    seen = compute / (grid.TRAINING_PASSES * flops)
    inputs = np.stack([flops, seen, seen], axis=1)
    value = REPEATING.value(law.theta, np.log(inputs / law.x0)[None])[0]
    return inputs[int(np.argmin(value.mean(axis=0)))]


# --------------------------------------------------------------------------- how good a design is


def interval_half_width(inputs: Array, law: LawPrior, target: Array) -> float:
    """Half width of the 90 % interval of ln error at the target after runs at inputs (n, 3): geometric mean
    over the prior."""
    return float(Z90 * np.exp(log_variance(inputs, law, target) / 2))


def log_variance(inputs: Array, law: LawPrior, target: Array) -> float:
    """Mean over the prior of the ln variance of the forecast."""
    inverse = _inverse(law, law.gradient(inputs))
    aim = law.gradient(target[None])[:, 0]
    return float(np.log(np.einsum("dp,dpq,dq->d", aim, inverse, aim)).mean())


def _inverse(law: LawPrior, gradient: Array) -> Array:
    """Covariance of theta after runs with these gradients (d, n, p): (d, p, p)."""
    information = np.einsum("dnp,dnq->dpq", gradient, gradient) / NOISE**2
    return np.linalg.inv(information + np.linalg.inv(law.covariance))


def greedy_design(
    candidates: Candidates, law: LawPrior, target: Array, budget: float, chosen: Sequence[int]
) -> list[int]:
    """Add to `chosen`, as long as something fits, the run that lowers ln variance most for its price."""
    chosen = [*chosen]
    gradient, aim = law.gradient(candidates.inputs), law.gradient(target[None])[:, 0]
    while True:
        spent = candidates.cost(chosen) if chosen else 0.0
        price = np.array([
            np.inf if index in chosen else candidates.cost([*chosen, index]) - spent
            for index in range(len(candidates.names))
        ])  # fmt: skip
        fits = spent + price <= budget
        if not fits.any():
            return chosen
        inverse = _inverse(law, gradient[:, chosen])
        toward = np.einsum("dnp,dpq,dq->dn", gradient, inverse, aim)
        own = NOISE**2 + np.einsum("dnp,dpq,dnq->dn", gradient, inverse, gradient)
        before = np.einsum("dp,dpq,dq->d", aim, inverse, aim)[:, None]
        gain = -np.log1p(-np.minimum(toward**2 / own / before, 1 - 1e-12)).mean(axis=0)
        chosen.append(int(np.argmax(np.where(fits, gain / np.maximum(price, budget * 1e-3), -1))))


def exchange_runs(
    candidates: Candidates, law: LawPrior, target: Array, budget: float, chosen: list[int], rounds: int = 4
) -> list[int]:
    """Take a run out, fill the budget again, keep what is better, until nothing is."""
    best = log_variance(candidates.inputs[chosen], law, target)
    for _ in range(rounds):
        before = best
        for index in [*chosen]:
            if index not in chosen:
                continue
            rest = [one for one in chosen if one != index]
            for other in _swaps(candidates, rest, index, budget):
                tried = greedy_design(candidates, law, target, budget, [*rest, other])
                value = log_variance(candidates.inputs[tried], law, target)
                if value < best - 1e-9:
                    best, chosen = value, tried
                    break
        if before - best < 1e-3:
            break
    return chosen


def _swaps(candidates: Candidates, rest: Sequence[int], index: int, budget: float) -> list[int]:
    """Candidates of the same or a neighbouring duration or family that could stand for `index`."""
    near = np.abs(np.log(candidates.alone / candidates.alone[index])) < 1.2
    return [
        other for other in map(int, np.flatnonzero(near))
        if other != index and other not in rest and candidates.cost([*rest, other]) <= budget
    ]  # fmt: skip


def uniform_design(spec: Spec, budget: float) -> Array:
    """What people do: every model on every image count for the study's own durations, all longer or shorter
    by one factor, so that the whole costs the budget. Inputs (n, 3)."""
    plain = candidates_of(
        replace(spec, added_durations=(), seeds=spec.seeds[:1], recipes=spec.recipes[:1], only=())
    )
    factor = budget / plain.cost(range(len(plain.names)))
    seen = plain.inputs[:, 1] * factor
    return np.stack([plain.inputs[:, 0], seen, np.minimum(seen, plain.unique)], axis=1)
