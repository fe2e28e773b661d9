"""The study command: from a grid to a report, interrupted, resumed, widened, and its mistakes."""

import errno
import json
import subprocess
import sys
import time
from dataclasses import replace

import pretend_study
import pytest

from scalevit.artifacts import records
from scalevit.cli import main
from scalevit.study.design import grid
from scalevit.study.design.cost import study_cost
from scalevit.study.design.spec import read_spec
from scalevit.study.launch import attempt, scheduler
from scalevit.study.report import figures, results


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """Nodes that take milliseconds and write what a real run would; those in `broken` fail."""
    broken: set[str] = set()
    model = pretend_study.write_model(tmp_path / "whole")

    def command(node, home):
        draft = tmp_path / f"{node.name}.jsonl"
        draft.write_text("".join(json.dumps(row) + "\n" for row in pretend_study.rows(node)))
        kept = " ".join(f'"{home}/checkpoints/step_{at}"' for at in node.run.train.keep_at) or "/tmp"
        done = (
            "echo out of luck >&2; exit 1"
            if node.name in broken
            else f'cp -r "{model}" "{home}/"; cp "{draft}" "{home}/{records.FILE}"'
        )
        return ["/bin/sh", "-c", f'echo {node.name} >> "{tmp_path}/order.txt"; mkdir -p {kept}; {done}']

    monkeypatch.setattr(scheduler, "PRETRAINING", replace(scheduler.PRETRAINING, command=command))
    monkeypatch.setattr(figures, "FIGURES", {"figure2_compute": figures.compute})
    return broken


def order(tmp_path):
    return (tmp_path / "order.txt").read_text().split()


def run(capsys, *words):
    code = main.main(["study", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_study_ends_with_a_forecast_figures_and_a_report_and_again_does_nothing(pretend, tmp_path, capsys):
    out = tmp_path / "demo"
    code, told = run(capsys, "demo", "--out", out)
    assert code == 0 and {*told["states"].values()} == {"done"}
    assert told["forecast"]["low"] < told["forecast"]["high"]
    assert (out / "report.html").exists() and (out / "figures" / "figure2_compute.csv").exists()
    done = order(tmp_path)
    assert len(done) == len({*done}) == len(grid.expand(grid.load("demo")))
    made = told["forecast"]["made"]
    code, told = run(capsys, "resume", out)
    assert code == 0 and order(tmp_path) == done and told["forecast"]["made"] == made


def test_a_node_that_keeps_failing_is_told_with_its_log_and_the_rest_is_reported(pretend, tmp_path, capsys):
    pretend.add("64x3-2048-150")
    code, told = run(capsys, "demo", "--out", tmp_path / "demo")
    assert code == 1
    assert [name for name, state in told["states"].items() if state != "done"] == ["64x3-2048-150"]
    assert "out of luck" in told["failed"]["64x3-2048-150"]
    assert order(tmp_path).count("64x3-2048-150") == 2
    pretend.clear()
    assert run(capsys, "resume", tmp_path / "demo")[0] == 0


def test_a_dry_run_shows_cost_sharing_and_timetable_and_creates_nothing(tmp_path, capsys):
    code, told = run(capsys, "demo", "--out", tmp_path / "demo", "--dry-run", "--slots", "2")
    nodes = grid.expand(grid.load("demo"))
    assert code == 0 and not (tmp_path / "demo").exists()
    assert told["flops"] == pytest.approx(sum(node.flops for node in nodes))
    assert told["share"] == pytest.approx(study_cost(nodes).share) and told["share"] < 1
    assert {node["slot"] for node in told["nodes"]} == {0, 1}
    assert told["seconds"] == pytest.approx(max(node["end"] for node in told["nodes"]))


def test_widening_a_study_runs_only_what_is_new(pretend, tmp_path, capsys):
    before = pretend_study.write(tmp_path / "demo")
    code, _ = run(capsys, "add", tmp_path / "demo", "--images", "512")
    added = order(tmp_path)
    assert code == 0 and added and all("-512-" in name for name in added)
    assert run(capsys, "status", tmp_path / "demo")[1]["counts"]["done"] == len(before) + len(added)


def test_status_tells_each_nodes_state_from_its_folder(tmp_path, capsys):
    nodes = pretend_study.write(tmp_path / "demo")
    (tmp_path / "demo" / "runs" / nodes[0].name / records.FILE).write_text("")
    told = run(capsys, "status", tmp_path / "demo")[1]
    assert told["counts"] == {"done": len(nodes) - 1, "running": 0, "begun": 0, "waiting": 1}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dmeo", "--out", "x"], "nearest studies: demo"),
        (["demo"], "say where the study lives"),
        (["demo", "schedule.l=3", "--out", "x"], "schedule.lr"),
        (["demo", "--out", "x", "--slots", "-1"], "--slots"),
        (["resume", "nowhere"], "name a study's folder"),
        (["demo", "--out", "taken"], "no study"),
        (["demo", "--out", "taken/file"], "not a folder"),
    ],
)
def test_mistakes_are_one_line_and_create_nothing(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    assert main.main(["study", *words]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_full_disk_ends_the_launcher_with_one_line_and_nothing_is_done_twice(
    pretend, tmp_path, monkeypatch, capsys
):
    real, calls = attempt.Attempt.begin, []

    def full(*args):
        calls.append(args)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    monkeypatch.setattr(attempt.Attempt, "begin", full)
    code, told = run(capsys, "demo", "--out", tmp_path / "demo", "--slots", "1")
    assert code == 3 and "No space left" in told["error"]
    monkeypatch.setattr(attempt.Attempt, "begin", real)
    assert run(capsys, "resume", tmp_path / "demo")[0] == 0
    assert len(order(tmp_path)) == len({*order(tmp_path)}) == len(grid.expand(grid.load("demo")))


def test_stop_ends_the_launcher_and_its_nodes_and_resume_finishes(tmp_path, capsys):
    out = tmp_path / "small"
    words = ["study", "demo-small", "--out", str(out), "--slots", "1"]
    process = subprocess.Popen([sys.executable, "-m", "scalevit", *words], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not any(map(attempt.is_locked, (out / "runs").glob("*"))):
        assert time.monotonic() < until
        time.sleep(0.05)
    told = run(capsys, "stop", out)[1]
    assert process.wait(30) == 3 and told["stopped"] >= 1
    assert not any(map(attempt.is_locked, (out / "runs").glob("*")))
    assert run(capsys, "status", out)[1]["counts"]["done"] == told["done"] < 18


def test_a_record_file_cut_in_the_middle_of_a_line_costs_that_line_only(tmp_path, capsys):
    nodes = pretend_study.write(tmp_path / "demo")
    path = tmp_path / "demo" / "runs" / nodes[0].name / records.FILE
    path.write_bytes(path.read_bytes()[:-20])
    told = run(capsys, "status", tmp_path / "demo")[1]
    assert told["counts"]["done"] == len(nodes) - 1
    assert len(results.read_results(tmp_path / "demo").points) == 2 * len(nodes)


@pytest.mark.slow
def test_real_runs_branch_go_on_longer_and_equal_the_same_run_from_scratch(tmp_path, monkeypatch, capsys):
    from scalevit import config

    monkeypatch.setattr(figures, "FIGURES", {})
    study = tmp_path / "tiny.yaml"
    study.write_text(
        "{base: demo, durations: [8, 16], cooldown: 0.25, models: [{name: s, width: 32, depth: 1, mlp: 64,"
        " heads: 1}], overrides: [schedule.warmup=2, train.batch=8, train.save_every=4]}"
    )
    out = tmp_path / "tiny"
    assert run(capsys, study, "--out", out)[0] == 0
    assert run(capsys, "add", out, "--durations", "32")[0] == 0
    spec = replace(read_spec(out / "study.yaml"), durations=(8, 16), added_durations=(32,))
    for node in grid.expand(spec):
        if node.after is None:
            continue
        scratch = tmp_path / f"{node.name}.yaml"
        scratch.write_text(config.dump(replace(node.run, branch=config.Branch())))
        assert main.main(["pretrain", str(scratch), "--out", str(tmp_path / node.name)]) == 0
        capsys.readouterr()
        mine, theirs = out / "runs" / node.name, tmp_path / node.name
        name = "model/model.safetensors"
        assert (mine / name).read_bytes() == (theirs / name).read_bytes()


def test_a_study_whose_runs_would_change_their_meaning_is_refused(tmp_path, capsys):
    pretend_study.write(tmp_path / "demo")
    before = (tmp_path / "demo" / "study.yaml").read_text()
    assert main.main(["study", "demo", "schedule.lr=0.5", "--out", str(tmp_path / "demo")]) == 2
    assert "means something else" in capsys.readouterr().err
    assert (tmp_path / "demo" / "study.yaml").read_text() == before


def test_another_study_into_the_same_folder_is_refused(tmp_path, capsys):
    pretend_study.write(tmp_path / "demo")
    before = (tmp_path / "demo" / "study.yaml").read_text()
    assert main.main(["study", "demo-small", "--out", str(tmp_path / "demo")]) == 2
    assert "18 of its runs are not in this study" in capsys.readouterr().err
    assert (tmp_path / "demo" / "study.yaml").read_text() == before


def test_a_cluster_that_does_not_answer_is_one_line_and_creates_nothing(tmp_path, capsys):
    words = ["study", "demo-small", "--executor", "local", "--cluster", "a=1", "--out", str(tmp_path / "x")]
    assert main.main(words) == 2
    assert "belongs to the executors" in capsys.readouterr().err and not (tmp_path / "x").exists()
