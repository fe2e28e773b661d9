"""Compute multipliers against planted laws, whose multiplier is known in closed form."""

import numpy as np
import pytest

from scalevit.study.compare.arm import arm
from scalevit.study.compare.multiplier import multiplier

COMPUTE = np.geomspace(1e12, 1e15, 18)


def law(x, amplitude=0.5, exponent=0.2, floor=0.02):
    return amplitude * (x / 1e12) ** -exponent + floor


def noisy(values, seed, deviation=0.02):
    return values * np.exp(deviation * np.random.default_rng(seed).standard_normal(len(values)))


@pytest.mark.parametrize("worth", [0.5, 1.0, 1.3])
def test_a_constant_multiplier_is_found_without_noise(worth):
    result = multiplier(arm("a", COMPUTE, law(COMPUTE)), arm("b", COMPUTE, law(worth * COMPUTE)))
    np.testing.assert_allclose(result.worth, worth, rtol=1e-3)
    np.testing.assert_allclose(result.compute[0] / result.compute[1], result.worth, rtol=1e-3)


def test_the_multiplier_of_two_exponents_is_that_of_their_inverses():
    a = arm("a", COMPUTE, law(COMPUTE, floor=0.0))
    b = arm("b", COMPUTE, law(COMPUTE, 0.6, 0.25, floor=0.0))
    result = multiplier(a, b)
    expected = (result.errors / 0.5) ** (-1 / 0.2) / (result.errors / 0.6) ** (-1 / 0.25)
    np.testing.assert_allclose(result.worth, expected, rtol=1e-3)


def test_the_unit_of_compute_does_not_matter():
    errors = noisy(law(COMPUTE), 0), noisy(law(1.3 * COMPUTE), 1)
    flops = multiplier(arm("a", COMPUTE, errors[0]), arm("b", COMPUTE, errors[1]))
    hours = multiplier(arm("a", COMPUTE / 1e13, errors[0]), arm("b", COMPUTE / 1e13, errors[1]))
    np.testing.assert_allclose(flops.worth, hours.worth, rtol=1e-6)


def test_swapping_the_arms_inverts_the_multiplier():
    a, b = arm("a", COMPUTE, noisy(law(COMPUTE), 0)), arm("b", COMPUTE, noisy(law(1.3 * COMPUTE), 1))
    there, back = multiplier(a, b), multiplier(b, a)
    np.testing.assert_allclose(there.errors, back.errors, rtol=1e-9)
    np.testing.assert_allclose(there.worth, 1 / back.worth, rtol=1e-6)
    assert there.p_value == pytest.approx(back.p_value, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("worth", "exponent"), [(1.0, 0.2), (1.4, 0.2), (1.0, 0.24)])
def test_nine_of_ten_intervals_hold_the_truth(worth, exponent):
    """40 planted pairs with 2 % noise: fewer than 28 would happen less than once in two hundred times for
    intervals that hold 85 %."""
    held = []
    for seed in range(40):
        a = arm("a", COMPUTE, noisy(law(COMPUTE), 2 * seed))
        b = arm("b", COMPUTE, noisy(law(worth * COMPUTE, exponent=exponent), 2 * seed + 1))
        result = multiplier(a, b, seed=seed)
        middle = len(result.errors) // 2
        error = result.errors[middle]
        above_floor = (error - 0.02) / 0.5
        truth = worth * above_floor ** (-1 / 0.2) / above_floor ** (-1 / exponent)
        held.append(result.low[middle] <= truth <= result.high[middle])
    assert sum(held) >= 28


def test_seeds_of_a_node_are_averaged_and_weigh_more():
    errors = [noisy(law(COMPUTE), seed) for seed in range(3)]
    keys = [*range(18)] * 3
    together = arm("a", np.tile(COMPUTE, 3), np.concatenate(errors), keys=keys)
    np.testing.assert_allclose(together.error, np.exp(np.mean(np.log(errors), axis=0)))
    assert together.seeds.tolist() == [3] * 18


def test_only_the_frontier_of_several_sizes_counts():
    large = arm(
        "a", np.r_[COMPUTE, COMPUTE], np.r_[law(COMPUTE), 2 * law(COMPUTE)],
        keys=[*range(36)], sizes=["good"] * 18 + ["bad"] * 18,
    )  # fmt: skip
    assert set(large.frontier().sizes) == {"good"} and len(large.frontier().compute) == 18


@pytest.mark.parametrize(
    ("compute", "error", "message"),
    [
        (COMPUTE[:3], law(COMPUTE[:3]), "3 different computes"),
        (COMPUTE, -law(COMPUTE), "positive and finite"),
        ([], [], "no finished run"),
    ],
)
def test_arms_without_a_law_are_refused(compute, error, message):
    with pytest.raises(ValueError, match=message):
        arm("a", compute, error).frontier()


def test_arms_without_a_common_error_are_refused_with_what_they_reach():
    with pytest.raises(ValueError, match="no error is reached by both"):
        multiplier(arm("a", COMPUTE, law(COMPUTE)), arm("b", COMPUTE, 0.01 * law(COMPUTE)))
