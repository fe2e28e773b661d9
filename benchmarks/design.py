"""Does a grid chosen for its forecast forecast better? On simulated laws, beside a uniform grid.

    python benchmarks/design.py [--laws 200]

Laws are drawn from the prior (other draws than the design was made for), runs of both grids get noise, the
law is fitted to each, and the forecast at ten times the budget is compared with the truth. Printed: half of
the 90 % interval that the linearised law promises, and the forecasts' root mean square error (both of ln
error), chosen and uniform.
"""

from __future__ import annotations

import argparse

import numpy as np

from scalevit.study.design import optimal_design
from scalevit.study.design.spec import PRESETS
from scalevit.study.laws.joint_forms import REPEATING
from scalevit.study.laws.least_squares import Prior, Problem, levenberg_marquardt

BUDGETS = (2e12, 1e13, 5e13, 2e14)


def misses(
    inputs: np.ndarray, law: optimal_design.LawPrior, target: np.ndarray, truths: np.ndarray, seed: int
) -> np.ndarray:
    """ln of forecast over truth at the target, one a law: the law fitted to noisy runs at inputs (n, 3)."""
    u, aim = np.log(inputs / law.x0)[None], np.log(target / law.x0)[None, None]
    v = REPEATING.value(truths, u)[0]
    v = v + optimal_design.NOISE * np.random.default_rng(seed).standard_normal(v.shape)
    mean = np.broadcast_to(law.theta.mean(axis=0), truths.shape)
    precision = np.linalg.inv(law.covariance) * optimal_design.NOISE**2
    prior = Prior(mean, np.broadcast_to(precision, (len(truths), *precision.shape)))
    knee = np.full(len(truths), 1e3)
    theta, _ = levenberg_marquardt(
        Problem(REPEATING, u, v, np.ones_like(v), knee, prior), mean, iterations=200
    )
    return (REPEATING.value(theta, aim)[0] - REPEATING.value(truths, aim)[0])[:, 0]


def compare(budget: float, laws: int = 200) -> dict[str, float]:
    """Both grids of the demo's models at one budget."""
    spec = PRESETS["demo"]
    made = optimal_design.optimal_design(spec, budget)
    wide = optimal_design.candidates_of(made.spec)
    law = optimal_design.law_prior(
        optimal_design.candidates_of(optimal_design.candidate_durations(spec, budget)).inputs
    )
    truths = optimal_design.law_prior(
        optimal_design.candidates_of(optimal_design.candidate_durations(spec, budget)).inputs, laws, seed=1
    ).theta
    even = optimal_design.uniform_design(spec, budget)
    chosen = misses(wide.inputs, law, made.target, truths, 2)
    plain = misses(even, law, made.target, truths, 2)
    rms = [float(np.sqrt(np.mean(one**2))) for one in (chosen, plain)]
    return {
        "runs": len(made.names), "uniform_runs": len(even), "half": made.half, "uniform_half": made.uniform,
        "rms": rms[0], "uniform_rms": rms[1],
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--laws", type=int, default=200)
    laws = parser.parse_args().laws
    for budget in BUDGETS:
        found = compare(budget, laws)
        print(
            f"{budget:.0e} FLOPs: {found['runs']} runs against {found['uniform_runs']}; half interval "
            f"{found['half']:.3f} against {found['uniform_half']:.3f} "
            f"({found['half'] / found['uniform_half'] - 1:+.0%}); rms of the forecast "
            f"{found['rms']:.3f} against {found['uniform_rms']:.3f} "
            f"({found['rms'] / found['uniform_rms'] - 1:+.0%})"
        )
