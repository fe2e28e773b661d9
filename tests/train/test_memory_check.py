"""The micro-batch is chosen to fit into memory, and runs that fit whole keep their bits."""

from dataclasses import replace

import pytest
from tiny_run import TINY, weights

from scalevit import config
from scalevit.artifacts import records
from scalevit.config.memory import USABLE_SHARE, micro_batch_that_fits, step_memory
from scalevit.distributed.world import SINGLE_PROCESS
from scalevit.train import memory_check
from scalevit.train.run import pretrain

WHOLE = replace(TINY, train=replace(TINY.train, micro_batch=0))


def needed(micro_batch):
    return step_memory(WHOLE, WHOLE.model.resolve(), micro_batch, 1).total


def test_the_largest_micro_batch_that_fits_is_taken():
    for size in (1, 2, 4, 8):
        assert micro_batch_that_fits(WHOLE, 1, needed(size) / USABLE_SHARE * 1.0001) == size
        assert micro_batch_that_fits(WHOLE, 1, needed(size) / USABLE_SHARE * 0.9999) < size


def test_a_run_that_fits_is_not_cut_and_one_that_does_not_is_recorded(tmp_path, monkeypatch):
    pretrain(WHOLE, tmp_path / "roomy")
    pretrain(replace(TINY, train=replace(TINY.train, micro_batch=8)), tmp_path / "whole")
    assert weights(tmp_path / "roomy") == weights(tmp_path / "whole")
    monkeypatch.setattr(memory_check, "free_memory", lambda world: needed(4) / USABLE_SHARE * 1.0001)
    pretrain(WHOLE, tmp_path / "tight")
    pretrain(TINY, tmp_path / "cut")  # TINY takes four images at once
    assert weights(tmp_path / "tight") == weights(tmp_path / "cut")
    (row,) = (row for row in records.read_records(tmp_path / "tight") if row["metric"] == "micro_batch")
    assert row["value"] == 4
    assert config.load(str(tmp_path / "tight" / "run.yaml")).train.micro_batch == 0


def test_what_does_not_fit_is_refused_with_the_nearest_that_does(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_check, "free_memory", lambda world: needed(2) / USABLE_SHARE * 1.0001)
    run = replace(TINY, train=replace(TINY.train, micro_batch=8))
    with pytest.raises(ValueError, match=r"train\.micro_batch=2 fits"):
        pretrain(run, tmp_path / "r")
    monkeypatch.setattr(memory_check, "free_memory", lambda world: 1e-6)
    with pytest.raises(ValueError, match="not even one image"):
        pretrain(WHOLE, tmp_path / "r")
    assert not (tmp_path / "r").exists()
    assert memory_check.free_memory(SINGLE_PROCESS) == 1e-6
