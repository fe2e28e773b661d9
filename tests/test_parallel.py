"""Several processes on CPUs, started as a user would: the same numbers as one process, whatever dies."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from safetensors.torch import load_file
from test_run import TINY

from scalevit import checkpoint, config, mesh, records

pytestmark = pytest.mark.slow

STEPS = 20
RUN = replace(
    TINY,
    schedule=replace(TINY.schedule, steps=STEPS),
    train=replace(TINY.train, micro_batch=2, log_every=1, save_every=4),
)


def command(home, processes, *overrides, out="run", run=RUN, minutes=None):
    path = home / f"{run.name}.yaml"
    path.write_text(config.dump(run))
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--nproc-per-node", str(processes), "--standalone", "-m"]
    words = ["scalevit", "pretrain", str(path), *overrides, "--out", str(home / out)]
    return start + words + (["--max-minutes", str(minutes)] if minutes is not None else [])


def go(home, processes, *overrides, fails=False, **options):
    words = command(home, processes, *overrides, **options)
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode != 0) == fails, done.stderr
    return done


def losses(folder):
    rows = [row for row in records.read(folder) if row["metric"] == "loss"]
    return {row["step"]: row["value"] for row in rows}


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    assert max(abs(found[step] / expected[step] - 1) for step in expected) <= 1e-5


def using(optimizer):
    return replace(RUN, name=optimizer, optimizer=replace(RUN.optimizer, name=optimizer))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Losses of one process, for each optimizer."""
    home, found = tmp_path_factory.mktemp("alone"), {}
    for name in ("adafactor", "adam", "sgd"):
        go(home, 1, run=using(name), out=name)
        found[name] = losses(home / name)
    return found


@pytest.mark.parametrize(
    ("optimizer", "processes", "words"),
    [
        ("adafactor", 2, ["parallel.strategy=fsdp"]),
        ("adam", 2, ["parallel.strategy=fsdp"]),
        ("sgd", 2, ["parallel.strategy=fsdp", "parallel.recompute=full"]),
        ("adafactor", 4, ["parallel.strategy=fsdp", "parallel.recompute=selective"]),
        ("adafactor", 4, ["parallel.strategy=hybrid", "parallel.shard=2"]),
        ("adafactor", 2, ["parallel.strategy=ddp"]),
    ],
)
def test_many_processes_are_one(alone, tmp_path, optimizer, processes, words):
    done = go(tmp_path, processes, *words, run=using(optimizer))
    assert done.stdout.count("complete, 20 steps") == 1
    assert_close(losses(tmp_path / "run"), alone[optimizer])
    (about,) = [row for row in records.read(tmp_path / "run") if row["kind"] == "run"]
    assert about["world"] == processes


def test_the_number_of_processes_may_change(alone, tmp_path):
    """1 → 2 → 4 → 2 processes, one of them without sharding; each stops by itself and leaves a checkpoint."""
    for processes, strategy in ((1, "ddp"), (2, "fsdp"), (4, "fsdp"), (2, "ddp")):
        go(
            tmp_path,
            processes,
            f"parallel.strategy={strategy}",
            minutes=0,
            fails=True,
            run=using("adafactor"),
        )
    assert [entry.step for entry in checkpoint.saved(tmp_path / "run" / "checkpoints")] == [3, 4]
    go(tmp_path, 2, "parallel.strategy=fsdp", run=using("adafactor"))
    assert_close(losses(tmp_path / "run"), alone["adafactor"])


def test_killed_at_random_moments(tmp_path):
    """SIGKILL of the whole job of two processes: the weights of the undisturbed run, bit for bit."""
    words = ["parallel.strategy=fsdp", "train.save_every=1"]
    run = replace(RUN, schedule=replace(RUN.schedule, steps=60))
    began = time.monotonic()
    go(tmp_path, 2, *words, run=run, out="straight")
    takes, moments, kills = time.monotonic() - began, random.Random(1), 0
    while kills < 12:
        process = subprocess.Popen(
            command(tmp_path, 2, *words, run=run, out="killed"), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert process.wait(timeout=moments.uniform(0.6, 1.1) * takes) == 0
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            kill_workers(tmp_path / "killed")
            process.wait()
            kills += 1
    assert kills > 0
    same = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("straight", "killed")]
    assert {k: v.tolist() for k, v in same[0].items()} == {k: v.tolist() for k, v in same[1].items()}


def kill_workers(folder):
    """torchrun puts its workers into sessions of their own; find those that work on this folder."""
    found = subprocess.run(["pgrep", "-f", "--", f"--out {folder}$"], capture_output=True, text=True).stdout
    for number in map(int, found.split()):
        os.kill(number, signal.SIGKILL)


def test_a_batch_that_cannot_be_shared_is_refused_once(tmp_path):
    done = go(tmp_path, 3, "train.batch=8", "train.micro_batch=0", fails=True)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("scalevit:")]
    assert "a batch of 6 or 9, or 2 or 4 processes" in line
    assert not (tmp_path / "run").exists()


def test_json_is_printed_once(tmp_path):
    words = command(tmp_path, 2, "schedule.steps=5", "schedule.warmup=1", "schedule.cooldown=1")
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout)["step"] == 5


def test_hybrid_groups_must_fit(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    (line,) = mesh.mistakes(config.Parallel(strategy="hybrid", shard=3), 8)
    assert "possible: [1, 2, 4]" in line
