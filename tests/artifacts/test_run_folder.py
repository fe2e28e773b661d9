"""Run folders: complete only with whole weights, one process at a time, room for the checkpoints."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from scalevit.artifacts import checkpoint, dcp, records, run_folder
from scalevit.config.presets import PRESETS

RUN = PRESETS["demo"]


def ended(out):
    """The folder of a run that has ended, with weights."""
    (out / "model").mkdir(parents=True)
    records.append_records(out, [{"run": "x", "kind": "run", "step": 4, "metric": "seconds", "value": 1.0}])
    save_file({"a": torch.ones(3), "b": torch.zeros(2, 2)}, out / "model" / "model.safetensors")
    (out / "model" / "config.json").write_text("{}")
    return out


def with_checkpoint(out):
    staging = checkpoint.create_staging(out / "checkpoints", 4)
    locations, file = dcp.write_shards(staging, 0, dcp.unsharded({"a": torch.ones(3)}))
    checkpoint.commit(staging, 4, locations, [file], {})
    return out


def empty(weights):
    weights.write_bytes(b"")


def cut(weights):
    weights.write_bytes(weights.read_bytes()[:-1])


def lengthen(weights):
    weights.write_bytes(weights.read_bytes() + b"x")


def no_header(weights):
    weights.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")


def remove(weights):
    weights.unlink()


def spoil_config(weights):
    (weights.parent / "config.json").write_text("[")


@pytest.mark.parametrize("damage", [empty, cut, lengthen, no_header, remove, spoil_config])
def test_a_run_with_damaged_weights_is_not_complete(tmp_path, damage):
    out = with_checkpoint(ended(tmp_path / "run"))
    assert run_folder.is_complete(out)
    damage(out / "model" / "model.safetensors")
    assert not run_folder.is_complete(out)


def test_weights_that_were_moved_away_with_the_checkpoints_do_not_train_a_run_anew(tmp_path):
    out = ended(tmp_path / "run")
    shutil.rmtree(out / "model")
    assert run_folder.is_complete(out)


def test_damaged_weights_without_a_checkpoint_are_said(tmp_path):
    out = ended(tmp_path / "run")
    with run_folder.lock(RUN, out):
        pass
    assert run_folder.folder_errors(RUN, out) == []
    empty(out / "model" / "model.safetensors")
    (line,) = run_folder.folder_errors(RUN, out)
    assert "model/ is damaged and no checkpoint is left" in line


def test_two_folders_of_one_run_do_not_share_a_folder_of_checkpoints(tmp_path):
    run = replace(RUN, train=replace(RUN.train, checkpoints=str(tmp_path / "ck")))
    with run_folder.lock(run, tmp_path / "a"):
        with pytest.raises(ValueError, match="another process"), run_folder.lock(run, tmp_path / "b"):
            pass
        other = replace(run, train=replace(run.train, seed=1))
        with run_folder.lock(other, tmp_path / "c"):  # another run keeps its own beside
            pass


def test_a_disk_without_room_for_the_checkpoints_is_said(tmp_path, monkeypatch):
    usage = SimpleNamespace(free=1 << 20)
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: usage)
    (line,) = run_folder.folder_errors(RUN, tmp_path / "run")
    assert "checkpoints need at least" in line and "GiB free" in line
    assert not (tmp_path / "run").exists()
    usage.free = 1 << 40
    assert run_folder.folder_errors(RUN, tmp_path / "run") == []


def test_the_log_has_one_clean_line_an_event(tmp_path):
    log = run_folder.LogFile(tmp_path)
    log("a\x1b[2Jb\nscalevit: done http://u:p@h/x?sig=1")
    (line,) = (tmp_path / run_folder.LOG).read_text().splitlines()
    assert line.endswith(r"a\x1b[2Jb\x0ascalevit: done http://***@h/x?sig=***")


def test_a_line_that_is_no_row_still_keeps_another_run_out(tmp_path):
    (tmp_path / records.FILE).write_text(json.dumps({"metric": 1}) + "\n")
    (line,) = run_folder.folder_errors(RUN, tmp_path)
    assert "no run.yaml says of which run" in line
