"""Several processes on CPUs, started as a user would: the same numbers as one process, whatever dies."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from process_run import RUN, STEPS, assert_close, command, losses
from safetensors.torch import load_file
from tiny_run import wait_for, weights

from scalevit import config
from scalevit.artifacts import checkpoint, dcp, records
from scalevit.distributed.world import world_errors

pytestmark = pytest.mark.slow


def go(home, processes, *overrides, fails=False, **options):
    words = command(home, processes, *overrides, **options)
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode != 0) == fails, done.stderr
    return done


#: Twice on the way and at the end, with a last batch of another size.
PROBED = ("probe.datasets=[digits]", "probe.shots=[1]", "probe.draws=1", "train.eval_every=8")


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
    (about,) = [row for row in records.read_records(tmp_path / "run") if row["kind"] == "run"]
    assert about["world"] == processes


def test_the_number_of_processes_may_change(alone, tmp_path):
    """1 → 2 → 4 → 2 processes, the last without sharding; each stops by itself and leaves a checkpoint."""
    for processes, strategy in ((1, "ddp"), (2, "fsdp"), (4, "fsdp")):
        go(
            tmp_path,
            processes,
            f"parallel.strategy={strategy}",
            minutes=0,
            fails=True,
            run=using("adafactor"),
        )
    assert [entry.step for entry in checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")] == [2, 3]
    go(tmp_path, 2, "parallel.strategy=ddp", run=using("adafactor"))
    assert_close(losses(tmp_path / "run"), alone["adafactor"])


def test_a_branch_over_processes_is_the_run_from_scratch(tmp_path):
    """Trunk, branch and the run from scratch, each of two processes with shares of the weights."""
    words = ("parallel.strategy=fsdp", "train.keep_at=[7]")
    go(tmp_path, 2, *words, out="trunk")
    cooldown = ["cooldown", tmp_path / "trunk", "--at", "7", "--steps", "3", "--out", tmp_path / "branch"]
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m"]
    subprocess.run([*start, "scalevit", *cooldown], check=True, capture_output=True, timeout=120)
    branch = config.load(str(tmp_path / "branch" / "run.yaml"))
    go(tmp_path, 2, run=replace(branch, name="scratch", branch=config.Branch()), out="scratch")
    assert branch.schedule.steps == 10
    assert weights(tmp_path / "branch") == weights(tmp_path / "scratch")


def test_several_runs_one_after_the_other(tmp_path):
    """Fine-tuning chooses a rate by runs of the same processes, and says what one process says."""
    go(tmp_path, 1, out="model")
    words = ["finetune", tmp_path / "model", "digits", "--lr", "0.03", "--lr", "0.01", "train.precision=fp32"]
    words += ["schedule.steps=4", "train.batch=16", "parallel.strategy=fsdp"]
    for processes, out in ((1, "alone"), (2, "both")):
        start = command(tmp_path, processes)
        start = start[: start.index("pretrain")] + [*words, "--out", tmp_path / out]
        subprocess.run(start, check=True, capture_output=True, timeout=120)
    alone, both = (
        {
            row["metric"]: row["value"]
            for row in records.read_records(tmp_path / out)
            if row["kind"] in ("rate", "finetune")
        }
        for out in ("alone", "both")
    )
    assert both == pytest.approx(alone, rel=1e-4)
    assert set(alone) >= {"accuracy", "held_out_accuracy at 0.03", "held_out_accuracy at 0.01"}


def free_port():
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]


def test_two_machines_share_in_groups_and_end_together(alone, tmp_path):
    """Two launchers that meet on this machine, of two processes each: sharded within, averaged between. Then
    again, and one of them is killed with its processes: the other one ends and says why."""
    meeting = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "run", "--local-addr", "127.0.0.1"]
    words = ("parallel.strategy=hybrid", "parallel.shard=2")

    def both(*more, out):
        place = ["--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
        full = command(tmp_path, 2, *words, *more, run=using("adafactor"), out=out, launcher=meeting + place)
        pipe = subprocess.PIPE
        return [subprocess.Popen(full, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]

    machines = both(out="run")
    said = [machine.communicate(timeout=180) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert_close(losses(tmp_path / "run"), alone["adafactor"])
    (about,) = [row for row in records.read_records(tmp_path / "run") if row["kind"] == "run"]
    assert (about["world"], about["strategy"]) == (4, "hybrid")

    machines = both("schedule.steps=100000", out="lost")
    wait_for(tmp_path / "lost" / "checkpoints" / "step_4", 120)
    lost, left = machines
    children = Path(f"/proc/{lost.pid}/task/{lost.pid}/children").read_text().split()
    for number in [lost.pid, *map(int, children)]:
        os.kill(number, signal.SIGKILL)
    lost.communicate()
    _, said = left.communicate(timeout=90)
    assert left.returncode == 1
    why = r"scalevit: .* (is gone|has not been heard of for 30 s), noticed at step \d+, .*; the job ends"
    assert re.search(why, said), said


def test_killed_at_random_moments():
    """In a save, one process, the launcher, everything: each time the weights of the undisturbed run."""
    script = Path(__file__).parents[2] / "benchmarks" / "kills.py"
    done = subprocess.run(
        [sys.executable, script, "--kills", "4", "--steps", "20"], capture_output=True, text=True
    )
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
    for name, value in {"WORLD_SIZE": 4, "RANK": 0, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    (line,) = world_errors(config.Parallel(strategy="hybrid", shard=3), 8)
    assert "nearest: [2, 4]" in line


def test_blocks_are_compiled_once(alone, tmp_path):
    """A sharded run whose blocks are compiled, and which is probed on the way: the same losses, and torch,
    asked to tell of each function that it compiles again, tells nothing."""
    words = command(
        tmp_path, 2, "parallel.strategy=fsdp", "train.compile=true", *PROBED, run=using("adafactor")
    )
    environment = {**os.environ, "TORCH_LOGS": "recompiles,graph_code"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    assert "TRACED GRAPH" in done.stderr
    assert "Recompiling function" not in done.stderr
    assert_close(losses(tmp_path / "run"), alone["adafactor"])


def test_the_mean_of_sharded_weights_is_the_mean_of_weights(tmp_path):
    """What a run leaves is its Polyak average, here of the last eleven steps, whoever holds it."""
    words = ["train.ema=0", "train.polyak=10", "parallel.strategy=fsdp"]
    for processes, out in ((1, "one"), (2, "two")):  # SGD: the others magnify the rounding of gradients of 0
        go(tmp_path, processes, *words, run=using("sgd"), out=out)
    one, two = (load_file(tmp_path / out / "model" / "model.safetensors") for out in ("one", "two"))
    assert one.keys() == two.keys()
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5
    last = dcp.ShardReader(checkpoint.step_folder(tmp_path / "two" / "checkpoints", STEPS))
    assert any(not (last.read_tensor(f"model.{name}") == value).all() for name, value in two.items())
