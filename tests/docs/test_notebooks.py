"""The notebooks run, and end with what they planted or promise in words."""

import runpy
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


def run(name):
    return runpy.run_path(str(NOTEBOOKS / name))


def test_a_law_from_a_csv():
    ran = run("law_from_my_csv.py")
    planted, ahead, giant = ran["planted"], ran["ahead"], ran["giant"]
    truth = planted(ran["sizes"]["L/16"], 3e10)
    assert ahead.low[0] <= truth <= ahead.high[0]
    assert ahead.mean[0] == pytest.approx(truth, rel=0.15)
    assert giant.low <= planted(5e11, 3e9) <= giant.high
    assert ran["picture"].stat().st_size > 5000


def test_chinchilla_from_a_csv():
    ran = run("chinchilla_from_a_csv.py")
    law, best = ran["law"], ran["best"]
    for name, planted in {"b_F": 0.3478, "b_n": 0.3658, "c": 1.8172}.items():
        low, high = law.ranges(0.99)[name]
        assert low <= planted <= high
    assert best.exponent == pytest.approx(0.513, abs=0.03)
    assert 10 < best.ratio[1] < 45
    assert ran["profiles"].exponent == pytest.approx(0.5, abs=0.06)
    assert ran["picture"].stat().st_size > 5000


def test_how_sure_a_forecast_is():
    ran = run("how_sure_is_a_forecast.py")
    assert ran["coverage"].min() >= 0.8 and (ran["width"][1:] > ran["width"][:-1]).all()
    assert ran["few"][1][2] > ran["width"][2]
    assert ran["picture"].stat().st_size > 5000


def test_probing_any_function(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    ran = run("probe_my_model.py")
    best = {}
    for line in ran["lines"]:
        if line.accuracy.shots == 10:
            name = line.baseline or line.model
            best[name] = max(best.get(name, 0), line.accuracy.mean)
    assert best["my_model:edges"] > best["raw pixels"] + 0.02
    assert len(ran["accuracies"]) == 3 and min(ran["accuracies"]) > 0.9
    assert ran["picture"].stat().st_size > 5000


@pytest.mark.slow
def test_the_quick_start():
    ran = run("quick_start.py")
    assert ran["again"].step == ran["done"].step == 600
    assert ran["trained"] < ran["untrained"] - 0.03 and ran["pixels"] < 0.25
    losses = ran["losses"].value
    assert losses.iloc[-1] < losses.iloc[0] - 1
    assert ran["features"].shape == (4, 64)
    assert ran["page"].stat().st_size > 20_000


def test_every_notebook_is_tested():
    tested = Path(__file__).read_text()
    names = [path.name for path in NOTEBOOKS.glob("*.py")]
    assert len(names) == 5 and all(f'"{name}"' in tested for name in names)
