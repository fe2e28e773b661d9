"""A run from words to weights: interrupted, branched, refused, and recognised as finished."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from faulty_run import BAD, spoilt
from tiny_run import STEPS, TINY, WATCHED, wait_for, weights, without_step_that_fails

from scalevit import config
from scalevit.artifacts import checkpoint, records, run_folder
from scalevit.cli.main import main
from scalevit.cli.pretrain import command_result
from scalevit.cli.status import status
from scalevit.config.presets import PRESETS
from scalevit.config.result import CHECK_FAILED
from scalevit.train import loop
from scalevit.train.run import preflight_errors, pretrain


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "tiny"
    outcome = pretrain(TINY, folder)
    assert (outcome.stopped, outcome.step) == (None, STEPS)
    return folder


def test_what_a_run_leaves(done):
    rows = records.read_records(done)
    last = {row["metric"]: row["value"] for row in rows if row["kind"] == "train" and row["step"] == STEPS}
    about = [row for row in rows if row["kind"] == "run"]
    assert config.load(str(done / "run.yaml")) == config.with_explicit_shape(TINY)
    assert {"loss", "grad_norm", "lr", "images_per_second", "stall"} <= set(last)
    assert len(about) == 1
    assert {"commit", "versions", "device", "world", "command", "seconds", "mfu"} <= set(about[0])
    shape = TINY.model.resolve()
    assert about[0]["train_flops"] == pytest.approx(STEPS * 8 * 3 * shape.flops(16, "map", 8))
    assert [entry.step for entry in checkpoint.list_checkpoints(done / "checkpoints")] == [7, 10, STEPS]
    assert "step 12 · loss" in (done / "log.txt").read_text()


def test_a_finished_run_is_not_done_again(done, capsys):
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()}
    assert pretrain(TINY, done).step == STEPS
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()} == before


def test_interrupted_again_and_again_the_weights_are_the_same(done, tmp_path):
    """Stopped by a time limit of nothing after each of the first steps, then left alone."""
    for step in range(1, 4):
        outcome = pretrain(TINY, tmp_path / "run", max_minutes=0)
        assert (outcome.stopped, outcome.step) == ("the time limit", step)
    assert pretrain(TINY, tmp_path / "run").stopped is None
    assert weights(tmp_path / "run") == weights(done)

    def losses(folder):
        return [(r["step"], r["value"]) for r in records.read_records(folder) if r["metric"] == "loss"]

    assert losses(tmp_path / "run") == losses(done)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_checkpoint_costs_steps_and_nothing_else(done, tmp_path, capsys, damage):
    folder = tmp_path / "run"
    for _ in range(3):
        pretrain(TINY, folder, max_minutes=0)
    damage(folder / "checkpoints" / "step_3" / "__0_0.distcp")
    assert pretrain(TINY, folder).stopped is None
    assert weights(folder) == weights(done)
    assert "step 3 is damaged and not used" in capsys.readouterr().err


@pytest.mark.parametrize("save_every", [0, 5])
@pytest.mark.parametrize(("fault", "word"), [("nan", "a gradient norm of nan"), ("spike", "is usual")])
def test_a_faulty_step_is_left_out(tmp_path, monkeypatch, fault, word, save_every):
    """Back to the start, or to the checkpoint of step 5: either way as if that batch were not there."""
    expected = without_step_that_fails(monkeypatch, tmp_path / "without")
    monkeypatch.setattr(loop, "accumulate_gradients", spoilt(fault))
    run = replace(WATCHED, train=replace(WATCHED.train, save_every=save_every))
    assert pretrain(run, tmp_path / "run").stopped is None
    assert weights(tmp_path / "run") == expected
    (event,) = [row for row in records.read_records(tmp_path / "run") if row["kind"] == "event"]
    assert (event["metric"], event["step"], event["value"]) == ("rewind 1", BAD, save_every)
    assert word in event["why"]
    assert "its batch is skipped" in (tmp_path / "run" / "log.txt").read_text()


def test_a_cooldown_branch_is_the_run_from_scratch(done, tmp_path, capsys):
    words = ["cooldown", str(done), "--at", "7", "--steps", "3", "--out", str(tmp_path / "branch"), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 10
    branch = config.load(str(tmp_path / "branch" / "run.yaml"))
    assert (branch.schedule.steps, branch.schedule.cooldown) == (10, 3)
    pretrain(replace(branch, branch=config.Branch()), tmp_path / "scratch")
    assert weights(tmp_path / "branch") == weights(tmp_path / "scratch")
    assert weights(tmp_path / "branch") != weights(done)
    (row,) = [row for row in records.read_records(tmp_path / "branch") if row["kind"] == "run"]
    assert row["parent"] == config.run_id(TINY)


@pytest.mark.parametrize(
    ("at", "steps", "message"), [(6, 3, "there: 7, 10, 12"), (10, 3, "plateau ends at 8"), (7, 0, "--steps")]
)
def test_a_branch_that_cannot_be(done, tmp_path, capsys, at, steps, message):
    words = ["cooldown", str(done), "--at", str(at), "--steps", str(steps), "--out", str(tmp_path / "b")]
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_branch_off_another_past_is_refused(done, tmp_path):
    schedule = replace(TINY.schedule, steps=10, cooldown=3, lr=0.5)
    run = replace(TINY, schedule=schedule, branch=config.Branch(str(done), 7))
    (line,) = preflight_errors(run, tmp_path / "b")
    assert "schedule.lr" in line


def test_all_mistakes_at_once_and_nothing_created(done, tmp_path):
    bad = replace(
        TINY, data=config.Data(source=""), train=replace(TINY.train, batch=9),
        schedule=replace(TINY.schedule, warmup=STEPS),
    )  # fmt: skip
    with pytest.raises(config.ConfigErrors) as error:
        pretrain(bad, tmp_path / "run")
    text = str(error.value)
    assert all(word in text for word in ("data.source", "micro_batch", "warmup"))
    assert not (tmp_path / "run").exists()


def test_the_folder_of_another_run_is_refused(done, tmp_path):
    with pytest.raises(ValueError, match=r"holds another run \(tiny\); different: .*train.seed"):
        pretrain(replace(TINY, train=replace(TINY.train, seed=1)), done)
    (tmp_path / "odd").mkdir()
    records.append_records(tmp_path / "odd", [{"metric": "loss", "value": 1}])
    with pytest.raises(ValueError, match=r"no run\.yaml says of which run"):
        pretrain(TINY, tmp_path / "odd")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        pretrain(TINY, tmp_path / "file")


def test_two_processes_cannot_share_a_folder(tmp_path):
    with run_folder.lock(TINY, tmp_path / "run"), pytest.raises(ValueError, match="another process"):
        pretrain(TINY, tmp_path / "run")


def test_dry_run_creates_nothing(tmp_path, capsys):
    assert main(["pretrain", "demo", "--dry-run", "--out", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == PRESETS["demo"].schedule.steps
    assert not (tmp_path / "run").exists()
    assert main(["pretrain", "paper/S16", "--dry-run"]) == 0
    assert "data.source" in capsys.readouterr().out


def test_without_a_folder_nothing_starts(capsys):
    assert main(["pretrain", "demo"]) == 2
    assert "say --out, such as --out runs/demo" in capsys.readouterr().err


BUDGET = ["plan", "--gpus", "64", "--gpu", "h200", "--days", "7", "--unique-images", "3e8"]


@pytest.mark.parametrize("words", [[*BUDGET], ["plan", "paper/S16"]])
def test_a_plans_answer_is_a_run(tmp_path, capsys, words):
    """Its JSON and the YAML it writes."""
    assert main([*words, "--json"]) == 0
    answer = capsys.readouterr().out
    (tmp_path / "plan.json").write_text(answer)
    said = json.loads(answer)
    run = config.load(str(tmp_path / "plan.json"))
    assert config.to_dict(run) == said.get("best", said)["run"]
    assert main(["pretrain", str(tmp_path / "plan.json"), "--dry-run"]) == 0
    capsys.readouterr()


def test_a_full_disk_says_so_and_leaves_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    pretrain(TINY, tmp_path / "run", max_minutes=0)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "commit", full)
    outcome = pretrain(TINY, tmp_path / "run")
    assert outcome.stopped is not None
    assert "No space left on device" in outcome.stopped
    assert [entry.step for entry in checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")] == [1]
    monkeypatch.undo()
    assert pretrain(TINY, tmp_path / "run").stopped is None


def start(folder, *overrides, stderr=subprocess.DEVNULL):
    (folder.parent / "tiny.yaml").write_text(config.dump(TINY))
    words = ["pretrain", str(folder.parent / "tiny.yaml"), *overrides, "--out", str(folder)]
    return subprocess.Popen([sys.executable, "-m", "scalevit", *words], stderr=stderr, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_exits_with_3(tmp_path, number):
    words = "schedule.steps=100000", "train.save_every=5"
    process = start(tmp_path / "run", *words, stderr=subprocess.PIPE)
    wait_for(tmp_path / "run" / "checkpoints" / "step_5")
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    (last,) = [line for line in said.splitlines() if "stopped by" in line]
    newest = checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert f"{number.name} at step {newest.step};" in last
    assert checkpoint.find_damage(newest.folder) == []


@pytest.mark.slow
def test_killed_at_random_moments_the_weights_are_the_same(done, tmp_path):
    """SIGKILL, also while starting and while saving: nothing is lost but the steps since the checkpoint."""
    import random

    moments, kills = random.Random(0), 0
    longer = ["schedule.steps=60", "train.save_every=1"]
    straight = start(tmp_path / "straight", *longer)
    began = time.monotonic()
    assert straight.wait(timeout=120) == 0
    takes = time.monotonic() - began
    for share in (0.2, 0.35, 0.5):
        process = start(tmp_path / "killed", *longer)
        try:
            process.wait(timeout=moments.uniform(0.7, 1.3) * share * takes)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert start(tmp_path / "killed", *longer).wait(timeout=120) == 0
    assert kills > 0
    assert weights(tmp_path / "killed") == weights(tmp_path / "straight")


def test_an_allocation_that_fails_ends_in_a_line_and_a_record(tmp_path, monkeypatch):
    def no_memory(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(loop, "accumulate_gradients", no_memory)
    result = pretrain(TINY, tmp_path)
    assert result.failed
    assert "try a smaller train.micro_batch, such as 2" in result.stopped
    assert "\n" not in result.stopped
    row = status(tmp_path)
    assert (row["state"], row["why"]) == ("failed", result.stopped)
    monkeypatch.undo()
    assert pretrain(TINY, tmp_path).stopped is None
    assert status(tmp_path)["state"] == "complete"


def test_other_runtime_errors_are_shown_as_they_are(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(loop, "accumulate_gradients", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        pretrain(TINY, tmp_path)


def test_a_run_that_diverges_fails_and_is_not_resumable(tmp_path):
    run = replace(TINY, schedule=replace(TINY.schedule, lr=1e3), optimizer=config.Optimizer("sgd", clip=0.0))
    result = pretrain(run, tmp_path)
    assert result.failed
    assert status(tmp_path)["state"] == "failed"
    assert command_result(result).code == CHECK_FAILED


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activation_checkpointing_changes_no_loss(tmp_path, precision):
    """The same losses, also through the CPU kernels, which have backward passes of their own."""
    losses = []
    for recompute in ("none", "selective", "full"):
        run = replace(
            TINY,
            train=replace(TINY.train, precision=precision),
            parallel=config.Parallel(recompute=recompute),
        )
        assert pretrain(run, tmp_path / recompute).stopped is None
        rows = records.read_records(tmp_path / recompute)
        losses.append([row["value"] for row in rows if row["metric"] == "loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)
