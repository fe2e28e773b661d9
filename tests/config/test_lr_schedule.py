"""Learning rates against closed forms; the golden file of the authors' code is replayed by test_parity.py."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalevit.config.lr_schedule import Schedule, branch_schedule, last_common_step, lr_at

PAPER = Schedule("rsqrt", lr=8e-4, steps=1_000_000, warmup=10_000, timescale=10_000, cooldown=50_000)

trunks = st.builds(
    Schedule, st.sampled_from(["rsqrt", "constant"]), lr=st.floats(1e-5, 1), steps=st.integers(200, 10_000),
    warmup=st.integers(0, 100), timescale=st.integers(1, 1000), cooldown=st.just(0),
)  # fmt: skip


def test_the_first_step_of_a_warm_up_has_rate_zero():
    assert lr_at(PAPER, 0) == 0
    assert lr_at(PAPER, 5_000) == pytest.approx(4e-4)


def test_reciprocal_square_root_of_the_paper():
    assert lr_at(PAPER, 10_000) == pytest.approx(8e-4)
    assert lr_at(PAPER, 40_000) == pytest.approx(4e-4)
    assert lr_at(PAPER, 510_000) == pytest.approx(8e-4 / math.sqrt(51))


def test_the_cooldown_anneals_from_the_curve_it_meets():
    halfway = 975_000
    assert lr_at(PAPER, halfway) == pytest.approx(0.5 * 8e-4 / math.sqrt(1 + (halfway - 10_000) / 10_000))
    assert lr_at(PAPER, 1_000_000) == 0


def test_cosine_and_linear_end_where_they_say():
    cosine = Schedule("cosine", lr=1.0, steps=110, warmup=10, cooldown=0)
    assert lr_at(cosine, 60) == pytest.approx(0.5)
    assert lr_at(cosine, 110) == pytest.approx(0)
    linear = Schedule("linear", lr=1.0, steps=110, warmup=10, cooldown=0, end=0.2)
    assert lr_at(linear, 60) == pytest.approx(0.6)
    assert lr_at(linear, 110) == pytest.approx(0.2)


@given(trunks, st.integers(0, 10_000), st.integers(1, 500), st.data())
def test_a_branch_equals_its_trunk_until_it_leaves(trunk, at, cooldown, data):
    at = min(at, trunk.steps)
    branched = branch_schedule(trunk, at, cooldown)
    step = data.draw(st.integers(0, at))
    assert lr_at(branched, step) == lr_at(trunk, step)
    assert lr_at(branched, at + cooldown) == 0
    assert branched.steps == at + cooldown


@given(trunks, st.integers(0, 20_000))
def test_rates_stay_between_zero_and_the_peak(trunk, step):
    assert 0 <= lr_at(trunk, step) <= trunk.lr


def test_what_cannot_be_branched_is_refused():
    with pytest.raises(ValueError, match="cosine schedule cannot be branched"):
        branch_schedule(Schedule("cosine"), 10, 10)
    with pytest.raises(ValueError, match="plateau ends at 950000"):
        branch_schedule(PAPER, 960_000, 10)
    assert last_common_step(PAPER) == 950_000
