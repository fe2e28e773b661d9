"""Joint laws: planted ones come back, left-out groups are held, intervals widen outwards, bad input."""

import numpy as np
import pytest

import scalevit as sv
from scalevit.study.laws.joint import fit_joint, forecast_joint
from scalevit.study.planning.expected_error import paper_law, published

SIZES, IMAGES = np.geomspace(1e9, 1e12, 7), np.geomspace(1e7, 1e10, 8)
F, N = (grid.ravel() for grid in np.meshgrid(SIZES, IMAGES))


def added(f, n):
    return 0.15 * (f / 1e10) ** -0.3 + 0.12 * (n / 1e8) ** -0.4 + 0.06


def crossing(f, n):
    return 0.8 * added(f, n) + 0.07 * (f / 1e10) ** -0.3 * (n / 1e8) ** -0.4


def scattered(y, seed=0, scale=0.02):
    return y * np.exp(scale * np.random.default_rng(seed).normal(size=len(y)))


@pytest.mark.parametrize("task", ["imagenet_10shot", "imagenet_finetune"])
def test_the_joint_law_follows_the_tables(task):
    runs, law = published(task), paper_law(task)
    ours = law.predict(runs.flops, runs.seen, runs.unique)
    assert len(ours) > 200
    assert np.sqrt(np.mean(np.log(ours / runs.error) ** 2)) < 0.065
    assert law.agreeing >= 3
    assert law.params["h"] < 0  # the same images teach a larger model for a shorter while


def test_intervals_hold_for_models_the_law_has_not_seen():
    runs = published("imagenet_10shot")
    small = ~np.isin(runs.model, ["g/14", "G/14"])
    columns = [column[small] for column in (runs.flops, runs.seen, runs.unique, runs.error)]
    law = fit_joint(*columns, groups=runs.model[small])
    rows = zip(*(column[~small] for column in (runs.flops, runs.seen, runs.unique, runs.error)))
    inside = []
    for flops, seen, unique, error in rows:
        expected = law.expect(flops, seen, unique)
        assert "model size" in expected.beyond
        inside.append(expected.low <= error <= expected.high)
    assert len(inside) >= 7
    assert np.mean(inside) >= 0.9


def test_planted_joint_laws_come_back():
    law, runs = paper_law("imagenet_10shot"), published("imagenet_10shot")
    truth = law.predict(runs.flops, runs.seen, runs.unique)
    again = sv.fit_joint(runs.flops, runs.seen, runs.unique, truth)
    assert again.error(5e11, 2e10, 3e9) == pytest.approx(law.error(5e11, 2e10, 3e9), rel=0.01)
    assert again.params["alpha"] == pytest.approx(law.params["alpha"], rel=0.02)
    assert again.params["h"] == pytest.approx(law.params["h"], abs=0.05)
    plain = fit_joint(F, N, None, added(F, N))
    assert plain.error(5e12, 1e11) == pytest.approx(added(5e12, 1e11), rel=1e-3)
    assert plain.params["b_F"] == pytest.approx(0.3, rel=1e-2)
    assert plain.floor == pytest.approx(0.06, rel=1e-2)


def test_the_crossed_term_is_taken_where_it_helps():
    law = fit_joint(F, N, None, scattered(crossing(F, N), scale=0.005))
    assert law.law == "crossed"
    assert law.params["g"] > 0
    assert law.spread == pytest.approx(0.005, rel=0.4)
    assert law.error(1e12, 1e11) == pytest.approx(crossing(1e12, 1e11), rel=0.03)


def test_intervals_widen_with_distance_and_level():
    law = fit_joint(F, N, None, scattered(added(F, N)))
    seen = [law.expect(1e11, n) for n in (1e9, 3e10, 1e12)]
    width = [np.log(one.high / one.low) for one in seen]
    assert width[0] < width[1] < width[2]
    assert [one.beyond for one in seen] == [(), ("images seen",), ("images seen",)]
    wide = law.expect(1e11, 1e9, level=0.99)
    assert wide.low < seen[0].low and wide.high > seen[0].high
    assert np.all(law.predict(1e3, 1.0) <= 1)


@pytest.mark.parametrize("truth", [added, crossing])
def test_forecasts_hold_new_measurements(truth):
    known, ahead = (N < 1.5e9) & (F < 4e11), (N > 1.5e9) & (F > 4e11)
    x, held, missed = np.stack([F, N], 1), [], []
    for seed in range(6):
        y = scattered(truth(F, N), seed)
        found = forecast_joint(x[known], y[known], x[ahead], chance=1.0)
        held.append((found.low <= y[ahead]) & (y[ahead] <= found.high))
        missed.append(np.log(found.mean / truth(F, N)[ahead]))
    assert np.mean(held) >= 0.85
    assert np.sqrt(np.mean(np.square(missed))) < 0.05
    assert any("x2 lies outside" in note for note in found.warnings)
    assert sum(found.members.values()) == pytest.approx(1)


def test_forecasts_of_the_giants_hold():
    runs = published("imagenet_10shot")
    small = ~np.isin(runs.model, ["g/14", "G/14"])
    x = np.stack([runs.flops, runs.seen, runs.unique], 1)
    found = sv.forecast_joint(x[small], runs.error[small], x[~small], groups=runs.model[small])
    inside = (found.low <= runs.error[~small]) & (runs.error[~small] <= found.high)
    assert np.mean(inside) >= 0.9
    assert found.backtests == len(set(runs.model[small]))


def test_units_do_not_matter_and_missing_rows_are_left_out():
    x, y = np.stack([F, N], 1), scattered(added(F, N))
    plain = forecast_joint(x, y, [[1e13, 1e11]])
    gap = np.vstack([x, [1e9, np.nan]])
    other = forecast_joint(gap / [1e9, 1e3], 7 * np.append(y, 0.1), [[1e4, 1e8]])
    assert other.mean[0] == pytest.approx(7 * plain.mean[0], rel=1e-4)
    assert other.high[0] / other.low[0] == pytest.approx(plain.high[0] / plain.low[0], rel=1e-3)


@pytest.mark.parametrize(
    ("rows", "change", "says"),
    [
        (slice(None), lambda y: 100 * y, "per cent"),
        (slice(None), lambda y: y - 0.5, "zero, negative"),
        (SIZES[0] == F, lambda y: y, "0 groups"),
        (slice(0, 5), lambda y: y, "5 runs cannot fix"),
        (slice(None), lambda y: y[:4], "equally long"),
    ],
)
def test_bad_input_is_a_clear_message(rows, change, says):
    with pytest.raises(ValueError, match=says):
        fit_joint(F[rows], N[rows], None, change(added(F, N)[rows]))


def test_inputs_must_fit_the_law():
    law = fit_joint(F, N, None, added(F, N))
    with pytest.raises(ValueError, match="without unique images"):
        law.error(1e10, 1e9, 1e8)
    with pytest.raises(ValueError, match="inputs >= 2"):
        forecast_joint(F, added(F, N), F)
    with pytest.raises(ValueError, match="x_new must be positive"):
        forecast_joint(np.stack([F, N], 1), added(F, N), [[1e9, -1]])
