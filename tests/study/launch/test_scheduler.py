"""The launcher: every node once whatever dies, trunks before branches, failures contained."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from shell_study import SPEC, Quiet, many, worker

from scalevit import config
from scalevit.study.design import grid
from scalevit.study.launch import scheduler
from scalevit.study.launch.executors.local import LocalExecutor
from scalevit.study.launch.study_folder import lock_study, write_node_folders


def order(out):
    path = out / "order.txt"
    return path.read_text().split() if path.exists() else []


def test_every_node_is_done_once_trunks_first_and_a_second_launch_does_nothing(tmp_path):
    nodes = grid.expand(SPEC, tmp_path / "runs")
    outcome = scheduler.run_study(nodes, tmp_path, Quiet(), worker(), executor=LocalExecutor(2))
    assert outcome.complete
    done = order(tmp_path)
    assert sorted(done) == sorted(node.name for node in nodes)
    assert all(done.index(node.after) < done.index(node.name) for node in nodes if node.after)
    assert scheduler.run_study(nodes, tmp_path, Quiet(), worker()).complete
    assert order(tmp_path) == done


def test_a_branch_starts_when_its_trunk_has_saved_the_step_and_not_when_it_has_ended(tmp_path):
    nodes = [n for n in grid.expand(SPEC, tmp_path / "runs") if n.model == "32x1"]
    trunk, first = nodes[0].name, nodes[1]
    waits = f'while ! [ -e "{tmp_path}/runs/{first.name}/ended" ]; do sleep 0.01; done'
    outcome = scheduler.run_study(nodes, tmp_path, Quiet(), worker(waits, trunk), executor=LocalExecutor(2))
    assert outcome.complete, "the trunk waits for its first branch, which must not wait for the trunk's end"
    assert order(tmp_path)[0] == trunk


def test_a_failing_node_is_retried_then_given_up_with_its_log_and_the_others_go_on(tmp_path):
    nodes = grid.expand(SPEC, tmp_path / "runs")
    watcher = Quiet()
    bad = "32x2-256-32"
    broken = worker('rm -rf "checkpoints"; echo boom >&2; exit 1', bad)
    broken = replace(
        broken, reached=lambda home, step: home.name != bad and scheduler.has_checkpoint(home, step)
    )
    outcome = scheduler.run_study(nodes, tmp_path, watcher, broken, executor=LocalExecutor(2), attempts=3)
    assert outcome.states[bad] == "failed" and "boom" in outcome.errors[bad]
    assert [event[:2] for event in watcher.events].count((bad, "running")) == 3
    lost = {node.name for node in nodes if node.after == bad}
    assert {name for name, state in outcome.states.items() if state == "blocked"} == lost
    assert all(outcome.states[node.name] == "done" for node in nodes if node.name not in {bad, *lost})


def test_a_users_mistake_is_not_tried_again(tmp_path):
    nodes = grid.expand(SPEC, tmp_path / "runs")[:1]
    outcome = scheduler.run_study(nodes, tmp_path, Quiet(), worker("exit 2"), attempts=5)
    assert outcome.states[nodes[0].name] == "failed" and len(order(tmp_path)) == 1


def test_two_launchers_on_one_study_are_refused(tmp_path):
    nodes = grid.expand(SPEC, tmp_path / "runs")
    with lock_study(tmp_path), pytest.raises(ValueError, match=f"process {os.getpid()}"):
        scheduler.run_study(nodes, tmp_path, Quiet(), worker())
    assert not (tmp_path / "runs").exists()


def test_a_study_that_changes_what_a_run_means_is_refused_and_a_wider_one_is_not(tmp_path):
    write_node_folders(grid.expand(SPEC, tmp_path / "runs"), tmp_path)
    before = {path: path.read_text() for path in tmp_path.rglob("run.yaml")}
    changed = replace(SPEC, overrides=(*SPEC.overrides, "schedule.lr=0.5"))
    with pytest.raises(ValueError, match="means something else"):
        write_node_folders(grid.expand(changed, tmp_path / "runs"), tmp_path)
    write_node_folders(grid.expand(replace(SPEC, images=(256, 512)), tmp_path / "runs"), tmp_path)
    assert all(path.read_text() == text for path, text in before.items())


def test_the_run_file_describes_the_node(tmp_path):
    nodes = grid.expand(SPEC, tmp_path / "runs")
    write_node_folders(nodes, tmp_path)
    for node in nodes:
        again = config.load(str(tmp_path / "runs" / node.name / "run.yaml"))
        assert again == config.with_explicit_shape(node.run)


def test_progress_reads_the_last_step_from_a_file_that_is_cut_in_the_middle_of_a_line(tmp_path):
    (tmp_path / "records.jsonl").write_text('{"step": 20, "metric": "loss"}\n{"step": 40, "met')
    assert scheduler.last_step(tmp_path) == 20
    assert scheduler.last_step(tmp_path / "nowhere") == 0


LAUNCHER = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {tests!r})
from shell_study import Quiet, many, worker
from scalevit.study.launch import scheduler
from scalevit.study.launch.executors.local import LocalExecutor
out = Path({out!r})
nodes = many(out, {count})
scheduler.run_study(nodes, out, Quiet(), worker({more!r}), executor=LocalExecutor(4))
"""


def start(out, count, more=""):
    text = LAUNCHER.format(
        tests=str(Path(__file__).parents[2] / "support"), out=str(out), count=count, more=more
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(text)], env=environment)


def test_interrupting_the_launcher_ends_the_nodes_gently_and_the_next_launch_finishes(tmp_path):
    gentle = 'trap "exit 3" TERM; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.03; done'
    process = start(tmp_path, 12, gentle)
    while process.poll() is None and not (tmp_path / "order.txt").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    finished = {path.parent.name for path in tmp_path.glob("runs/*/ended")}
    assert len(finished) < 12
    nodes = many(tmp_path, 12)
    assert scheduler.run_study(nodes, tmp_path, Quiet(), worker(), executor=LocalExecutor(4)).complete
    counts = Counter(order(tmp_path))
    assert all(counts[name] == 1 for name in finished)


@pytest.mark.slow
def test_two_hundred_nodes_survive_a_launcher_killed_twenty_times_and_each_is_done_once(tmp_path):
    for kill in range(20):
        before = len(order(tmp_path))
        process = start(tmp_path, 200, "sleep 0.15")
        while len(order(tmp_path)) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.07 * (kill % 5))
        process.kill()
        process.wait()
    nodes = many(tmp_path, 200)
    assert scheduler.run_study(
        nodes, tmp_path, Quiet(), worker("sleep 0.15"), executor=LocalExecutor(4)
    ).complete
    assert Counter(order(tmp_path)) == {node.name: 1 for node in nodes}


@pytest.mark.slow
def test_overhead_is_at_most_50_ms_a_node(tmp_path):
    nodes = many(tmp_path, 200)
    began = time.process_time()  # of the launcher alone: neither the nodes nor neighbours count
    assert scheduler.run_study(nodes, tmp_path, Quiet(), worker(), executor=LocalExecutor(2)).complete
    assert (time.process_time() - began) / 200 <= 0.05
