"""How often `scalevit compare` is right, on planted pairs of laws: python benchmarks/compare.py --pairs 100

Pairs that are equal, differ by a constant multiplier, or cross, with noise of ln error. Counts how often the
interval at five errors and the band hold the planted multiplier, how far the multiplier is from it, which
verdicts are given, and how many open comparisons the proposed runs decide.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable

import numpy as np

from scalevit.study.compare.arm import Arm, arm
from scalevit.study.compare.multiplier import multiplier
from scalevit.study.compare.next_nodes import next_nodes
from scalevit.study.compare.verdict import verdict

Law = Callable[[np.ndarray], np.ndarray]
KINDS = ("equal", "constant", "crossing")
LEVELS = 5


def planted(kind: str, generator: np.random.Generator, nodes: int) -> tuple[Law, Law, np.ndarray]:
    """Two laws of this kind and the compute of their nodes."""
    exponent, floor = generator.uniform(0.15, 0.4), generator.choice([0.0, 0.02, 0.05])
    x = np.geomspace(1.0, 10 ** generator.uniform(2, 3.5), nodes)

    def base(x: np.ndarray) -> np.ndarray:
        return 0.6 * x**-exponent + floor

    if kind == "equal":
        return base, base, x
    if kind == "constant":
        worth = np.exp(generator.uniform(-0.7, 0.7))
        return base, lambda x: base(worth * x), x
    other = exponent * generator.uniform(0.7, 1.4)
    at = np.sqrt(x[-1]) * np.exp(generator.uniform(-1, 1))
    amplitude = 0.6 * at ** (other - exponent)
    return base, lambda x: amplitude * x**-other + floor, x


def noisy(name: str, law: Law, x: np.ndarray, noise: float, generator: np.random.Generator) -> Arm:
    return arm(name, x, law(x) * np.exp(noise * generator.standard_normal(len(x))))


def inverse(law: Law, error: np.ndarray) -> np.ndarray:
    grid = np.geomspace(1e-4, 1e8, 6000)
    return np.exp(np.interp(-np.log(error), -np.log(law(grid)), np.log(grid)))


def measure(kind: str, pairs: int, nodes: int, noise: float, seed: int) -> dict[str, object]:
    generator = np.random.default_rng(seed)
    held, bands, away, kinds, decided = [], [], [], Counter(), []
    for index in range(pairs):
        law_a, law_b, x = planted(kind, generator, nodes)
        a, b = (noisy(name, law, x, noise, generator) for name, law in (("a", law_a), ("b", law_b)))
        try:
            result = multiplier(a, b, seed=index)
        except ValueError:
            kinds["refused"] += 1
            continue
        truth = inverse(law_a, result.errors) / inverse(law_b, result.errors)
        at = np.linspace(0, len(truth) - 1, LEVELS).round().astype(int)
        held.append(((result.low <= truth) & (truth <= result.high))[at])
        bands.append(bool(np.all((result.band_low <= truth) & (truth <= result.band_high))))
        away.append(np.abs(np.log(result.worth / truth))[at])
        decision = verdict(result, result.p_value)
        kinds[decision.kind] += 1
        if decision.kind == "undecided":
            proposed = next_nodes(result)
            more = [
                Arm(
                    own.name, np.r_[own.compute, new.compute], np.r_[own.error, new.error],
                    np.r_[own.seeds, new.seeds], (*own.keys, *map(str, range(len(new.keys)))),
                    (*own.sizes, *new.sizes),
                )
                for own, new in (
                    (old, repeated(old.name, law, proposed.compute, noise, generator))
                    for old, law in ((a, law_a), (b, law_b))
                )
            ]  # fmt: skip
            after = multiplier(*more, seed=index)
            decided.append((verdict(after, after.p_value).kind != "undecided", proposed.chance))
    return {
        "kind": kind, "pairs": pairs, "coverage": np.mean(held, axis=0).round(3).tolist(),
        "coverage_of_all": float(np.mean(held)), "band": float(np.mean(bands)),
        "median_error": np.median(away, axis=0).round(3).tolist(), "verdicts": dict(kinds),
        "open": len(decided), "decided_by_proposed_runs": sum(done for done, _ in decided),
        "chance_said": float(np.mean([chance for _, chance in decided])) if decided else None,
    }  # fmt: skip


def repeated(name: str, law: Law, x: np.ndarray, noise: float, generator: np.random.Generator) -> Arm:
    """Runs of the same compute as separate nodes."""
    errors = law(x) * np.exp(noise * generator.standard_normal(len(x)))
    return arm(name, x, errors, keys=[*range(len(x))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--nodes", type=int, default=18)
    parser.add_argument("--noise", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for kind in KINDS:
        print(json.dumps(measure(kind, args.pairs, args.nodes, args.noise, args.seed)), flush=True)


if __name__ == "__main__":
    main()
