"""`scalevit fit`: joint laws on the command line, several series, seeds, what does not go together."""

import json

import numpy as np
import pytest

from scalevit.cli.main import main
from scalevit.config.result import DONE, USER_ERROR


@pytest.fixture
def runs(tmp_path):
    """Runs of 6 budgets by a known law, one of them an outlier."""
    random, lines = np.random.default_rng(0), []
    for budget in np.geomspace(6e18, 3e21, 6):
        for factor in np.geomspace(0.2, 5, 7):
            size = 0.1 * budget**0.5 * factor
            data = budget / 6 / size
            loss = 1.8 + 480 * size**-0.35 + 2100 * data**-0.37
            lines.append(f"{size},{data},{budget},{loss * np.exp(0.003 * random.normal())}")
    lines.append(f"1e9,1e10,{6e19},9")
    path = tmp_path / "runs.csv"
    path.write_text("N,D,C,loss\n" + "\n".join(lines))
    return path


def answer(capsys, *words):
    assert main(["fit", *map(str, words), "--json"]) == DONE
    return json.loads(capsys.readouterr().out)


def test_losses_of_size_and_data_give_the_compute_optimum(runs, capsys, tmp_path):
    picture = tmp_path / "law.png"
    words = ["--x", "N", "D", "--y", "loss", "--without-outliers", "--optimal", "1e23", "--picture", picture]
    found = answer(capsys, runs, *words)
    assert found["law"] == "sum" and found["rows_left_out"] == 1
    (reason,) = found["left_out"].values()
    assert reason == {"rows": 1, "lines": [44]}
    assert found["ranges"]["b_F"][0] < 0.35 < found["ranges"]["b_F"][1]
    assert found["exponent"]["value"] == pytest.approx(0.37 / 0.72, abs=0.03)
    (best,) = found["optimal"]
    assert best["size_interval"][0] < best["size"] < best["size_interval"][1]
    assert 6 * best["size"] * best["data"] == pytest.approx(1e23)
    assert best["y_interval"][0] > 1.7
    assert found["isoflop"]["exponent"] == pytest.approx(0.5, abs=0.1)
    assert picture.stat().st_size > 5000


def test_data_follow_from_compute_and_outliers_are_named(runs, capsys):
    found = answer(capsys, runs, "--x", "N", "--compute", "C", "--y", "loss", "--forecast", "1e11", "1e12")
    assert any("--without-outliers" in note for note in found["notes"])
    (ahead,) = found["forecast"]
    assert ahead["low"] < 1.8 + 480 * 1e11**-0.35 + 2100 * 1e12**-0.37 < ahead["high"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--x", "N", "D", "--y", "loss", "--law", "M2"], "--law is for one column"),
        (["--x", "N", "--y", "loss", "--without-outliers"], "--without-outliers is for a joint law"),
        (["--x", "N", "D", "--y", "loss", "--form", "summ"], "nearest: sum"),
        (["--x", "N", "D", "--y", "loss", "--forecast", "1e9"], "takes 2 numbers"),
        (["--x", "N", "D", "C", "--y", "loss", "--form", "sum", "--optimal", "1e23"], "three inputs"),
        (["--x", "N", "--y", "loss", "--seeds-column", "D"], "two seeds"),
    ],
)
def test_what_does_not_go_together_is_refused(runs, capsys, words, says):
    assert main(["fit", str(runs), *words]) == USER_ERROR
    told = capsys.readouterr()
    assert says in told.err and len(told.err.splitlines()) == 1 and not told.out


def test_seeds_say_the_noise_of_a_forecast(tmp_path, capsys):
    random, x = np.random.default_rng(1), np.repeat(np.geomspace(1, 1e3, 12), 4)
    y = (0.6 * x**-0.3 + 0.1) * np.exp(0.04 * random.normal(size=len(x)))
    path = tmp_path / "runs.csv"
    path.write_text("x,y,seed\n" + "\n".join(f"{a},{b},{i % 4}" for i, (a, b) in enumerate(zip(x, y))))
    found = answer(capsys, path, "--x", "x", "--y", "y", "--seeds-column", "seed", "--forecast", "2e3")
    group = found["groups"]["all"]
    assert group["points"] == 12 and group["noise"] == pytest.approx(0.04, rel=0.25)
    assert any("90 % intervals held" in sentence for sentence in group["trust"])


def test_series_in_columns_help_each_other(tmp_path, capsys):
    x = np.geomspace(1, 300, 12)
    head = "Step," + ",".join(f"run {i} - loss" for i in range(5))
    rows = [f"{v}," + ",".join(f"{0.6 * v**-0.3 + 0.1 + 0.01 * i}" for i in range(5)) for v in x]
    path = tmp_path / "wide.csv"
    path.write_text("\n".join([head, *rows]))
    found = answer(capsys, path, "--x", "Step", "--y", "* - loss", "--law", "M2", "--forecast", "600")
    assert list(found["groups"]) == [f"run {i}" for i in range(5)]
    assert found["groups"]["run 0"]["backtests"] > 3
    ahead = found["groups"]["run 4"]["forecast"][0]
    assert ahead["low"] < 0.6 * 600**-0.3 + 0.14 < ahead["high"]
