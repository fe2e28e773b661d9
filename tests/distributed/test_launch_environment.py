"""The environment of torchrun: read once, checked together, empty means unset."""

import pytest

from scalevit.cli.main import main
from scalevit.distributed.launch_environment import LaunchEnvironment

NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
WHOLE = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "here", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def give(monkeypatch, **values):
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_without_torchrun_and_with_empty_values_there_is_one_process(monkeypatch):
    assert LaunchEnvironment.read() == LaunchEnvironment(0, 1, 0)
    give(monkeypatch, **dict.fromkeys(NAMES, ""))
    assert LaunchEnvironment.read() == LaunchEnvironment(0, 1, 0)
    give(monkeypatch, WORLD_SIZE="1", RANK="7")
    assert LaunchEnvironment.read() == LaunchEnvironment(0, 1, 0)


def test_what_torchrun_sets_is_read(monkeypatch):
    give(monkeypatch, **WHOLE)
    assert LaunchEnvironment.read() == LaunchEnvironment(3, 4, 1)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"RANK": ""}, "WORLD_SIZE=4 is set, but RANK is not"),
        ({"MASTER_ADDR": "", "MASTER_PORT": ""}, "but MASTER_ADDR, MASTER_PORT is not"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE=four: an integer"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: an integer"),
        ({"RANK": "4"}, "RANK=4: an integer from 0 to 3"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT=99999"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK=-1"),
    ],
)
def test_what_does_not_fit_together_is_said(monkeypatch, changed, words):
    give(monkeypatch, **{**WHOLE, **changed})
    with pytest.raises(ValueError, match=words):
        LaunchEnvironment.read()


def test_a_stray_world_size_is_one_line(monkeypatch, tmp_path, capsys):
    give(monkeypatch, WORLD_SIZE="4")
    assert main(["pretrain", "demo", "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "unset WORLD_SIZE" in line
    assert not (tmp_path / "run").exists()
