"""SoViT's law of one dimension: planted laws come back, and the optimum is where the curve is lowest."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from scalevit.study.laws.dimension import fit_dimension

PLANTED = {"alpha": 20.0, "beta": 2e-4, "xi": 0.3, "a": 0.8, "b": 1.0, "c": 0.5, "eps": 0.1}
WIDTHS, COMPUTES = (416.0, 512.0, 608.0, 768.0, 1088.0, 1648.0), np.geomspace(10, 3000, 8)


def error(x, t):
    p = PLANTED
    return p["alpha"] * x ** -p["a"] + (p["beta"] * x ** p["b"] + p["xi"]) * t ** -p["c"] + p["eps"]


def sweep(noise=0.0, seed=0):
    x, t = (grid.ravel() for grid in np.meshgrid(WIDTHS, COMPUTES))
    return x, t, error(x, t) * np.exp(noise * np.random.default_rng(seed).normal(size=len(x)))


def test_a_planted_law_comes_back_with_its_optimum():
    law = fit_dimension(*sweep(), bootstrap=10)
    assert law.params == pytest.approx(PLANTED, rel=1e-3)
    assert law.exponent == pytest.approx(0.5 / 1.8, rel=1e-4)
    assert law.agreeing >= 2
    for t in (20.0, 300.0):
        lowest = minimize_scalar(lambda ln, t=t: error(np.exp(ln), t), bounds=(3, 10), method="bounded").x
        assert law.optimum(t) == pytest.approx(np.exp(lowest), rel=1e-3)
    grid = np.geomspace(100, 1e4, 400)
    best = grid[np.argmin(law.predict(grid, COMPUTES[:, None]), axis=1)]
    np.testing.assert_allclose(law.optimum(COMPUTES), best, rtol=0.02)


def test_the_optimum_grows_by_its_exponent():
    law = fit_dimension(*sweep(0.003, seed=1), bootstrap=10)
    slope = np.diff(np.log(law.optimum([10.0, 1000.0])))[0] / np.log(100)
    assert slope == pytest.approx(law.exponent)


def test_intervals_of_the_exponent_hold_the_truth():
    held = []
    for seed in range(12):
        low, high = fit_dimension(*sweep(0.003, seed), bootstrap=60).exponent_range()
        held.append(low <= 0.5 / 1.8 <= high)
    assert np.mean(held) >= 0.7


def test_units_do_not_matter():
    x, t, y = sweep(0.002)
    plain, other = fit_dimension(x, t, y, bootstrap=2), fit_dimension(x / 64, 1e9 * t, 100 * y, bootstrap=2)
    assert other.exponent == pytest.approx(plain.exponent, rel=1e-3)
    np.testing.assert_allclose(64 * other.optimum(1e9 * COMPUTES), plain.optimum(COMPUTES), rtol=1e-3)


def test_weak_sweeps_are_said_or_refused():
    x, t, y = sweep()
    assert fit_dimension(x, t, y, bootstrap=2).warnings == ()
    narrow = x < 600
    only = fit_dimension(*(c[narrow | (x == 608)] for c in (x, t, y)), bootstrap=2)
    assert any("inside the sweep" in note for note in only.warnings)
    with pytest.raises(ValueError, match="two computes"):
        fit_dimension(x[:6], t[:6], y[:6])
    with pytest.raises(ValueError, match="zero, negative"):
        fit_dimension(x, t, y - 1)
    with pytest.raises(ValueError, match="equally long"):
        fit_dimension(x, t[:5], y)
