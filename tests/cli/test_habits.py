"""What people type out of habit: help, foreign flags, lists of presets and keys, completion, --quiet."""

import json
import shutil
import subprocess

import pytest

from scalevit.cli import completion, main
from scalevit.cli.foreign_flags import EQUIVALENTS
from scalevit.config.key_ranges import describe_keys
from scalevit.config.load import load
from scalevit.config.presets import PRESETS
from scalevit.config.run import Run


def flat(tree, prefix=""):
    for name, value in tree.items():
        yield from flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]


def test_every_key_has_a_meaning():
    from scalevit.config.load import to_dict

    listed = describe_keys()
    assert {info.key for info in listed} == set(flat(to_dict(Run())))
    assert [info.key for info in listed if not info.meaning] == []


def test_config_finds_keys_by_word(capsys):
    assert main.main(["config", "warm", "--json"]) == 0
    assert "schedule.warmup" in json.loads(capsys.readouterr().out)
    assert main.main(["config", "--preset", "paper/G14"]) == 0
    assert "model.shape=G/14 " in capsys.readouterr().out
    assert main.main(["config", "schedule.warmop"]) == 2
    assert "schedule.warmup" in capsys.readouterr().err


def test_presets_lists_every_preset_and_study(capsys):
    assert main.main(["presets"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*PRESETS, "demo-small", "head-decay"))


def test_help_of_a_command_is_its_help(capsys):
    with pytest.raises(SystemExit):
        main.main(["help", "plan"])
    first = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main.main(["plan", "--help"])
    assert capsys.readouterr().out == first
    assert main.main(["help", "plam"]) == 2


@pytest.mark.parametrize(
    ("flag", "ours"),
    [("--resume", "same --out"), ("--config", "first argument"), ("--output-dir", "--out DIR"),
     ("--output_dir=x", "--out DIR"), ("--seed", "train.seed"), ("--lr", "schedule.lr"),
     ("--epochs", "schedule.steps"), ("--maxx-minutes", "nearest is --max-minutes")],
)  # fmt: skip
def test_flags_of_other_programs_are_answered_with_ours(flag, ours, capsys, tmp_path):
    assert main.main(["pretrain", "demo", flag, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert ours in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_equivalents_name_keys_that_exist():
    known = {info.key for info in describe_keys()}
    named = [word.partition("=")[0] for text in EQUIVALENTS.values() for word in text.split() if "=" in word]
    named = [word for word in named if "." in word]
    assert len(named) > 30
    assert set(named) <= known


def complete(*words):
    """What bash would complete the last word to."""
    script = completion.main(main.parse(main.parser_of("completion"), ["bash"])).text
    quoted = " ".join(f"'{word}'" for word in words)
    program = (
        f'{script}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _scalevit; echo "${{COMPREPLY[@]}}"'
    )
    bash = shutil.which("bash")
    assert bash
    return subprocess.run([bash, "-c", program], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_flags_presets_and_keys():
    assert complete("scalevit", "pre") == ["pretrain", "predict", "presets"]
    assert complete("scalevit", "pretrain", "--dr") == ["--dry-run"]
    assert complete("scalevit", "pretrain", "paper/G") == ["paper/G14"]
    assert complete("scalevit", "pretrain", "demo", "schedule.w") == ["schedule.warmup="]
    assert "index" in complete("scalevit", "data", "in")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_every_command(shell, capsys):
    assert main.main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in main.COMMANDS)
    if path := shutil.which(shell):
        subprocess.run([path, "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("overrides", "warmup", "cooldown"),
    [
        (["schedule.steps=60"], 2, 18),
        (["schedule.steps=410"], 50, 360),  # fits as it is
        (["schedule.steps=2400"], 50, 360),
    ],
)
def test_steps_alone_shorten_what_does_not_fit(overrides, warmup, cooldown, caplog):
    schedule = load("demo", overrides).schedule
    assert (schedule.warmup, schedule.cooldown) == (warmup, cooldown)
    assert ("scaled to" in caplog.text) == (schedule.warmup != 50)


def test_an_explicit_ramp_is_never_changed():
    with pytest.raises(ValueError, match="longer than the run's 60"):
        load("demo", ["schedule.steps=60", "schedule.cooldown=30"])
    assert load("demo", ["schedule.steps=200", "schedule.cooldown=60"]).schedule.warmup == 50
