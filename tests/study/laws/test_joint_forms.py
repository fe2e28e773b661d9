"""Laws of several inputs: gradients against finite differences, values against their formulas."""

import numpy as np
import pytest

from scalevit.study.laws.joint_forms import DIMENSION, REPEATING, crossed, products, sums

NAMES = ("p", "q")
FORMS = [sums(NAMES), crossed((*NAMES, "r")), products(NAMES), REPEATING, DIMENSION]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_gradients_agree_with_finite_differences(form):
    random, step = np.random.default_rng(0), 1e-6
    u, v = random.normal(size=(30, form.inputs)), 0.5 * random.normal(size=30)
    theta = form.starts(u, v)
    theta = theta + 0.2 * random.normal(size=theta.shape)
    gradient = form.value(theta, u[None])[1]
    for column, away in enumerate(step * np.eye(theta.shape[1])):
        change = form.value(theta + away, u[None])[0] - form.value(theta - away, u[None])[0]
        np.testing.assert_allclose(gradient[:, :, column], change / (2 * step), atol=5e-6)


FORMULAS = {
    "sum": lambda p, x: p["a_p"] * x[0] ** -p["b_p"] + p["a_q"] * x[1] ** -p["b_q"] + p["c"],
    "crossed": lambda p, x: (
        p["a_p"] * x[0] ** -p["b_p"] + p["a_q"] * x[1] ** -p["b_q"] + p["a_r"] * x[2] ** -p["b_r"]
        + p["g"] * x[0] ** -p["b_p"] * x[1] ** -p["b_q"] * x[2] ** -p["b_r"] + p["c"]
    ),
    "product": lambda p, x: p["g"] * x[0] ** -p["b_p"] * x[1] ** -p["b_q"] + p["c"],
    "repeating": lambda p, x: (
        p["a"] * x[0] ** -p["alpha"] + p["c"] + p["b"] * (
            (x[1] + p["d"]) ** -p["q"] + (p["k"] * x[2] * x[0] ** p["h"]) ** -p["q"]
        ) ** (p["beta"] / p["q"])
    ),
    "dimension": lambda p, x: (
        p["alpha"] * x[0] ** -p["a"] + (p["beta"] * x[0] ** p["b"] + p["xi"]) * x[1] ** -p["c"] + p["eps"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_natural_parameters_give_the_formula(form):
    random = np.random.default_rng(1)
    theta = 0.3 * random.normal(size=(1, len(form.parameters)))
    x, x0, y0 = random.uniform(1, 50, (20, form.inputs)), random.uniform(1, 50, form.inputs), 0.3
    named = dict(zip(form.parameters, form.natural(theta, x0, y0)[0]))
    ours = y0 * np.exp(form.value(theta, np.log(x / x0)[None])[0][0])
    np.testing.assert_allclose(ours, FORMULAS[form.name](named, x.T), rtol=1e-9)
    assert form.floor(form.natural(theta, x0, y0))[0] == named["eps" if "eps" in named else "c"]
