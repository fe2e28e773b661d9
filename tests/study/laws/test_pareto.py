"""The frontier against its definition, and exponents against a planted optimum."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalevit.study.laws.pareto import frontier, size_exponent, smooth_frontier

RUNS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=25)


@given(RUNS)
def test_is_what_nobody_beats(runs):
    compute, error = np.array(runs, float).T
    best = frontier(compute, error)
    for i, (c, e) in enumerate(runs):
        beaten = any((c2 <= c and e2 < e) or (c2 < c and e2 <= e) for c2, e2 in runs)
        first = runs.index((c, e)) == i
        assert (i in best.index) == (not beaten and first)
    assert np.all(np.diff(best.compute) > 0) and np.all(np.diff(best.error) < 0)


def test_labels_and_missing_rows():
    best = frontier([1, 2, np.nan, 3], [0.5, 0.6, 0.1, 0.2], ["S", "S", "B", "L"])
    assert best.size == ("S", "L") and best.index.tolist() == [0, 3]
    with pytest.raises(ValueError, match="no run"):
        frontier([np.nan], [0.1])
    with pytest.raises(ValueError, match="equally long"):
        frontier([1, 2], [0.1])


def grid_of_runs(noise):
    """error = N^-.5 + (C / N)^-.5, best at N = C^.5."""
    sizes, computes = np.meshgrid(np.geomspace(1, 1e3, 13), np.geomspace(10, 1e5, 25))
    scatter = np.exp(noise * np.random.default_rng(0).normal(size=sizes.shape))
    return computes.ravel(), ((sizes**-0.5 + (computes / sizes) ** -0.5) * scatter).ravel(), sizes.ravel()


def test_exponent_of_the_optimal_size():
    best = frontier(*grid_of_runs(0.0))
    slope, low, high = size_exponent(best)
    assert slope == pytest.approx(0.5, abs=0.03)
    assert low < 0.5 < high or high - low < 0.06
    with pytest.raises(ValueError, match="three"):
        size_exponent(frontier([1, 2], [0.5, 0.4], [1, 2]))


def test_smoothing_undoes_the_luck_of_the_strict_frontier():
    compute, error, size = grid_of_runs(0.05)
    grid = np.geomspace(30, 3e4, 12)
    strict, smooth = frontier(compute, error, size), smooth_frontier(compute, error, size, grid)
    truth = 2 * grid**-0.25
    lucky = np.log(np.interp(grid, strict.compute, strict.error) / truth)
    even = np.log(smooth.error / (2 * smooth.compute**-0.25))
    assert np.sqrt(np.mean(even**2)) < np.sqrt(np.mean(lucky**2))
    assert size_exponent(smooth)[0] == pytest.approx(0.5, abs=0.08)
    with pytest.raises(ValueError, match="nothing to smooth"):
        smooth_frontier([1, 2], [0.5, 0.4], ["a", "b"], [1, 2])
