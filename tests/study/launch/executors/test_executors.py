"""Real executors: a Slurm cluster of this machine, a local Ray cluster, this machine's memory and devices.

Slurm comes from Debian (`apt-get install slurmctld slurmd slurm-client munge`, as `.ci/run` does) and needs
root; without it these tests fail and say so, they are not skipped.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cluster_study
import pytest

from scalevit.cli import main
from scalevit.study.launch import attempt
from scalevit.study.launch.executors.local import PROCESS_MEMORY, LocalExecutor, expected_memory
from scalevit.study.launch.executors.ray import RayCluster
from scalevit.study.launch.executors.slurm import SlurmCluster

TESTS = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A running cluster; the environment names it."""
    folder = Path("/tmp") / f"scalevit-slurm-{os.getpid()}"  # a socket's path must be short
    needed = ("slurmctld", "slurmd", "sbatch", "munged")
    absent = [name for name in needed if shutil.which(name) is None and not Path("/usr/sbin", name).exists()]
    assert not absent, f"no {', '.join(absent)}: apt-get install slurmctld slurmd slurm-client munge"
    script = TESTS / "slurm" / "cluster"
    started = subprocess.run([script, "start", folder], capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield folder
    subprocess.run([script, "stop", folder], check=True)
    shutil.rmtree(folder, ignore_errors=True)
    os.environ.pop("SLURM_CONF") if before is None else os.environ.update(SLURM_CONF=before)


@pytest.fixture(params=["slurm", "ray"])
def cluster(request, tmp_path):
    """An executor's name and options."""
    if request.param == "slurm":
        request.getfixturevalue("slurm")
        return "slurm", {"time": 10}
    return "ray", {"num_cpus": 1}


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nothing_left():
    """A test that fails leaves no launcher and no job to the next one."""
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.wait()
    if "SLURM_CONF" in os.environ:
        subprocess.run(["scancel", "--quiet", "--me"], capture_output=True)


def start(name, folder, count, more, options):
    """A launcher in a process of its own, which ignores interrupts as if started with `&`."""
    words = [name, str(folder), str(count), more, json.dumps(options)]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS / 'support'}"}
    process = subprocess.Popen(
        [sys.executable, str(TESTS / "support" / "cluster_study.py"), *words], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    STARTED.append(process)
    return process


def order(folder):
    path = folder / "order.txt"
    return path.read_text().split() if path.exists() else []


def wait_for(what, seconds=60):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.05)


@pytest.mark.slow
def test_every_node_is_done_once_and_its_cost_is_written_down(cluster, tmp_path):
    name, options = cluster
    assert start(name, tmp_path, 6, "sleep 0.2", options).wait(90) == 0
    assert len(order(tmp_path)) == len({*order(tmp_path)}) == 6
    rows = [row for home in sorted((tmp_path / "runs").iterdir()) for row in attempt.read_attempts(home)]
    assert [(row["exit"], row["executor"]) for row in rows] == [(0, name)] * 6
    assert all(0.2 <= row["seconds"] < 5 for row in rows)
    assert (
        6 * 0.2 / 3600 <= attempt.resources_used([*(tmp_path / "runs").iterdir()])["core_hours"] <= 30 / 3600
    )


@pytest.mark.slow
def test_a_failing_node_is_retried_and_given_up_and_the_others_are_done(cluster, tmp_path):
    name, options = cluster
    more = f'echo >> "{tmp_path}/tries"; mkdir "{tmp_path}/first" || {{ echo boom >&2; exit 1; }}'
    assert start(name, tmp_path, 3, more, options).wait(120) == 1
    assert len((tmp_path / "tries").read_text().splitlines()) == 1 + 2 * 2
    events = (tmp_path / "events.txt").read_text()
    assert events.count("failed") == 2 and "boom" in events
    assert len(order(tmp_path)) == 1


@pytest.mark.slow
def test_a_killed_launcher_is_resumed_and_no_node_is_done_twice(cluster, tmp_path):
    name, options = cluster
    for _ in range(2):
        process = start(name, tmp_path, 8, "sleep 0.7", options)
        before = len(order(tmp_path))
        wait_for(lambda: len(order(tmp_path)) > before or process.poll() is not None)  # noqa: B023
        process.kill()
        process.wait()
    assert start(name, tmp_path, 8, "sleep 0.7", options).wait(120) == 0
    assert len(order(tmp_path)) == 8 and {*Counter(order(tmp_path)).values()} == {1}


@pytest.mark.slow
def test_asked_to_stop_what_runs_saves_and_ends_and_what_waits_does_not_begin(cluster, tmp_path):
    name, options = cluster
    gentle = f'echo x >> "{tmp_path}/began"; trap "exit 3" TERM; for i in $(seq 100); do sleep 0.1; done'
    process = start(name, tmp_path, 6, gentle, options)
    wait_for((tmp_path / "began").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 3
    begun = len((tmp_path / "began").read_text().split())
    assert begun < 6 and order(tmp_path) == []
    assert not any(attempt.is_locked(home) for home in (tmp_path / "runs").iterdir())
    assert start(name, tmp_path, 6, "true", options).wait(90) == 0
    assert len(order(tmp_path)) == 6


@pytest.mark.slow
def test_a_preempted_job_saves_is_requeued_and_goes_on(slurm, tmp_path):
    began = tmp_path / "began"
    more = (
        f'echo "$SLURM_RESTART_COUNT" >> "{began}"; [ -e "{tmp_path}/saved" ] && exit_early=1\n'
        f"trap 'echo > \"{tmp_path}/saved\"; exit 3' TERM USR1\n"
        f'[ -n "$exit_early" ] || for i in $(seq 300); do sleep 0.1; done'
    )
    process = start("slurm", tmp_path, 1, more, {"time": 10, "partition": "work"})
    wait_for(began.exists)
    subprocess.run(["srun", "-p", "urgent", "-N1", "--exclusive", "sleep", "1"], check=True, timeout=60)
    assert process.wait(90) == 0
    assert order(tmp_path) == ["32x1-256-16"] and len(began.read_text().splitlines()) == 2
    assert (tmp_path / "saved").exists()


@pytest.mark.slow
def test_slurms_warning_before_the_time_limit_saves_and_requeues_the_same_job(slurm, tmp_path):
    more = (
        f'echo "${{SLURM_RESTART_COUNT:-0}} $SLURM_JOB_ID" >> "{tmp_path}/began"\n'
        f"trap 'echo > \"{tmp_path}/saved\"; exit 3' TERM USR1\n"  # the job passes its warning on as TERM
        f'[ -e "{tmp_path}/saved" ] || for i in $(seq 600); do sleep 0.1; done'
    )
    process = start("slurm", tmp_path, 1, more, {"time": 2, "signal_delay_s": 115})
    assert process.wait(200) == 0  # Slurm looks at time limits every half minute
    restarts, jobs = zip(*(line.split() for line in (tmp_path / "began").read_text().splitlines()))
    assert restarts == ("0", "1") and jobs[0] == jobs[1]


@pytest.mark.slow
def test_study_stop_ends_the_jobs_of_a_launcher_that_died(slurm, tmp_path, capsys):
    import pretend_study

    from scalevit.study.launch import stop

    folder = tmp_path / "demo"
    nodes = pretend_study.write(folder)[:2]
    process = start("slurm", folder, 3, 'trap "exit 3" TERM; for i in $(seq 300); do sleep 0.1; done', {})
    homes = [folder / "runs" / node.name for node in cluster_study.nodes(folder, 3)]
    wait_for(lambda: any(map(attempt.is_locked, homes)))
    process.kill()
    process.wait()
    stop.stop_study(folder, [*nodes, *cluster_study.nodes(folder, 3)], "slurm")
    assert not any(map(attempt.is_locked, homes))
    queue = subprocess.run(["squeue", "--me", "-h"], capture_output=True, text=True)
    assert queue.stdout == ""


# --------------------------------------------------------------------------- this machine


def test_nodes_that_do_not_fit_into_memory_together_run_one_after_the_other(tmp_path):
    nodes = cluster_study.nodes(tmp_path, 3)
    sizes = dict(zip((node.name for node in nodes), (6.0, 6.0, 3.0)))
    local = LocalExecutor(3, memory=lambda node: sizes[node.name], available=10.0, devices=())
    assert local.choose(nodes, []) == [nodes[0], nodes[2]]
    assert local.choose(nodes[1:], [nodes[0]]) == [nodes[2]]
    assert (
        LocalExecutor(3, memory=lambda node: 99.0, available=10.0, devices=()).choose(nodes, []) == nodes[:1]
    )


def test_a_larger_batch_is_expected_to_take_more_memory(tmp_path):
    from dataclasses import replace

    node = cluster_study.nodes(tmp_path, 1)[0]
    larger = replace(node, run=replace(node.run, train=replace(node.run.train, batch=4096)))
    assert expected_memory(larger) - PROCESS_MEMORY > 20 * (expected_memory(node) - PROCESS_MEMORY) > 0


def test_each_process_gets_a_device_and_its_share_of_the_cores(tmp_path):
    local = LocalExecutor(devices=("3", "5"), available=10.0)
    assert local.workers == 2
    given = [local._environment(slot) for slot in (0, 1)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in given] == ["3", "5"]
    assert {one["OMP_NUM_THREADS"] for one in given} == {str(max(1, (os.cpu_count() or 1) // 2))}


# --------------------------------------------------------------------------- clusters that are not there


def test_no_slurm_here_is_one_line_that_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    code = main.main(["study", "demo", "--out", str(tmp_path / "demo"), "--executor", "slurm"])
    said = capsys.readouterr().err
    assert code == 2 and "no Slurm here" in said and "--executor local" in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_slurm_that_does_not_answer_is_one_line(slurm, tmp_path, monkeypatch, capsys):
    wrong = tmp_path / "slurm.conf"
    text = Path(os.environ["SLURM_CONF"]).read_text()
    wrong.write_text(
        text.replace("SlurmctldPort=", "SlurmctldPort=1\n#").replace(
            "ClusterName=tests", "ClusterName=tests\nSlurmctldTimeout=1\nMessageTimeout=2"
        )
    )
    monkeypatch.setenv("SLURM_CONF", str(wrong))
    with pytest.raises(ValueError, match="Slurm does not answer"):
        SlurmCluster(tmp_path, 0, {})


@pytest.mark.slow
def test_an_unknown_parameter_of_slurm_is_named(slurm, tmp_path):
    with pytest.raises(ValueError, match="partitoin"):
        SlurmCluster(tmp_path, 0, {"partitoin": "work"})
    with pytest.raises(ValueError, match="invalid partition"):
        cluster_study.run("slurm", tmp_path, 1, "true", {"partition": "nowhere"})


def test_an_unknown_option_of_ray_is_named():
    with pytest.raises(ValueError, match="cpus; known: address, num_cpus"):
        RayCluster(0, {"cpus": 3})


@pytest.mark.slow
def test_a_ray_cluster_that_is_not_there_is_one_line(tmp_path, capsys):
    words = ["--executor", "ray", "--cluster", "address=127.0.0.1:1"]
    code = main.main(["study", "demo", "--out", str(tmp_path / "demo"), *words])
    said = capsys.readouterr().err
    assert code == 2 and "no Ray cluster at 127.0.0.1:1" in said
    assert len(said.strip().splitlines()) == 1
