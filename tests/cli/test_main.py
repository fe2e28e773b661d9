"""What a person or a script sees of the command line: one line for a mistake, clean JSON, exit status."""

import errno
import json

import pytest

from scalevit.cli import main
from scalevit.config.result import CommandResult


def test_help_names_every_command(capsys):
    assert main.main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {command} " in text for command in main.COMMANDS)
    assert len(main.COMMANDS) >= 12


@pytest.mark.parametrize("command", main.COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: scalevit {command}" in text
    assert len(text.splitlines()) > 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plam"], "nearest: plan"),
        (["plan", "paper/G15"], "nearest presets: paper/G14"),
        (["plan", "paper/G14", "--gpuz", "3"], "scalevit plan --help"),
        (["plan", "demo", "model.pool=x"], "none of map, gap, token"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(words, said, capsys):
    assert main.main(words) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert said in streams.err
    assert len(streams.err.splitlines()) == 1


def test_several_mistakes_are_a_line_each(capsys):
    assert main.main(["plan", "demo", "model.pool=x", "train.batch=y"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_json_has_no_infinities(capsys):
    main._print(CommandResult("text", {"a": float("inf"), "b": [float("nan"), 1]}), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1]}


def test_python_names_are_all_there():
    import scalevit

    assert all(getattr(scalevit, name) is not None for name in scalevit.__all__)
    with pytest.raises(AttributeError, match="no 'nonsense'"):
        _ = scalevit.nonsense


def test_a_full_disk_is_one_line_that_says_what_to_do(monkeypatch, capsys):
    def full(*words):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(main, "_dispatch", full)
    assert main.main(["pretrain", "demo"]) == 3
    assert capsys.readouterr().err.count("\n") == 1
