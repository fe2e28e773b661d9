"""What limits a run: closed forms for made-up seconds, and one run really examined."""

from dataclasses import replace

import pytest
import torch

from scalevit.config.load import load
from scalevit.tools.bottleneck import StepTimes, _workers, examine_run, verdict

PARTS = StepTimes(passes=0.8, update=0.2, reading=0.5, threads=1, workers=0, cores=4, on_cpu=True)


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({}, 1.5),  # one after the other
        ({"workers": 1}, 1.0),  # beside each other
        ({"workers": 1, "reading": 3.0}, 3.0),
        ({"workers": 2, "reading": 3.0}, 1.5),
        ({"workers": 9, "reading": 9.0}, 2.5),  # four cores for computing and reading together
        ({"workers": 9, "reading": 8.0, "on_cpu": False}, 2.0),
        ({"workers": 1, "threads": 4}, 1.125),  # all cores were busy already
    ],
)
def test_seconds_from_step_to_step(change, step):
    assert replace(PARTS, **change).step == pytest.approx(step)


@pytest.mark.parametrize(
    ("change", "limit"),
    [({}, "computing"), ({"update": 1.0}, "the optimizer"), ({"reading": 2.0}, "reading images")],
)
def test_the_largest_part_is_named(change, limit):
    assert replace(PARTS, **change).limit == limit


def test_the_fewest_readers_that_are_enough():
    (found,) = _workers(replace(PARTS, reading=1.5))
    assert (found.setting, found.gain) == ("data.workers=2", pytest.approx(2.5))


def test_the_verdict_says_what_would_help_or_that_nothing_does():
    run, found = load("demo"), {"limited_by": "computing", "images_per_second": 8.0}
    found |= {"step_seconds": 1.0, "passes": 0.8, "update": 0.2, "reading": 0.0}
    changes = [{"setting": "train.precision=bf16", "gain": 2.5}]
    said = verdict(run, {**found, "changes": changes})
    assert "limited by computing" in said and said.endswith("train.precision=bf16 should give 2.50 ×")
    assert verdict(run, {**found, "changes": []}).endswith("none of the changes that were tried helps")


def test_a_run_is_examined_and_left_as_it_was():
    run = load("demo", ["train.batch=8", "train.micro_batch=4", "model.depth=1", "train.precision=fp32"])
    threads = torch.get_num_threads()
    found = examine_run(run)
    assert torch.get_num_threads() == threads
    assert found["images_per_second"] == pytest.approx(8 / found["step_seconds"])
    assert min(found["passes"], found["update"], found["reading"]) > 0
    assert all(one["gain"] >= 1.1 for one in found["changes"])


def test_a_fine_tuning_run_is_examined_on_the_labelled_set_it_trains_on():
    run = load("demo", ["model.depth=1", "model.classes=10", "train.batch=8", "train.precision=fp32"])
    run = replace(run, data=replace(run.data, source="digits", part="train", transform="none", images=0))
    found = examine_run(run)
    assert found["images_per_second"] == pytest.approx(8 / found["step_seconds"])
    assert min(found["passes"], found["reading"]) > 0
