"""What a plan says of memory, beside bytes counted while real steps run, and beside rehearsed ones."""

import json

import pytest
import torch

from scalevit.cli.main import main
from scalevit.config.load import load
from scalevit.config.memory import GIB, count_parameters, step_memory
from scalevit.tools.bench.memory import SHAPES, cases, row
from scalevit.tools.memory_dry_run import dry_run_step, largest_micro_batch
from scalevit.tools.memory_tracker import MemoryTracker

CPU = torch.device("cpu")


def test_a_footprint_counts_what_is_held_and_forgets_what_is_not():
    weights = torch.ones(1000)
    with MemoryTracker() as tracker:
        tracker.track("weights", [weights])
        kept = weights * 2
        passing = weights.sin()
        del passing
        view = kept[:10]
    assert dict(tracker.live) == {"weights": 4000, "activations": 4000}
    assert tracker.peak == 12_000
    assert len(view) == 10


def test_what_is_made_while_gradients_are_computed_is_told_apart():
    weight = torch.ones(64, 64, requires_grad=True)
    with MemoryTracker() as tracker:
        tracker.track("weights", [weight])
        (torch.ones(8, 64) @ weight).square().sum().backward()
    assert tracker.live["gradients"] == weight.nbytes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", [("adafactor", "bf16", "none", 2), ("adam", "fp32", "full", 1)])
def test_a_plan_is_within_five_percent_of_a_step(shape, way):
    optimizer, precision, recompute, parts = way
    assert abs(row(shape, optimizer, precision, recompute, parts, CPU)["difference"]) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 3])
def test_all_plans_are_within_five_percent(parts):
    rows = [row(*case, parts, CPU) for case in cases()]
    assert len(rows) == 36
    assert max(abs(one["difference"]) for one in rows) <= 0.05


SMALL = ["model.depth=4", "model.classes=1000", "train.batch=64"]


@pytest.mark.parametrize(
    ("words", "micro_batch"),
    [
        ([], 8),
        (["parallel.strategy=fsdp"], 4),
        (["parallel.strategy=hybrid", "parallel.shard=4", "train.precision=fp32", "train.ema=0.99"], 8),
        (["parallel.recompute=full", "optimizer.name=adam", "train.batch=8"], 1),
    ],
)
def test_a_rehearsal_agrees_with_the_plan(words, micro_batch):
    run = load("paper/B16", [*SMALL, *words])
    lived = dry_run_step(run, 8, micro_batch)
    numbers = count_parameters(run, run.model.resolve())["total"]
    shards = {"ddp": 1, "fsdp": 8, "hybrid": 4}[run.parallel.strategy]
    assert step_memory(run, run.model.resolve(), micro_batch, 8).total == pytest.approx(lived.peak, rel=0.05)
    # parameters with one row, as positions, are on the first device alone
    assert lived.kinds["weights"] * GIB == pytest.approx(4 * numbers / shards, rel=0.04)
    passes = 2 * (8 // micro_batch)  # forward and backward of each micro-batch
    if shards == 1:
        assert lived.sent == {"average gradients": 4 * numbers / GIB}
    else:  # a little more than the weights: of parameters with one row everyone gathers many
        assert 1 < lived.sent["gather weights"] / (passes * 4 * numbers / GIB) < 1.03
        assert 1 < lived.sent["scatter gradients"] / (4 * numbers / GIB) < 1.03


def test_no_process_group_is_left_behind():
    dry_run_step(load("paper/S32", ["model.depth=1", "parallel.strategy=fsdp", "train.batch=8"]), 4, 2)
    assert not torch.distributed.is_initialized()


def test_the_largest_micro_batch_is_found_from_both_sides():
    run = load("paper/S32", ["model.depth=1", "model.classes=10", "train.batch=64", "optimizer.name=sgd"])
    room = (dry_run_step(run, 1, 16).peak + dry_run_step(run, 1, 32).peak) / 2
    for near in (8, 16, 64):
        lived, above = largest_micro_batch(run, 1, room, near)
        assert above is not None
        assert (lived.micro_batch, above.micro_batch) == (16, 32)
    lived, above = largest_micro_batch(run, 1, 1e9, 32)
    assert (lived.micro_batch, above) == (64, None)


def test_the_command_prints_both(capsys):
    words = ["plan", "paper/L16", *SMALL, "parallel.strategy=fsdp", "--devices", "8", "--rehearse"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["rehearsal"]
    assert found["fits"] and found["largest_micro_batch"] == 8 and abs(found["difference"]) < 0.05
    assert main([*words, "--device", "l4"]) == 0
    assert "all 8 images of a device's share fit at once" in capsys.readouterr().out
    assert main(["plan", "--rehearse"]) == 2


@pytest.mark.slow
def test_the_giant_is_rehearsed_on_256_devices():
    for words in (["parallel.strategy=fsdp"], ["parallel.strategy=fsdp", "parallel.recompute=full"]):
        run = load("paper/G14", words)
        lived = dry_run_step(run, 256, 64)
        assert step_memory(run, run.model.resolve(), 64, 256).total == pytest.approx(lived.peak, rel=0.05)
