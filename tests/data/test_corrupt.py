"""A run over a folder that holds a truncated JPEG: replaced and told, or stopped with where to look."""

import json

import pytest
from pictures import make_folder

from scalevit.artifacts import records
from scalevit.cli.main import main

MODEL = ("model.shape=mu/16", "model.patch=4", "model.image=16", "model.classes=3", "probe.datasets=[]")
STEPS = (
    "schedule.steps=6",
    "schedule.warmup=1",
    "schedule.cooldown=1",
    "train.batch=10",
    "train.log_every=2",
)


@pytest.fixture
def folder(tmp_path):
    root = make_folder(tmp_path / "photos")
    file = root / "bee/001.jpg"
    file.write_bytes(file.read_bytes()[:300])
    return root


def pretrain(folder, out, *more: str) -> int:
    words = [*MODEL, *STEPS, f"data.source={folder}", *more, "--out", str(out), "--json"]
    return main(["pretrain", "demo", "data.images=0", *words])


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_samples_are_replaced_and_recorded(folder, tmp_path, capsys, workers):
    assert pretrain(folder, tmp_path / "run", "data.tolerate=0.1", f"data.workers={workers}") == 0
    events = [row for row in records.read_records(tmp_path / "run") if row["kind"] == "event"]
    assert {row["metric"] for row in events} == {"broken_samples"}
    counts = [row["value"] for row in events]
    assert counts == sorted(set(counts)) and counts[-1] == 2  # once in each of two epochs
    assert len(events[-1]["first"]) == 1 and "bee/001.jpg" in events[-1]["first"][0]
    assert json.loads(capsys.readouterr().out)["step"] == 6
    assert f"scalevit data check {folder}" in (tmp_path / "run/log.txt").read_text()


def test_without_broken_samples_there_is_no_event(tmp_path, capsys):
    assert pretrain(make_folder(tmp_path / "whole"), tmp_path / "run") == 0
    assert not [row for row in records.read_records(tmp_path / "run") if row["kind"] == "event"]


def test_over_the_tolerance_the_run_stops_and_says_where_to_look(folder, tmp_path, capsys):
    assert pretrain(folder, tmp_path / "run") == 2  # the second time within 1000 samples is over 0.1 %
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("scalevit: 2 of 1000 samples were broken")
    assert "bee/001.jpg" in last and last.endswith(f"scalevit data check {folder}")
    *_, event = [row for row in records.read_records(tmp_path / "run") if row["kind"] == "event"]
    assert (event["metric"], event["value"]) == ("broken_samples", 2)
