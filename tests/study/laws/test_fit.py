"""Laws against planted parameters, finite differences and scipy; what a fit says about itself; bad input."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from scalevit.study.laws.fit import fit
from scalevit.study.laws.forms import FORMS
from scalevit.study.laws.least_squares import Prior, Problem, levenberg_marquardt

X = np.geomspace(1, 1e4, 40)
PLANTED = {
    "M1": (0.6, 0.3),
    "M2": (0.6, 0.4, 0.1),
    "M3": (2.0, 0.4, 1e-3),
    "M4": (0.9, 0.5, 0.08, 0.95, 0.7),
    "saturating": (0.63, 0.32, 0.12, 0.52),
    "BNSL": (0.7, 0.1, 0.02, 80.0, 0.35, 0.5),
    "power": (0.02, 0.513),
    "ceiling": (80.0, 0.6, 100.0),
}


def planted(law, x=X):
    p = PLANTED[law]
    if law == "M3":
        return p[0] * (1 / x + p[2]) ** p[1]
    if law == "saturating":
        return p[0] * (x + p[3]) ** -p[1] + p[2]
    if law == "BNSL":
        return p[2] + p[0] * x ** -p[1] * (1 + (x / p[3]) ** (1 / p[5])) ** (-p[4] * p[5])
    if law == "M4":
        low, high = np.full_like(x, p[2]), np.full_like(x, p[3])
        for _ in range(200):
            y = (low + high) / 2
            above = np.log(y - p[2]) - p[4] * np.log(p[3] - y) > np.log(p[0] * x ** -p[1])
            low, high = np.where(above, low, y), np.where(above, y, high)
        return y
    if law == "power":
        return p[0] * x ** p[1]
    if law == "ceiling":
        return p[0] / (1 + (p[2] / x) ** p[1])
    return p[0] * x ** -p[1] + (p[2] if law == "M2" else 0)


@pytest.mark.parametrize("law", FORMS)
def test_gradients_agree_with_finite_differences(law):
    form, step = FORMS[law], 1e-6
    u, v = np.log(X / X[-1]), np.log(0.6 * X**-0.3 + 0.1)
    theta = form.starts(u, v) + 0.1 * np.random.default_rng(0).normal(size=form.starts(u, v).shape)
    gradient = form.value(theta, u[None])[1]
    for column, away in enumerate(step * np.eye(theta.shape[1])):
        change = form.value(theta + away, u[None])[0] - form.value(theta - away, u[None])[0]
        np.testing.assert_allclose(gradient[:, :, column], change / (2 * step), atol=2e-6)


@pytest.mark.parametrize("law", PLANTED)
def test_planted_laws_come_back(law):
    found = fit(X, planted(law), law, bootstrap=20)
    np.testing.assert_allclose(found.predict(X), planted(law), rtol=2e-4)
    np.testing.assert_allclose(found.predict([3e4]), planted(law, np.array([3e4])), rtol=5e-3)
    if law in ("M1", "M2", "M3", "saturating", "power", "ceiling"):
        assert list(found.params.values()) == pytest.approx(PLANTED[law], rel=2e-3)
        assert found.agreeing >= 2


@pytest.mark.parametrize("b", [0.1, 0.3, 0.513, 0.7, -0.3])
def test_exponents_of_rising_laws_come_back(b):
    x = np.geomspace(1e18, 1e24, 12)
    found = fit(x, 0.05 * x**b * np.exp(0.03 * np.random.default_rng(1).normal(size=12)), "power")
    low, high = found.ranges()["b"]
    assert found.params["b"] == pytest.approx(b, abs=0.02)
    assert low < high and high - low < 0.02


def test_floor_is_the_value_far_away():
    assert fit(X, planted("power"), "power", bootstrap=0).floor == np.inf
    for law in PLANTED.keys() - {"power"}:
        found = fit(X, planted(law), law, bootstrap=0)
        far = found.predict([1e60])[0]
        assert found.floor == pytest.approx(far, rel=0.05, abs=1e-4), law


def test_agrees_with_scipy_on_noisy_data():
    y = planted("saturating") * np.exp(0.02 * np.random.default_rng(3).normal(size=len(X)))
    found = fit(X, y, bootstrap=0)

    def residuals(p):
        a, b, c, d = np.exp(p)
        r = np.log(a * (X + d) ** -b + c) - np.log(y)
        return np.sqrt(
            2 * np.where(np.abs(r) < found.knee, r**2 / 2, found.knee * (np.abs(r) - found.knee / 2))
        )

    scipy = least_squares(residuals, np.log(list(found.params.values())) + 0.05, xtol=1e-14, ftol=1e-14)
    assert np.sum(residuals(np.log(list(found.params.values()))) ** 2) <= 2 * scipy.cost * (1 + 1e-6)
    assert found.spread == pytest.approx(0.02, rel=0.35)


@settings(max_examples=6, deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(1e-4, 1e4), st.integers(0, 10**6))
def test_units_do_not_matter_and_neither_does_order(kx, ky, seed):
    noisy = planted("saturating") * np.exp(0.01 * np.random.default_rng(1).normal(size=len(X)))
    order = np.random.default_rng(seed).permutation(len(X))
    plain, other = fit(X, noisy, bootstrap=0), fit((kx * X)[order], (ky * noisy)[order], bootstrap=0)
    np.testing.assert_allclose(other.predict(kx * X), ky * plain.predict(X), rtol=1e-5)
    assert other.params["b"] == pytest.approx(plain.params["b"], rel=1e-3)
    assert other.params["d"] == pytest.approx(kx * plain.params["d"], rel=1e-2)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.05, 0.9), st.floats(0.05, 0.09))
def test_intervals_are_nested_in_level_and_within_chance(level, more):
    y = np.minimum(planted("M2") * np.exp(0.05 * np.random.default_rng(2).normal(size=len(X))), 0.7)
    found, grid = fit(X, y, "M2", bootstrap=60, chance=0.7), np.geomspace(1e-2, 1e6, 30)
    (low, high), (lower, higher) = found.interval(grid, level), found.interval(grid, level + more)
    assert np.all(lower <= low) and np.all(high <= higher)
    assert np.all(low <= found.predict(grid)) and np.all(found.predict(grid) <= high)
    assert np.all(higher <= 0.7) and np.all(lower > 0)


def test_bootstrap_intervals_hold_the_planted_law():
    held = []
    for seed in range(40):
        y = planted("M2") * np.exp(0.02 * np.random.default_rng(seed).normal(size=len(X)))
        low, high = fit(X, y, "M2", bootstrap=100, seed=seed).interval(X[[0, 20, 39]])
        held.append((low <= planted("M2")[[0, 20, 39]]) & (planted("M2")[[0, 20, 39]] <= high))
    assert 0.78 <= np.mean(held) <= 0.97


def test_band_holds_more_than_the_interval_and_huber_ignores_an_outlier():
    y = planted("saturating").copy()
    clean = fit(X, y * np.exp(0.005 * np.sin(np.arange(len(X)))), bootstrap=200)
    (low, high), (lower, higher) = clean.interval(X), clean.band(X)
    assert np.mean(np.log(higher / lower)) > np.mean(np.log(high / low))
    y[12] *= 2
    assert fit(X, y, bootstrap=0).params["b"] == pytest.approx(0.32, abs=0.01)


def test_profile_agrees_with_the_curvature_of_the_likelihood():
    y = planted("M2") * np.exp(0.01 * np.random.default_rng(5).normal(size=len(X)))
    found = fit(X, y, "M2", bootstrap=400)
    values, lost = found.profile("b", np.linspace(-0.2, 0.2, 41))
    inside = values[lost < 2.71]
    low, high = found.ranges(0.9)["b"]
    assert lost.min() == pytest.approx(0, abs=1e-6)
    assert inside.min() == pytest.approx(low, rel=0.05)
    assert inside.max() == pytest.approx(high, rel=0.05)
    assert np.diag(found.correlation()) == pytest.approx(np.ones(3))
    with pytest.raises(ValueError, match="b, c"):
        found.profile("a", [0.1])


def test_residuals_by_label():
    found = fit(X, planted("M2") * np.where(np.arange(len(X)) % 2, 1.01, 0.99), "M2", bootstrap=0)
    by = found.residuals_by(["odd" if i % 2 else "even" for i in range(len(X))])
    assert by["odd"][0] == pytest.approx(0.01, abs=2e-3)
    assert by["even"][1] == pytest.approx(0.01, abs=2e-3)


def test_weights_are_repetitions():
    x, y = X[:12], planted("M2")[:12] * np.exp(0.02 * np.random.default_rng(0).normal(size=12))
    weights = np.arange(12) % 3
    once = fit(x, y, "M2", weights=weights, bootstrap=0)
    u, v = np.log(x / x[-1])[None], np.log(y / y.min())[None]
    knee = np.full(1, np.inf)
    repeated = np.repeat(np.arange(12), weights)
    several = Problem(once.form, u[:, repeated], v[:, repeated], np.ones((1, len(repeated))), knee)
    weighted = Problem(once.form, u, v, weights[None].astype(float), knee)
    start = once.form.starts(u[0], v[0])
    assert levenberg_marquardt(weighted, start)[1].min() == pytest.approx(
        levenberg_marquardt(several, start)[1].min(), rel=1e-8
    )


def test_an_infinitely_strong_prior_is_obeyed():
    form = FORMS["M1"]
    prior = Prior(np.array([[0.0, np.log(0.9)]]), np.diag([0.0, 1e9])[None])
    u, v = np.log(X / X[-1])[None], -0.3 * np.log(X / X[-1])[None]
    theta, _ = levenberg_marquardt(
        Problem(form, u, v, np.ones_like(u), np.array([np.inf]), prior), np.zeros((1, 2))
    )
    assert np.exp(theta[0, 1]) == pytest.approx(0.9, rel=1e-4)


@pytest.mark.parametrize(
    ("x", "y", "law", "says"),
    [
        ([1, 2], [0.5, 0.4], "saturating", "2 different x"),
        ([1, 1, 1, 1, 1], [0.5, 0.4, 0.3, 0.2, 0.1], "M2", "1 different x"),
        ([1, 2, 3, 4], [0.5, 0.4, 0.0, -1], "M2", "2 points have x or y that is zero"),
        ([1, 2, 3, 4], [50, 40, 30, 25], "M2", "per cent"),
        ([1, 2, 3, 4], [0.5, 0.4, 0.3, 0.2], "m5", "nearest: M"),
        ([np.nan, 2], [0.5, np.nan], "M1", "no points"),
        ([1, 2, 3], [0.5, 0.4], "M1", "equally long"),
    ],
)  # fmt: skip
def test_bad_input_is_a_clear_message(x, y, law, says):
    with pytest.raises(ValueError, match=says):
        fit(x, y, law, chance=1.0)


def test_weak_data_is_said():
    flat = 0.3 * np.exp(0.02 * np.random.default_rng(0).normal(size=len(X)))
    assert any("does not fall" in note for note in fit(X, flat, "M2", bootstrap=10).warnings)
    assert any("neither rises" in note for note in fit(X, flat, "power", bootstrap=10).warnings)
    assert any("guess" in note for note in fit(X[:3], planted("M2")[:3], "M2", bootstrap=10).warnings)
    with pytest.raises(ValueError, match="between 0 and 1"):
        fit(X, planted("M1"), "M1", bootstrap=10).interval(X, 90)


def test_a_law_through_many_points_is_the_same_and_takes_no_longer():
    x = np.geomspace(1, 1e4, 50_000)
    y = (0.6 * (x + 0.5) ** -0.35 + 0.1) * np.exp(0.05 * np.random.default_rng(0).normal(size=len(x)))
    start = time.process_time()
    found = fit(x, y, weights=np.where(x > 9000, 0.0, 1.0))
    assert time.process_time() - start < 15  # 1.2 s where types are not checked
    for name, planted in {"a": 0.6, "b": 0.35, "c": 0.1, "d": 0.5}.items():
        low, high = found.ranges(0.999)[name]
        assert low < planted < high and high / low < 1.3
    assert found.spread == pytest.approx(0.05, rel=0.03) and len(found.residuals) == len(x)
