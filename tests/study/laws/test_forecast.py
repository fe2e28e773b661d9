"""Forecasts: what is known comes back, intervals hold and widen, units and order do not matter, bad input."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalevit.cli.main import main
from scalevit.config.result import DONE
from scalevit.study.laws.backtest import backtest_cuts, is_smoothed, scale_curve
from scalevit.study.laws.fit import fit
from scalevit.study.laws.forecast import forecast, forecast_curves

X = np.geomspace(1, 300, 20)
AHEAD = np.array([600.0, 1200.0])


def law(x, b=0.4, c=0.1, d=0.5):
    return 0.6 * (np.asarray(x) + d) ** -b + c


def noisy(seed, scale=0.01, **planted):
    return law(X, **planted) * np.exp(scale * np.random.default_rng(seed).normal(size=len(X)))


def test_planted_law_is_forecast():
    found = [forecast(X, noisy(seed), AHEAD) for seed in range(5)]
    miss = np.array([np.log(one.mean / law(AHEAD)) for one in found])
    assert np.sqrt(np.mean(miss**2)) < 0.03


def test_ninety_per_cent_hold_nine_in_ten_new_measurements():
    held, width = [], []
    for seed in range(12):
        random = np.random.default_rng(100 + seed)
        truth = {"b": random.uniform(0.2, 0.8), "c": random.uniform(0, 0.2), "d": random.uniform(0.1, 3)}
        found = forecast(X, noisy(seed, **truth), AHEAD)
        new = law(AHEAD, **truth) * np.exp(0.01 * random.normal(size=2))
        held.append((found.low <= new) & (new <= found.high))
        width.append(np.log(found.high / found.low))
    assert 0.85 <= np.mean(held) < 1
    assert np.mean(width) < 0.12


def test_the_best_so_far_hides_its_noise():
    random, x = np.random.default_rng(0), np.geomspace(1, 100, 60 * 20)
    raw = law(x) * np.exp(0.03 * random.normal(size=len(x)))
    best = np.minimum.accumulate(raw)[::20]
    assert is_smoothed(scale_curve(x[::20], best)) and not is_smoothed(scale_curve(x[::20], raw[::20]))
    assert not is_smoothed(scale_curve(X, law(X)))
    found = forecast(x[::20], best, [110.0])
    honest = 2 * 1.645 * 0.03
    assert honest < np.log(found.high[0] / found.low[0]) < 2.5 * honest


def test_intervals_widen_with_distance_and_with_fewer_points():
    many = forecast(X, noisy(0), [400, 1000, 3000])
    few = forecast(X[-4:], noisy(0)[-4:], [400, 1000, 3000])
    width = np.log(many.high / many.low)
    assert np.all(np.diff(width) > 0)
    assert np.all(np.log(few.high / few.low)[1:] > width[1:])
    assert any("different x" in note for note in few.warnings)
    assert few.backtests == 0 and many.backtests == 3


def test_related_curves_count_and_the_forecast_holds():
    related = [(X, noisy(seed, c=0.25 + 0.01 * seed)) for seed in range(4)]
    y, truth = noisy(10, scale=0.03, c=0.27), law(AHEAD[1], c=0.27)
    alone, taught = forecast(X, y, AHEAD[1:]), forecast(X, y, AHEAD[1:], related=related)
    assert abs(np.log(taught.mean[0] / truth)) < 0.04
    assert taught.low[0] <= truth <= taught.high[0]
    assert taught.backtests == 5 * alone.backtests
    assert np.log(taught.high[0] / taught.low[0]) < np.log(alone.high[0] / alone.low[0])


def test_related_curves_may_be_much_longer():
    x = np.geomspace(1, 300**2, 40)
    noise = np.random.default_rng(1).normal(size=(5, len(x)))
    related = [(x, law(x, c=0.08 + 0.01 * i) * np.exp(0.01 * noise[i])) for i in range(5)]
    found = forecast(X, noisy(3), AHEAD, related=related)
    assert np.all(np.abs(np.log(found.mean / law(AHEAD))) < 0.03)
    assert np.all((found.low < law(AHEAD)) & (law(AHEAD) < found.high))


@settings(max_examples=2, deadline=None)
@given(st.floats(1e-5, 1e5), st.floats(1e-3, 1e3), st.integers(0, 10**6))
def test_units_and_order_do_not_matter(kx, ky, seed):
    order = np.random.default_rng(seed).permutation(len(X))
    plain, other = forecast(X, noisy(1), AHEAD), forecast((kx * X)[order], (ky * noisy(1))[order], kx * AHEAD)
    np.testing.assert_allclose(other.mean, ky * plain.mean, rtol=1e-4)
    np.testing.assert_allclose(other.high / other.low, plain.high / plain.low, rtol=1e-3)


@settings(max_examples=2, deadline=None)
@given(st.floats(0.05, 0.9), st.floats(0.01, 0.09))
def test_nested_in_level_and_bounded_by_chance(level, more):
    y = np.minimum(noisy(2, scale=0.1) * 1.6, 0.95)
    narrow, wide = (forecast(X, y, [0.5, 200, 5000], one, chance=0.95) for one in (level, level + more))
    assert np.all(wide.low <= narrow.low) and np.all(narrow.high <= wide.high)
    assert np.all(wide.low > 0) and np.all(wide.high <= 0.95)


def test_flat_and_rising_curves_are_said_and_widened():
    falling, rising = forecast(X, law(X), AHEAD), forecast(X, 0.3 * X**0.1, AHEAD)
    flat = forecast(X, 0.3 * np.exp(0.02 * np.random.default_rng(0).normal(size=len(X))), AHEAD)
    assert any("does not fall" in note for note in rising.warnings)
    assert np.all(rising.high / rising.low > 1.2)
    assert np.all(rising.high >= 0.3 * AHEAD**0.1)
    assert np.all((flat.low < 0.3) & (flat.high > 0.3))
    assert not falling.warnings


def test_inside_the_data_and_before_it():
    found = forecast(X, noisy(3), [0.01, 17.0])
    assert found.mean[1] == pytest.approx(law(17), rel=0.02)
    assert any("before the first" in note for note in found.warnings)
    assert np.log(found.high[0] / found.low[0]) > 2 * np.log(found.high[1] / found.low[1])


def test_a_forecast_absurdly_far_stays_finite():
    found = forecast(X * 1e25, noisy(0), [1e-30, 1e300])
    assert np.all(np.isfinite(found.high)) and np.all(found.high / found.low > 1e6)


def test_cuts_predict_only_what_lies_behind_them():
    piece = scale_curve(X, law(X))
    for short, distance, truth in backtest_cuts(piece, (2.0, 4.0), np.log(2.2)):
        last = short.x0 * piece.x0
        assert np.all(distance > 0) and np.all(distance <= np.log(2.2) + 1e-6)
        np.testing.assert_allclose(
            np.exp(truth) * short.y0 * piece.y0, law(last * np.exp(distance)), rtol=1e-9
        )


@pytest.mark.parametrize(
    ("x", "y", "ahead", "says"),
    [
        ([5, 5, 5], [0.3, 0.31, 0.29], [10], "1 different x"),
        ([1, 2, 4], [0.3, 0.0, 0.2], [10], "zero, negative"),
        ([1, 2, 4], [0.3, 0.25, 0.2], [-1], "positive and finite"),
        ([1, 2, 4], [0.3, 0.25, np.inf], [10], "infinite"),
        ([1, 2, 4], [30, 25, 20], [10], "per cent"),
    ],
)
def test_bad_input_is_a_clear_message(x, y, ahead, says):
    with pytest.raises(ValueError, match=says):
        forecast(x, y, ahead, chance=1.0)


def test_an_exactly_flat_curve_may_yet_move():
    found = forecast(X, np.full(len(X), 0.3), AHEAD)
    assert np.all(found.high / found.low > 1.1)
    assert any("does not fall" in note for note in found.warnings)


def test_two_points_give_a_wide_interval():
    found = forecast([1, 2], [0.5, 0.4], [8])
    assert found.high[0] / found.low[0] > 1.6
    assert found.warnings


def test_command_fits_groups_and_forecasts_accuracies(tmp_path, capsys):
    table = tmp_path / "runs.csv"
    lines = ["flops,acc,model"] + [f"{x},{1 - law(x)},{m}" for m in ("S", "B") for x in X] + ["400,,S"]
    table.write_text("\n".join(lines))
    words = ["--x", "flops", "--y", "acc", "--accuracy", "--group", "model", "--forecast", "600"]
    assert main(["fit", str(table), *words, "--picture", str(tmp_path / "law.svg")]) == DONE
    text = capsys.readouterr().out
    assert "left out: 1 rows (no 1 - acc: 1 (line 42))" in text and "at 600: 0.85" in text
    assert (tmp_path / "law.svg").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--x", "flop", "--y", "acc"], "no column 'flop'; nearest: flops"),
        (["--x", "flops", "--y", "acc", "--accuracy"], "divide by 100"),
        (["--x", "flops", "--y", "name"], "column 'name', line 2: 'a' is no number"),
        ([], "give --x and --y"),
        (["--x", "flops", "--y", "acc", "--chance", "0"], "above 0, not 0"),
        (["--x", "flops", "--y", "acc", "--level", "90"], "between 0 and 1, not 90"),
        (["--x", "flops", "--y", "acc", "--frontier"], "keeps 1 of 20 runs"),
        (["--x", "flops", "--y", "acc", "--law", "power", "--forecast", "-3"], "must be positive"),
        (["--x", "flops", "--y", "acc"], "y rises with x"),
        (["--x", "flops", "--y", "acc", "--noise", "0"], "above 0, not 0"),
        (["--x", "flops", "--y", "acc", "--optimal", "1e9"], "joint law"),
    ],
)
def test_command_names_the_mistake(tmp_path, capsys, words, says):
    table = tmp_path / "runs.csv"
    table.write_text("flops,acc,name\n" + "\n".join(f"{x},{100 * (1 - law(x))},a" for x in X))
    assert main(["fit", str(table), *words]) == 2
    assert says in capsys.readouterr().err


def test_a_group_without_a_law_does_not_stop_the_others(tmp_path, capsys):
    table = tmp_path / "runs.csv"
    lines = [f"{x},{law(x)},S" for x in X] + ["1,0.5,B", "2,0.4,B"] + [f"{x},{x},C" for x in X]
    table.write_text("\n".join(["x,y,model", *lines]))
    assert main(["fit", str(table), "--x", "x", "--y", "y", "--group", "model", "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert list(found["groups"]) == ["S"] and list(found["refused"]) == ["B", "C"]
    assert "2 different x" in found["refused"]["B"] and "y rises with x" in found["refused"]["C"]


def test_points_of_no_weight_do_not_count_in_forecasts(tmp_path, capsys):
    clean = forecast(X, noisy(0), AHEAD)
    x, y = np.append(X, [500, 5.0]), np.append(noisy(0), [0.9, 0.01])
    spoilt = forecast(x, y, AHEAD, weights=np.append(np.ones(len(X)), [0, 0]))
    assert np.array_equal(spoilt.mean, clean.mean) and np.array_equal(spoilt.high, clean.high)
    doubted = forecast(x[:-2], y[:-2] * np.where(X > 100, 1.1, 1), AHEAD, weights=np.where(X > 100, 1e-3, 1))
    assert abs(np.log(doubted.mean / law(AHEAD))).max() < 0.06


def test_long_curves_take_no_longer_and_are_forecast_as_well():
    x = np.geomspace(1, 300, 20_000)
    y = law(x) * np.exp(0.05 * np.random.default_rng(0).normal(size=len(x)))
    start = time.process_time()
    found = forecast(x, y, AHEAD, related=[(x, y * k) for k in (1.1, 1.2, 1.3, 1.4)])
    assert time.process_time() - start < 10  # 0.6 s where types are not checked
    assert np.all(np.abs(np.log(found.mean / law(AHEAD))) < 0.02)
    half = np.log(found.high / found.low) / 2
    assert np.all((half > 1.645 * 0.05) & (half < 2.5 * 0.05))


def test_words_for_a_table_are_refused_by_the_papers_laws(capsys):
    assert main(["fit", "paper", "--law", "M1"]) == 2
    assert "--law is for a table of yours" in capsys.readouterr().err


def rows(y, x=X):
    return [f"{a},{b}" for a, b in zip(x, y)]


#: A table (its rows of x and y), more words, and what the one line of refusal says.
REFUSED = {
    "two points": (["1,0.5", "2,0.4"], [], "2 different x cannot fix"),
    "one size": ([f"5,0.{y}" for y in range(3, 9)], [], "1 different x"),
    "one size, many times": (rows(law(X), np.full(len(X), 8.0)), ["--law", "M1"], "1 different x"),
    "hardly an error above zero": (["0.5,0.9", "1,-1", "2,0", "4,0.3", "8,0"], [], "line 3: laws need log"),
    "a row that is too long": (["1,0,5", "2,0,4"], [], "line 2: 3 cells in a table of 2 columns"),
    "a rising curve": (rows(0.3 * X**0.1), ["--law", "M1"], "--accuracy"),
    "accuracies": (rows(1 - law(X)), ["--law", "M2"], "--accuracy"),
    "all missing": (["1,nan", "2,", "4,nan"], [], "no points"),
    "no rows": ([], [], "has no rows"),
    "numbers that no unit has": (rows(law(X), 1e-300 * X), [], "take other units"),
    "a law that is none": (rows(law(X)), ["--law", "M5"], "no law 'M5'"),
    "accuracies in per cent": (rows(100 - 100 * law(X)), ["--accuracy"], "divide by 100"),
    "errors in per cent, chance 1": (rows(100 * law(X)), ["--chance", "1"], "is it in per cent?"),
    "a forecast at nothing": (rows(law(X)), ["--forecast", "0"], "positive and finite"),
    "a forecast at NaN": (rows(law(X)), ["--forecast", "nan"], "positive and finite"),
    "a forecast at infinity": (rows(law(X)), ["--forecast", "inf"], "positive and finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_command_refuses_bad_tables_in_one_line(tmp_path, capsys, name):
    lines, words, says = REFUSED[name]
    table = tmp_path / "runs.csv"
    table.write_text("\n".join(["x,y", *lines]) + "\n")
    assert main(["fit", str(table), "--x", "x", "--y", "y", "--forecast", "100", *words]) == 2
    told = capsys.readouterr()
    assert says in told.err and len(told.err.splitlines()) == 1 and not told.out


def scattered(y, by=0.02):
    return y * np.exp(by * np.random.default_rng(0).normal(size=len(y)))


#: A table that a law can be put through but should not be trusted: where to forecast, the least ratio of the
#: interval's ends there, and what a note says. A healthy table has 1.06 at 600.
DOUBTFUL = {
    "two points": (["1,0.5", "2,0.4"], 8.0, 1.6, "the interval is a guess"),
    "three points": (["1,0.5", "2,0.4", "4,0.35"], 16.0, 1.4, "3 different x: the interval rests on"),
    "a flat curve": (rows(scattered(np.full(len(X), 0.3))), 600.0, 1.15, "y does not fall"),
    "an exactly flat curve": (rows(np.full(len(X), 0.3)), 600.0, 1.1, "y does not fall"),
    "two x, twice each": (["1,0.5", "1,0.6", "2,0.4", "2,0.3"], 8.0, 1.6, "interval rests on what is"),
    "far smaller x": (rows(law(X)), 0.001, 2.0, "before the first x"),
    "far larger x": (rows(scattered(law(X))), 1e7, 2.0, "farther out than the data are long"),
    "every other row missing": (
        ["1,0.5", "2,nan", "4,0.35", "8,", "16,0.26", "nan,0.3", "64,0.22"], 600.0, 1.1, "rests on what",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DOUBTFUL)
def test_command_widens_what_it_cannot_know(tmp_path, capsys, name):
    lines, ahead, ratio, says = DOUBTFUL[name]
    table = tmp_path / "runs.csv"
    table.write_text("\n".join(["x,y", *lines]) + "\n")
    words = ["--x", "x", "--y", "y", "--law", "M1", "--forecast", str(ahead), "--json"]
    assert main(["fit", str(table), *words]) == DONE
    told = json.loads(capsys.readouterr().out)["groups"]["all"]
    assert told["forecast"][0]["high"] > ratio * told["forecast"][0]["low"]
    assert any(says in note for note in told["warnings"])
    if name.startswith("two "):
        assert told["ranges"]["b"] == [None, None]


@pytest.mark.parametrize("content", [b"", bytes(range(256))])
def test_command_refuses_what_is_no_table(tmp_path, capsys, content):
    table = tmp_path / "runs.csv"
    table.write_bytes(content)
    assert main(["fit", str(table), "--x", "x", "--y", "y"]) == 2
    assert "runs.csv is" in capsys.readouterr().err


def test_command_fits_and_forecasts_what_rises(tmp_path, capsys):
    table, x = tmp_path / "runs.csv", np.geomspace(1e18, 1e22, 12)
    noisy_ = 80 / (1 + (1e20 / x) ** 0.6) * np.exp(0.01 * np.random.default_rng(0).normal(size=12))
    table.write_text("x,score\n" + "\n".join(f"{a},{b}" for a, b in zip(x, noisy_)))
    words = [
        "fit",
        str(table),
        "--x",
        "x",
        "--y",
        "score",
        "--law",
        "ceiling",
        "--forecast",
        "1e23",
        "--json",
    ]
    assert main(words) == DONE
    told = json.loads(capsys.readouterr().out)["groups"]["all"]
    assert told["params"]["b"] == pytest.approx(0.6, abs=0.05)
    assert told["params"]["c"] == pytest.approx(80, rel=0.05)
    (ahead,) = told["forecast"]
    assert ahead["low"] < 80 / (1 + (1e20 / 1e23) ** 0.6) < ahead["high"] < 1.3 * ahead["low"]


@pytest.mark.parametrize("law_, x, y", [("M2", X, 0.2 * X**0.3), ("ceiling", X, law(X))])
def test_a_law_that_cannot_hold_is_refused(law_, x, y):
    with pytest.raises(ValueError, match=r"y (rises|falls) with x"):
        fit(x, y, law_, bootstrap=0)


def test_forecasts_of_what_rises_mirror_those_of_the_inverse():
    down, up = forecast(X, noisy(0), AHEAD), forecast(X, 1 / noisy(0), AHEAD, rising=True)
    np.testing.assert_allclose(up.mean * down.mean, 1, rtol=1e-9)
    np.testing.assert_allclose(up.low * down.high, 1, rtol=1e-9)


def test_known_noise_sets_the_width_near_the_data():
    width = [forecast(X, noisy(0), [301.0], noise=noise) for noise in (0.002, 0.05)]
    near, far = (float(np.log(one.high / one.low)[0]) for one in width)
    assert far > 2 * 1.6 * 0.05 > 3 * near
    with pytest.raises(ValueError, match="noise is"):
        forecast(X, noisy(0), AHEAD, noise=-1)


def test_intervals_never_narrow_farther_out():
    for seed in range(6):
        found = forecast(X[::3], noisy(seed, 0.03)[::3], np.geomspace(310, 1e5, 30))
        assert np.all(np.diff(np.log(found.high / found.low)) >= -1e-9)


def test_curves_forecast_together_are_those_forecast_with_each_other():
    curves = [(X, noisy(seed, c=0.2 + 0.01 * seed), None) for seed in range(6)]
    together = list(forecast_curves(curves, AHEAD))
    alone = forecast(*curves[0][:2], AHEAD, related=[curve[:2] for curve in curves[1:]])
    np.testing.assert_allclose(together[0].mean, alone.mean, rtol=0.01)
    assert together[0].backtests == alone.backtests


def test_command_counts_repeated_x_as_measurements(tmp_path, capsys):
    table = tmp_path / "runs.csv"
    table.write_text("x,y\n" + "\n".join(f"{x},{k * law(x)}" for x in X for k in (0.99, 1, 1.01)))
    assert main(["fit", str(table), "--x", "x", "--y", "y", "--forecast", "600", "--json"]) == DONE
    told = json.loads(capsys.readouterr().out)["groups"]["all"]
    ahead = told["forecast"][0]
    assert told["points"] == 3 * len(X)
    assert ahead["low"] < law(600) < ahead["high"]
