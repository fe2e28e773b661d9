"""Grids for a budget: within it, sharper than a uniform grid on laws that nobody knew, and told why."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from scalevit.cli import main
from scalevit.study.design import grid, optimal_design
from scalevit.study.design.cost import study_cost
from scalevit.study.design.spec import PRESETS, dump_spec

SPEC = PRESETS["demo"]
SCRIPT = Path(__file__).parents[3] / "benchmarks" / "design.py"


@pytest.fixture(scope="module")
def found():
    """Both grids on laws that the design was not made for."""
    return runpy.run_path(str(SCRIPT))["compare"](1e13, laws=100)


@pytest.mark.parametrize("budget", [2e12, 5e13])
def test_the_chosen_grid_keeps_to_its_budget_and_is_a_study(budget):
    made = optimal_design.optimal_design(SPEC, budget)
    nodes = grid.expand(made.spec)
    assert {node.name for node in nodes} == {*made.names}
    assert study_cost(nodes).shared == pytest.approx(made.cost, rel=0.02)
    assert 0.9 * budget < made.cost <= budget
    again = dump_spec(made.spec)
    assert "only:" in again


def test_on_simulated_laws_the_forecast_is_at_least_20_percent_sharper_than_a_uniform_grids(found):
    assert found["half"] <= 0.8 * found["uniform_half"]
    assert found["rms"] <= 0.8 * found["uniform_rms"]


def test_the_promised_interval_is_what_forecasts_from_the_chosen_grid_really_miss_by(found):
    assert 0.7 < optimal_design.Z90 * found["rms"] / found["half"] < 1.6


def test_more_budget_forecasts_better_and_the_cost_of_a_selection_is_the_grids_own():
    small, large = (optimal_design.optimal_design(SPEC, budget) for budget in (2e12, 2e13))
    assert large.half < small.half
    candidates = optimal_design.candidates_of(SPEC)
    bill = study_cost(grid.expand(SPEC))
    assert candidates.cost(range(len(candidates.names))) == pytest.approx(bill.shared, rel=0.01)


def test_a_run_that_is_known_already_tells_less_than_a_new_kind():
    law = optimal_design.law_prior(optimal_design.candidates_of(SPEC).inputs)
    inputs = optimal_design.candidates_of(SPEC).inputs
    target = inputs[-1] * 3
    once = optimal_design.log_variance(inputs[:4], law, target)
    twice = optimal_design.log_variance(np.concatenate([inputs[:4], inputs[:4]]), law, target)
    wide = optimal_design.log_variance(inputs[[0, 1, 2, 3, 8, 11, 14, 17]], law, target)
    assert wide < twice < once


def test_the_command_prints_the_grid_and_the_reason_and_refuses_what_buys_nothing(tmp_path, capsys):
    words = ["study", "demo", "--out", str(tmp_path / "x"), "--dry-run"]
    assert main.main([*words, "--budget", "2e12"]) == 0
    told = capsys.readouterr()
    assert "would give" in told.err and "32x2-fresh-150" in told.out
    assert main.main([*words, "--budget", "1e6"]) == 2
    assert "buys no study" in capsys.readouterr().err
    assert main.main([*words, "--hours", "-1"]) == 2
    assert not (tmp_path / "x").exists()
