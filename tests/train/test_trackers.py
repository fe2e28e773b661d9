"""Numbers arrive in trackers as they are in the records; one that fails costs a line, not the run."""

from dataclasses import replace

import pytest
from tiny_run import TINY, weights

from scalevit.artifacts import records
from scalevit.cli.main import main
from scalevit.train import trackers
from scalevit.train.run import pretrain


class Held:
    """Keeps what it is told; `fails` on the second step that it is told of."""

    def __init__(self, fails=False):
        self.told, self.closed, self.fails = {}, 0, fails

    def numbers(self, step, values):
        if self.fails and self.told:
            raise ConnectionError("nobody\nanswers")
        self.told[step] = {**self.told.get(step, {}), **values}

    def close(self):
        self.closed += 1


def watched(monkeypatch, **held):
    """The tiny run with these trackers in the place of packages."""
    monkeypatch.setattr(trackers, "tracker_errors", lambda run: [])
    for name, tracker in held.items():
        monkeypatch.setitem(trackers.TRACKERS, name, lambda *_, tracker=tracker: tracker)
    return replace(TINY, train=replace(TINY.train, trackers=tuple(held)))


def test_names_tell_rows_apart_and_draws_are_averaged():
    row = {"step": 4, "dataset": "digits", "metric": "accuracy", "kind": "probe", "shots": 10}
    train = {"step": 4, "dataset": "strokes", "metric": "loss", "kind": "train", "shots": None, "value": 2.0}
    about = train | {"kind": "stop", "metric": "seconds"}
    rows = [row | {"seed": 0, "value": 0.5}, row | {"seed": 1, "value": 0.7}, train, about]
    assert trackers.numbers(rows) == {4: {"probe/digits/10-shot/accuracy": 0.6, "train/loss": 2.0}}


def test_a_tracker_is_told_what_the_records_say(monkeypatch, tmp_path):
    held = Held()
    run = watched(monkeypatch, wandb=held)
    pretrain(run, tmp_path / "run", max_minutes=0)
    pretrain(run, tmp_path / "run")
    rows = [row for row in records.read_records(tmp_path / "run") if row["kind"] == "train"]
    assert {(s, n): v for s, found in held.told.items() for n, v in found.items()} == {
        (row["step"], f"train/{row['metric']}"): row["value"] for row in rows
    }
    assert held.closed == 2


def test_a_tracker_that_fails_is_let_go(monkeypatch, tmp_path, capsys):
    bad, good = Held(fails=True), Held()
    assert pretrain(watched(monkeypatch, wandb=bad, trackio=good), tmp_path / "run").stopped is None
    assert (len(bad.told), bad.closed, len(good.told), good.closed) == (1, 0, 3, 1)
    line = "wandb failed, and the run goes on without it: nobody answers"
    assert capsys.readouterr().err.count(line) == 1
    assert line in (tmp_path / "run" / "log.txt").read_text()
    pretrain(TINY, tmp_path / "plain")
    assert weights(tmp_path / "run") == weights(tmp_path / "plain")


def test_one_that_is_not_installed_is_a_mistake(monkeypatch, tmp_path, capsys):
    def missing(name):
        raise trackers.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(trackers.metadata, "version", missing)
    words = ["pretrain", "demo", "train.trackers=[tensorboard,trackio]", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()
    expected = 'scalevit: train.trackers: tensorboard is not installed: pip install "scalevit[tensorboard]"'
    assert said[0] == expected and len(said) == 2
    assert not (tmp_path / "run").exists()


def test_one_that_nobody_knows_is_a_mistake(capsys):
    assert main(["pretrain", "demo", "train.trackers=wandb2", "--dry-run"]) == 2
    assert "train.trackers: 'wandb2' is none of tensorboard, wandb, trackio" in capsys.readouterr().err


def test_tensorboard_reads_what_a_run_wrote(tmp_path):
    """An attempt that is stopped, and one that goes on: each step once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = replace(TINY, train=replace(TINY.train, trackers=("tensorboard",), log_every=1))
    for _ in range(2):
        pretrain(run, tmp_path / "run", max_minutes=0)
    pretrain(run, tmp_path / "run")
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    read.Reload()
    loss = [(event.step, event.value) for event in read.Scalars("train/loss")]
    rows = [row for row in records.read_records(tmp_path / "run") if row["metric"] == "loss"]
    assert loss == [(row["step"], pytest.approx(row["value"])) for row in rows]
