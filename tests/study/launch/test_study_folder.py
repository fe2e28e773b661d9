"""A study's folder: runs are found by their settings, and what a stranger wrote into it is data."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pretend_study
import pytest

from scalevit.cli import main
from scalevit.study.design import grid
from scalevit.study.design.growth import grow
from scalevit.study.design.spec import Variant
from scalevit.study.launch import attempt
from scalevit.study.launch.executor_settings import ExecutorSettings, read_settings, write_settings
from scalevit.study.launch.executors.local import available_memory
from scalevit.study.launch.executors.slurm import _parse_job
from scalevit.study.launch.study_folder import check_study_folder, read_forecast, read_nodes, study_nodes

SPEC = replace(pretend_study.SPEC, models=pretend_study.SPEC.models[:1], images=(0,))


def test_a_run_is_found_under_the_name_that_it_had(tmp_path):
    nodes = pretend_study.write(tmp_path, SPEC)
    for node in nodes:
        (tmp_path / "runs" / node.name).rename(tmp_path / "runs" / f"old-{node.name}")
    found = study_nodes(SPEC, tmp_path)
    assert [node.name for node in found] == [f"old-{node.name}" for node in nodes]
    trunk = found[0]
    assert all(node.after == trunk.name for node in found[1:])
    assert all(Path(node.run.branch.trunk).name == trunk.name for node in found[1:])
    check_study_folder(tmp_path, found)


def test_a_recipe_that_is_named_later_adopts_the_runs_without_a_name(tmp_path):
    nodes = pretend_study.write(tmp_path, SPEC)
    wider = grow(
        SPEC,
        replace(SPEC, recipes=(Variant("gap", ("model.pool=gap",)), Variant("map", ("model.pool=map",)))),
    )
    found = study_nodes(wider, tmp_path)
    assert {node.name for node in nodes} == {node.name for node in found if node.recipe == "gap"}
    check_study_folder(tmp_path, found)


def test_a_moved_study_goes_on_at_its_new_place(tmp_path):
    pretend_study.write(tmp_path / "old", SPEC)
    shutil.move(tmp_path / "old", tmp_path / "new")
    found = study_nodes(SPEC, tmp_path / "new")
    check_study_folder(tmp_path / "new", found)
    assert all(str(tmp_path / "new") in node.run.branch.trunk for node in found if node.after)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', '{"a": {"kind": 3}}', "[" * 100_000])
def test_damaged_nodes_are_refused_in_one_line(tmp_path, text):
    (tmp_path / "nodes.json").write_text(text)
    with pytest.raises(ValueError, match=r"nodes\.json"):
        read_nodes(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", '{"mean": "x"}', '{"made": 1, "run": "a", "mean": 0.5}'])
def test_a_damaged_forecast_is_none(tmp_path, text):
    (tmp_path / "forecast.json").write_text(text)
    assert read_forecast(tmp_path / "forecast.json") == {}


def test_a_folder_with_a_line_break_is_refused(tmp_path):
    with pytest.raises(ValueError, match="without line breaks"):
        check_study_folder(tmp_path / "x\ntouch y", grid.expand(SPEC))


# --------------------------------------------------------------------------- executor settings


def test_settings_that_ask_for_machines_are_remembered_and_those_that_run_commands_are_not(tmp_path):
    write_settings(tmp_path, "slurm", ["partition=gpu", "setup=['touch x']", "time=60"])
    assert read_settings(tmp_path) == ExecutorSettings("slurm", ("partition=gpu", "time=60"), ("setup",))


@pytest.mark.parametrize(
    "tree",
    [
        {"executor": "slurm", "cluster": ['setup=["touch x"]']},
        {"executor": "slurm", "cluster": ["partition=a\ntouch x"]},
        {"executor": "slurm", "cluster": ["srun_args=['--x']"]},
        {"executor": "ray", "cluster": ["address=evil:1"]},
        {"executor": "shell", "cluster": []},
        {"executor": "slurm", "cluster": "setup=x"},
        {"executor": "local", "cluster": [3]},
    ],
)
def test_a_strangers_executor_settings_run_nothing(tmp_path, tree, capsys):
    pretend_study.write(tmp_path, SPEC)
    (tmp_path / "executor.json").write_text(json.dumps(tree))
    with pytest.raises(ValueError, match="command line"):
        read_settings(tmp_path)
    assert main.main(["study", "resume", str(tmp_path), "--dry-run"]) == 2
    assert "command line" in capsys.readouterr().err


def test_the_dry_run_refuses_what_a_start_refuses(tmp_path, capsys):
    pretend_study.write(tmp_path / "s", SPEC)
    out = ["--out", str(tmp_path / "s")]
    assert main.main(["study", "demo-small", *out]) == 2
    start = capsys.readouterr().err
    assert main.main(["study", "demo-small", *out, "--dry-run"]) == 2
    assert capsys.readouterr().err == start


# --------------------------------------------------------------------------- processes and locks


def test_modules_of_the_current_folder_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('a stranger ran')")
    monkeypatch.setenv("PYTHONPATH", f":relative{os.pathsep}{tmp_path / 'other'}")
    environment = attempt.clean_environment()
    assert environment["PYTHONPATH"] == str(tmp_path / "other")
    words = [sys.executable, "-c", "import json; json.dumps(1)"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_the_process_that_took_the_lock_is_signalled(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with attempt.open_lock(tmp_path / "lock") as lock:
            assert attempt.try_lock(lock)
            lock.write(f"{process.pid} {socket.gethostname()} another-start")
            lock.flush()
            assert not attempt.signal_owner(tmp_path / "lock", signal.SIGTERM)
            attempt.write_owner(lock, process.pid)
            assert attempt.lock_owner(tmp_path / "lock").pid == process.pid
            assert attempt.signal_owner(tmp_path / "lock", signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
        assert not attempt.signal_owner(tmp_path / "lock", signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("text", ["", "1 host start", "-1 h s", "x h s", "99999999999 h s", "12 h"])
def test_a_lock_that_names_no_process_has_no_owner(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    assert attempt.lock_owner(tmp_path / "lock") is None


def test_looking_at_a_lock_creates_nothing_and_never_refuses_a_claim(tmp_path):
    assert not attempt.is_locked(tmp_path) and not [*tmp_path.iterdir()]
    with attempt.open_lock(tmp_path / "lock") as lock:
        assert not attempt.is_locked(tmp_path)
        assert attempt.try_lock(lock) and attempt.is_locked(tmp_path)


def test_nothing_is_written_through_a_link(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("# mine")
    (tmp_path / "lock").symlink_to(mine)
    with pytest.raises(ValueError, match="is a link"):
        attempt.open_lock(tmp_path / "lock")
    assert mine.read_text() == "# mine"


@pytest.mark.parametrize(("given", "threads"), [("4,2", 4), ("8", 8), ("", 1), ("many", 1), (None, 1)])
def test_threads_of_an_attempt(given, threads):
    assert attempt._threads({"OMP_NUM_THREADS": given} if given is not None else {}) == threads


def test_attempts_that_are_none_are_left_out(tmp_path):
    good = {"seconds": 3600.0, "exit": 0, "threads": 2, "devices": 0}
    lines = ["{", "[1]", '{"seconds": "x"}', json.dumps(good), json.dumps({**good, "threads": None})]
    (tmp_path / attempt.ATTEMPTS_FILE).write_text("\n".join(lines))
    assert attempt.resources_used([tmp_path]) == {"attempts": 1, "core_hours": 2.0, "device_hours": 0.0}


def test_memory_of_a_container_counts_the_page_cache_as_free(tmp_path):
    gib = 2**30
    (tmp_path / "memory.max").write_text(f"{2 * gib}\n")
    (tmp_path / "memory.current").write_text(f"{2 * gib - 4096}\n")
    (tmp_path / "memory.stat").write_text(f"anon {gib // 2}\nfile {gib + gib // 2 - 4096}\nshmem 0\n")
    assert available_memory(tmp_path) <= 1.5
    assert available_memory(tmp_path) == pytest.approx(min(1.5, available_memory(tmp_path / "none")))
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) == pytest.approx(available_memory(tmp_path / "none"), rel=0.2)


@pytest.mark.parametrize(
    ("line", "job"),
    [
        ("my other job 12345", ("my other job", "12345")),
        ("scalevit-0a 7_3", ("scalevit-0a", "7_3")),
        ("x", ("", "x")),
    ],
)
def test_a_queue_may_hold_jobs_with_any_name(line, job):
    assert _parse_job(line) == job
