"""Learning rates: the sweep finds known optima, the rule moves them to larger models, both are told."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalevit.artifacts import records
from scalevit.cli import main
from scalevit.study.design import grid, lr_sweep
from scalevit.study.design.spec import PRESETS
from scalevit.study.launch import scheduler
from scalevit.study.report import figures

SPEC = PRESETS["demo-small"]
RATES = (1e-3, 3e-3, 1e-2, 3e-2)


def loss(lr, flops, best=lambda flops: 8e-3 * (flops / 1e7) ** -0.4):
    """A parabola over ln lr around a known optimum."""
    import math

    return 2 + 0.3 * math.log(lr / best(flops)) ** 2


def pretend(nodes, folder, law=loss):
    for node in nodes:
        home = folder / "runs" / node.name
        home.mkdir(parents=True, exist_ok=True)
        value = law(node.run.schedule.lr, grid.step_flops(node.run))
        base = dict.fromkeys(records.COLUMNS) | {"run": "r", "kind": "train", "metric": "loss"}
        records.append_records(home, [{**base, "step": step, "value": value} for step in (1, 2, 3, 4, 5)])


def test_every_rate_is_tried_on_all_but_the_largest_model_and_the_better_half_goes_on(tmp_path):
    sweep = lr_sweep.first_round(SPEC, RATES)
    nodes = grid.expand(sweep, tmp_path / "runs")
    assert {node.model for node in nodes} == {"32x1", "32x2"} and len(nodes) == 2 * len(RATES)
    assert {node.run.schedule.lr for node in nodes} == {*RATES}
    pretend(nodes, tmp_path)
    second = [node for node in grid.expand(lr_sweep.second_round(sweep, tmp_path)) if node.duration == 16]
    assert len(second) == 2 * 3
    for model in ("32x1", "32x2"):
        losses = {
            n.run.schedule.lr: loss(n.run.schedule.lr, grid.step_flops(n.run))
            for n in nodes
            if n.model == model
        }
        kept = {node.run.schedule.lr for node in second if node.model == model}
        assert kept == {*sorted(losses, key=losses.get)[:3]}


def test_the_optimum_of_each_size_is_found_and_the_largest_gets_the_rules(tmp_path):
    law = lambda lr, flops: loss(lr, flops, lambda f: 6e-3 * (f / 6e7) ** -0.3)
    sweep = lr_sweep.first_round(SPEC, RATES)
    pretend(grid.expand(sweep), tmp_path, law)
    sweep = lr_sweep.second_round(sweep, tmp_path)
    pretend(grid.expand(sweep), tmp_path, law)
    found, exponent = lr_sweep.choose_rates(SPEC, sweep, tmp_path)
    flops = {node.model: grid.step_flops(node.run) for node in grid.expand(SPEC)}
    assert [rate.how for rate in found] == ["swept", "swept", "transferred"]
    for rate in found:
        assert rate.lr == pytest.approx(6e-3 * (flops[rate.model] / 6e7) ** -0.3, rel=0.03)
    assert exponent == pytest.approx(-0.3, abs=0.02)
    study = lr_sweep.apply_rates(SPEC, found, exponent)
    assert {n.model: n.run.schedule.lr for n in grid.expand(study)} == {r.model: r.lr for r in found}
    assert "transferred" in study.note and "32x1" in study.note


@settings(max_examples=30, deadline=None)
@given(st.floats(-4, 1), st.floats(0.05, 3))
def test_the_chosen_rate_never_leaves_the_sweep(ln_best, bend):
    import math

    losses = {lr: bend * (math.log(lr) - ln_best * math.log(10)) ** 2 for lr in RATES}
    chosen = lr_sweep.best_rate("m", losses)
    assert min(RATES) <= chosen.lr <= max(RATES)
    inside = math.log10(RATES[0]) < ln_best < math.log10(RATES[-1])
    if not inside:
        assert chosen.how == "edge"


def test_a_rate_that_diverged_is_never_chosen_and_a_sweep_that_diverged_says_so():
    assert lr_sweep.best_rate("m", {1e-3: 3.0, 3e-3: 2.0, 1e-2: float("inf")}).lr == 3e-3
    with pytest.raises(ValueError, match="every rate diverged on m; try smaller"):
        lr_sweep.best_rate("m", {1e-3: float("inf"), 1e-2: float("inf")})
    with pytest.raises(ValueError, match="at least three"):
        lr_sweep.first_round(SPEC, (1e-3, 1e-3, 1e-2))


def test_the_command_sweeps_beside_the_study_and_remembers_what_it_chose(tmp_path, monkeypatch, capsys):
    import pretend_study

    model = pretend_study.write_model(tmp_path)

    def command(node, home):
        draft = tmp_path / f"{node.name}.jsonl"
        rows = [row for row in pretend_study.rows(node) if row["metric"] != "loss"]
        base = dict.fromkeys(records.COLUMNS) | {"run": "r", "kind": "train", "metric": "loss"}
        value = loss(node.run.schedule.lr, grid.step_flops(node.run))
        rows = [{**base, "step": step, "value": value} for step in (1, 2)] + rows
        draft.write_text("".join(json.dumps(row) + "\n" for row in rows))
        kept = " ".join(f'"{home}/checkpoints/step_{at}"' for at in node.run.train.keep_at) or "/tmp"
        return [
            "/bin/sh",
            "-c",
            f'mkdir -p {kept}; cp -r "{model}" "{home}/"; cp "{draft}" "{home}/{records.FILE}"',
        ]

    monkeypatch.setattr(figures, "FIGURES", {"figure2_compute": figures.compute})
    monkeypatch.setattr(scheduler, "PRETRAINING", replace(scheduler.PRETRAINING, command=command))
    out = tmp_path / "small"
    words = ["study", "demo-small", "--out", str(out), "--rates", *map(str, RATES), "--json"]
    assert main.main([*words, "--dry-run"]) == 0 and not out.exists()
    capsys.readouterr()
    assert main.main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert any("Learning rates: 32x1" in line for line in told["summary"])
    assert (tmp_path / "small-rates" / "study.yaml").exists()
    before = (out / "study.yaml").read_text()
    assert main.main(words) == 0 and (out / "study.yaml").read_text() == before
