"""The table of runs, from their folders alone."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from scalevit import config
from scalevit.artifacts import records, run_folder
from scalevit.cli.main import main
from scalevit.config.presets import PRESETS

RUN = PRESETS["demo"]


def row(kind, step, metric, value, **more):
    return {"run": "x", "kind": kind, "step": step, "metric": metric, "value": value, **more}


def make(folder, *rows):
    folder.mkdir(parents=True)
    (folder / run_folder.CONFIG).write_text(config.dump(RUN))
    records.append_records(folder, rows)


def status(folder, capsys):
    assert main(["status", str(folder), "--json"]) == 0
    return {r["folder"].rpartition("/")[2]: r for r in json.loads(capsys.readouterr().out)["runs"]}


def test_states_steps_and_time_left(tmp_path, capsys):
    speed = row("train", 100, "images_per_second", 640.0)
    make(tmp_path / "a" / "stopped", row("train", 100, "loss", 3.5), speed)
    make(tmp_path / "a" / "complete", row("train", 300, "loss", 1.0), row("run", 300, "seconds", 60.0))
    make(tmp_path / "waiting")
    make(tmp_path / "running", row("train", 100, "loss", 3.0), speed, row("event", 50, "rewind 1", 40))
    with run_folder.lock(replace(RUN, name="other"), tmp_path / "running"):
        found = status(tmp_path, capsys)
    assert {name: r["state"] for name, r in found.items()} == {
        "stopped": "stopped", "complete": "complete", "waiting": "waiting", "running": "running",
    }  # fmt: skip
    assert found["stopped"]["step"] == 100
    assert found["stopped"]["minutes_left"] == pytest.approx(
        (RUN.schedule.steps - 100) * RUN.train.batch / 640 / 60
    )
    assert found["running"]["events"] == 1
    assert main(["status", str(tmp_path / "a" / "stopped")]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert [*head.split()] == ["run", "state", "step", "of", "loss", "images/s", "left"]
    assert "3.5000" in line


def test_what_stopped_the_last_attempt_is_told(tmp_path, capsys):
    start, stop = row("start", 0, "seconds", 0.0), row("stop", 7, "seconds", 2.0, why="SIGUSR1")
    make(tmp_path / "warned", row("train", 5, "loss", 2.0), start, stop)
    make(tmp_path / "died", start, stop, row("start", 7, "seconds", 2.0), row("train", 9, "loss", 2.0))
    found = status(tmp_path, capsys)
    assert {name: r["why"] for name, r in found.items()} == {"warned": "SIGUSR1", "died": None}
    assert main(["status", str(tmp_path / "warned")]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("SIGUSR1")


def test_no_torch_is_needed(tmp_path):
    make(tmp_path / "run")
    program = (
        "import sys; sys.modules['torch'] = None; from scalevit.cli.main import main; main(sys.argv[1:])"
    )
    words = [sys.executable, "-c", program, "status", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert "waiting" in done.stdout, done.stderr


def test_a_folder_without_runs_says_so(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_one_damaged_run_does_not_hide_the_others(tmp_path, capsys):
    make(tmp_path / "good", row("train", 5, "loss", 2.0))
    make(tmp_path / "bad", row("train", 5, "loss", 2.0))
    (tmp_path / "bad" / run_folder.CONFIG).write_text("a: [")
    with (tmp_path / "good" / records.FILE).open("a") as file:
        file.write('{"metric": 1}\n[\n')
    found = status(tmp_path, capsys)
    assert found["bad"]["state"] == "unreadable" and found["bad"]["why"]
    assert found["good"]["bad_lines"] == 2 and found["good"]["loss"] == 2.0
    assert main(["status", str(tmp_path)]) == 0
    assert "bad lines" in capsys.readouterr().out


def test_status_creates_nothing(tmp_path, capsys):
    make(tmp_path / "run", row("train", 5, "loss", 2.0))
    before = sorted(tmp_path.rglob("*"))
    status(tmp_path, capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_after_a_rewind_the_step_is_where_the_run_is(tmp_path, capsys):
    rows = [row("train", 100, "loss", 2.0), row("train", 100, "stall", 0.1), row("train", 90, "loss", 2.1)]
    make(tmp_path / "run", *rows)
    assert status(tmp_path, capsys)["run"]["step"] == 90


def test_names_do_not_reach_the_terminal_as_commands(tmp_path, capsys):
    make(tmp_path / "a\x1b]0;OWNED\x07\nb", row("train", 5, "loss", 2.0))
    assert main(["status", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and len(out.splitlines()) == 2
