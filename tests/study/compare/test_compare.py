"""Verdicts, their correction for many recipes, and the runs that are proposed where nothing can be said."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalevit.study.compare.arm import arm
from scalevit.study.compare.compare import compare_arms
from scalevit.study.compare.figure import draw
from scalevit.study.compare.multiplier import multiplier
from scalevit.study.compare.next_nodes import next_nodes
from scalevit.study.compare.verdict import holm, verdict

COMPUTE = np.geomspace(1e12, 1e15, 18)


def planted(name, seed, worth=1.0, exponent=0.2, nodes=18):
    x = np.geomspace(1e12, 1e15, nodes)
    noise = np.exp(0.02 * np.random.default_rng(seed).standard_normal(nodes))
    return arm(name, x, (0.5 * (worth * x / 1e12) ** -exponent + 0.02) * noise, keys=[*range(nodes)])


def test_a_cheaper_recipe_is_called_better_and_a_dearer_one_worse():
    result = compare_arms([planted("base", 0), planted("fast", 1, 1.6), planted("slow", 2, 0.6)])
    kinds = {pair.multiplier.b.name: pair.verdict.kind for pair in result.pairs}
    assert kinds == {"fast": "better", "slow": "worse"}
    assert "fast needs less compute than base" in result.pairs[0].verdict.sentence


def test_recipes_that_cross_are_said_to_cross_near_the_planted_place():
    result = compare_arms([planted("base", 0), planted("steep", 1, 0.5, 0.25)])
    (pair,) = result.pairs
    planted_at = 1e12 * 2 ** (0.25 / 0.05)  # (c/2)^.25 = c^.2
    assert pair.verdict.kind == "crossing" and pair.verdict.crossing is not None
    assert pair.verdict.crossing.low <= planted_at <= pair.verdict.crossing.high
    assert "beyond" in pair.verdict.sentence


@pytest.mark.slow
def test_equal_recipes_are_rarely_called_different():
    results = [multiplier(planted("a", 2 * seed), planted("b", 2 * seed + 1)) for seed in range(40)]
    kinds = [verdict(result, result.p_value).kind for result in results]
    assert sum(kind not in ("equal", "undecided") for kind in kinds) <= 5  # 2 are expected at 5 %


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    assert all(new >= old for new, old in zip(corrected, p_values))
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(corrected)[order]) >= 0)


def test_holms_own_arithmetic():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_proposed_runs_sharpen_the_multiplier():
    a, b = planted("a", 0, nodes=8), planted("b", 1, 1.08, nodes=8)
    before = multiplier(a, b)
    proposed = next_nodes(before)
    assert len(proposed.compute) and proposed.cost == pytest.approx(2 * proposed.compute.sum())
    more = []
    for index, (name, worth) in enumerate((("a", 1.0), ("b", 1.08))):
        noise = np.exp(0.02 * np.random.default_rng(9 + index).standard_normal(len(proposed.compute)))
        errors = (0.5 * (worth * proposed.compute / 1e12) ** -0.2 + 0.02) * noise
        old = (a, b)[index]
        more.append(arm(name, np.r_[old.compute, proposed.compute], np.r_[old.error, errors]))
    after = multiplier(*more)
    assert np.log(after.high / after.low)[-1] < np.log(before.high / before.low)[-1]


def test_an_arm_that_cannot_be_compared_is_named_with_the_reason():
    short = arm("short", COMPUTE[:3], 0.3 + 0 * COMPUTE[:3])
    result = compare_arms([planted("a", 0), planted("b", 1), short])
    assert [pair.multiplier.b.name for pair in result.pairs] == ["b"]
    assert "3 different computes" in result.refused["short"]


@pytest.mark.parametrize(
    ("names", "base", "message"),
    [
        (["a"], None, "needs two"),
        (["a", "a"], None, "two recipes are called"),
        (["a", "b"], "c", "no recipe"),
    ],
)
def test_what_cannot_be_compared_is_refused(names, base, message):
    with pytest.raises(ValueError, match=message):
        compare_arms([planted(name, index) for index, name in enumerate(names)], base)


def test_the_figure_shows_every_arm_and_every_multiplier():
    figure = draw(compare_arms([planted("base", 0), planted("b", 1), planted("c", 2, 1.5)]))
    laws, worth = figure.axes
    assert [text.get_text() for text in laws.get_legend().get_texts()] == ["base", "b", "c"]
    assert [text.get_text() for text in worth.get_legend().get_texts()] == ["b", "c"]
