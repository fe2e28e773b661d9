"""Joint laws: planted ones come back, left-out groups are held, intervals widen outwards, bad input."""

import numpy as np
import pytest

import scalevit as sv
from scalevit.study.laws.compute_optimal import isoflop
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
        fit_joint(F[rows], N[rows], None, change(added(F, N)[rows]), chance=1.0)


def test_inputs_must_fit_the_law():
    law = fit_joint(F, N, None, added(F, N))
    with pytest.raises(ValueError, match="without unique images"):
        law.error(1e10, 1e9, 1e8)
    with pytest.raises(ValueError, match="inputs >= 2"):
        forecast_joint(F, added(F, N), F)
    with pytest.raises(ValueError, match="x_new must be positive"):
        forecast_joint(np.stack([F, N], 1), added(F, N), [[1e9, -1]])


def chinchilla(seed=0, noise=0.005):
    """Runs of 8 sizes at 7 budgets about their optimum, by the law that Besiroglu et al. (arXiv 2404.10102)
    refitted: 1.8172 + 482.01 N^-.3478 + 2085.43 D^-.3658."""
    budgets = np.geomspace(6e18, 3e21, 7)
    size = np.concatenate([0.1 * budget**0.5 * np.geomspace(0.2, 5, 8) for budget in budgets])
    data = np.repeat(budgets, 8) / 6 / size
    loss = 1.8172 + 482.01 * size**-0.3478 + 2085.43 * data**-0.3658
    return size, data, loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(loss)))


def test_losses_give_chinchillas_law_with_intervals_of_its_parameters():
    size, data, loss = chinchilla()
    law = fit_joint(size, data, loss)
    ranges = law.ranges()
    assert law.law == "sum" and law.chance == np.inf
    for name, planted in {"b_F": 0.3478, "b_n": 0.3658, "c": 1.8172}.items():
        low, high = law.ranges(0.99)[name]
        assert low < planted < high, name
        assert ranges[name][1] - ranges[name][0] < 0.5 * planted
    assert law.predict(1e6, 1e6) > 2


def test_the_compute_optimal_size_is_where_the_law_is_lowest():
    law = fit_joint(*chinchilla(), form="sum")
    a, b, p = law.params["b_F"], law.params["b_n"], law.params
    compute = np.array([1e20, 1e24])
    best = law.optimal(compute)
    closed = (a * p["a_F"] / (b * p["a_n"])) ** (1 / (a + b)) * (compute / 6) ** (b / (a + b))
    np.testing.assert_allclose(best.size, closed, rtol=1e-4)
    np.testing.assert_allclose(6 * best.size * best.data, compute)
    assert best.exponent == pytest.approx(b / (a + b), abs=1e-3)
    assert best.exponent == pytest.approx(0.513, abs=0.03)
    assert np.all((best.size_interval[0] < best.size) & (best.size < best.size_interval[1]))
    assert np.all((best.ratio_interval[0] < best.ratio) & (best.ratio < best.ratio_interval[1]))
    np.testing.assert_allclose(best.y, law.predict(best.size, best.data), rtol=1e-6)
    assert len(best.warnings) == 1 and "1e+24" in best.warnings[0]
    with pytest.raises(ValueError, match="positive and finite"):
        law.optimal([0.0])


def test_isoflop_profiles_agree_with_the_law():
    size, data, loss = chinchilla(noise=0.002)
    profiles = isoflop(size, data, loss)
    assert len(profiles.compute) == 7
    assert profiles.exponent == pytest.approx(0.513, abs=0.05)
    assert profiles.exponent_interval[0] < 0.513 < profiles.exponent_interval[1]
    best = fit_joint(size, data, loss).optimal(profiles.compute)
    np.testing.assert_allclose(profiles.size, best.size, rtol=0.35)
    with pytest.raises(ValueError, match="budgets have a lowest point"):
        isoflop(size, data, size**-0.1)


@pytest.mark.parametrize(("form", "says"), [("summ", "nearest: sum"), ("repeating", "needs three inputs")])
def test_unknown_forms_are_named(form, says):
    with pytest.raises(ValueError, match=says):
        fit_joint(*chinchilla(), form=form)


def test_one_point_at_the_edge_does_not_widen_the_interval():
    size = np.repeat(np.geomspace(1e8, 1e10, 8), 8)
    data, groups = np.tile(np.geomspace(1e9, 1e11, 8), 8), np.repeat(np.arange(8), 8)
    loss = (1.8 + 480 * size**-0.35 + 2000 * data**-0.37) * np.exp(
        np.random.default_rng(0).normal(0, 0.007, len(size))
    )
    loss[24:32] *= 1.02
    longer = data.copy()
    longer[31] *= 1.03
    ends = [
        forecast_joint(np.stack([size, d], axis=1), loss, [[7e10, 1e12]], groups=groups)
        for d in (data, longer)
    ]
    plain, edge = (float(np.log(one.high / one.low)[0]) for one in ends)
    assert edge < 1.3 * plain < 0.5
