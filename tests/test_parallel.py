"""Several processes on CPUs, started as a user would: the same numbers as one process, whatever dies."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
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


def test_killed_at_random_moments():
    """In a save, one process, the launcher, everything: each time the weights of the undisturbed run."""
    script = Path(__file__).parent.parent / "benchmarks" / "kills.py"
    done = subprocess.run([sys.executable, script, "--kills", "4"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 end with the weights of the undisturbed run, bit for bit" in done.stdout


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
