"""What came out: read from records alone, fitted, and forecast before it was looked at."""

import json
from dataclasses import replace

import pytest
from pretend_study import SPEC, B, C, expected, fresh_points, law, rows, write

from scalevit.artifacts import records
from scalevit.study.design import grid
from scalevit.study.launch.study_folder import FORECAST, write_study
from scalevit.study.report import results
from scalevit.study.report.frontier_law import frontier_law
from scalevit.study.report.held_out_forecast import forecast_held_out, held_out_nodes


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "demo"
    return folder, write(folder)


def test_points_are_the_mean_and_spread_over_draws_of_each_run_and_task(study):
    found = results.read_results(study[0])
    assert len(found.points) == len(study[1]) * 2
    points = fresh_points(found)
    assert [p.error for p in points] == pytest.approx(expected(points))
    assert points[0].draws == 5
    assert points[0].spread == pytest.approx(points[0].error * 0.02 * 2.5**0.5)


def test_facts_come_from_the_run_itself(study):
    found = results.read_results(study[0])
    nodes = {node.name: node for node in study[1]}
    for facts in found.facts:
        node = nodes[facts.run]
        assert facts.compute == pytest.approx(node.scratch)
        assert (facts.model, facts.images, facts.steps) == (node.model, node.images, node.duration)
        assert facts.unique == min(node.images or facts.seen, facts.seen)


def test_a_lone_run_is_read_without_its_study(study):
    found = results.read_results(study[0] / "runs" / "96x4-fresh-600")
    assert [facts.model for facts in found.facts] == ["96x4"] and found.cost is None
    assert len(found.points) == 2


def test_floors_are_told_once_and_the_untrained_network_for_each_model(study):
    floors = results.read_results(study[0]).floors
    told = {(floor.name, floor.model): floor.error for floor in floors if floor.shots == 10}
    assert told == pytest.approx(
        {("raw pixels", ""): 0.4} | {("untrained network", m): 0.43 for m in models(study)}
    )


def models(study):
    return {node.model for node in study[1]}


def test_results_before_the_last_step_and_cut_lines_are_no_points(tmp_path):
    nodes = write(tmp_path / "s", replace(SPEC, models=SPEC.models[:1], images=(0,)))
    home = tmp_path / "s" / "runs" / nodes[0].name
    (home / records.FILE).unlink()
    early = [{**row, "step": 10} for row in rows(nodes[0])]
    records.append_records(home, early)
    with (home / records.FILE).open("a") as file:
        file.write('{"kind": "probe", "metric": "accur')
    assert nodes[0].name not in {p.facts.run for p in results.read_results(tmp_path / "s").points}


def test_the_law_gives_its_coefficients_back(study):
    found = frontier_law(fresh_points(results.read_results(study[0])))
    assert found.fit is not None
    assert found.fit.params["b"] == pytest.approx(B, rel=0.05)
    assert found.fit.floor == pytest.approx(C, abs=0.01)


def test_where_no_law_fits_none_is_claimed(study):
    points = fresh_points(results.read_results(study[0]))
    few = frontier_law(points[:2])
    assert few.fit is None and "too few" in few.verdict
    noisy = [replace(p, error=0.5 / (1 + i)) if i % 2 else p for i, p in enumerate(points[:1])]
    assert frontier_law(noisy).fit is None


def test_the_largest_node_is_named_before_anything_is_known(study):
    held = held_out_nodes(study[1])
    assert held[0].name == "96x4-fresh-600"
    assert {node.name for node in held} == {"96x4-fresh-600", "96x4-2048-600"}


def test_the_forecast_never_opens_the_largest_runs_records(tmp_path):
    folder = tmp_path / "demo"
    nodes = write(folder)
    for node in held_out_nodes(nodes):
        (folder / "runs" / node.name / records.FILE).write_text("must not be read\n")
    told = forecast_held_out(folder, SPEC, nodes)
    truth = law(held_out_nodes(nodes)[0].scratch)
    assert told["low"] < truth < told["high"]
    assert told["run"] not in {run for run, _, _ in told["evidence"]}


def test_without_a_smaller_result_the_forecast_says_why_there_is_none(tmp_path):
    nodes = grid.expand(SPEC, tmp_path / "runs")
    write_study(tmp_path, SPEC, nodes)
    told = forecast_held_out(tmp_path, SPEC, nodes)
    assert told["mean"] is None and "no smaller run" in told["why_not"]


def test_a_forecast_that_was_made_stays_unless_its_evidence_changes(study):
    folder, nodes = study
    first = forecast_held_out(folder, SPEC, nodes)
    told = json.loads((folder / FORECAST).read_text()) | {"made": "long ago"}
    (folder / FORECAST).write_text(json.dumps(told))
    assert forecast_held_out(folder, SPEC, nodes)["made"] == "long ago"
    (folder / FORECAST).write_text(json.dumps({**told, "evidence_id": "other"}))
    assert forecast_held_out(folder, SPEC, nodes)["made"] >= first["made"]


def test_folders_of_something_else_are_refused(tmp_path):
    nodes = grid.expand(SPEC, tmp_path / "runs")
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ValueError, match="no study"):
        write_study(tmp_path, SPEC, nodes)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
