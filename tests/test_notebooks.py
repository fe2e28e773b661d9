"""The notebooks run, and end with what they planted."""

import runpy
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "law_from_my_csv.py"


def test_a_law_from_a_csv():
    ran = runpy.run_path(str(NOTEBOOK))
    planted, ahead, giant = ran["planted"], ran["ahead"], ran["giant"]
    truth = planted(ran["sizes"]["L/16"], 3e10)
    assert ahead.low[0] <= truth <= ahead.high[0]
    assert ahead.mean[0] == pytest.approx(truth, rel=0.15)
    assert giant.low <= planted(5e11, 3e9) <= giant.high
    assert ran["picture"].stat().st_size > 5000
