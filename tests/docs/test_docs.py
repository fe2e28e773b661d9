"""Every command that the documentation shows is one that the program takes, with settings that exist."""

import argparse
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from scalevit import config
from scalevit.cli import main
from scalevit.config.presets import PRESETS
from scalevit.study.design import grid

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(path for kind in ("*.md", "notebooks/*.py") for path in (ROOT / "docs").glob(kind)),
]
#: Words that stand for something of the reader's.
PLACEHOLDERS = re.compile(
    r"…|\b(COMMAND|PRESET|NAME|DIR2?|MODEL|DATA|OUT|IN|PATH|WHAT|RUN|SPEC|TRAIN|EVAL)\b"
)


def shown(page):
    """The `scalevit …` lines of a page: in its code blocks, and inline where more than names are said."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    text = re.sub(r"^# ?", "", text, flags=re.M) if page.suffix == ".py" else text
    blocks = re.findall(r"^```(?:sh|bash)?\n(.*?)^```", text, re.S | re.M)
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    inline = [re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", text)]
    inline = [code for code in inline if len(code.split()) > 3]
    for line in [line for block in blocks for line in block.splitlines()] + inline:
        found = re.match(r"\s*(?:srun )?(?:torchrun .*? -m )?scalevit (\w.*)", line)
        words = shlex.split(re.split(r" (?:\|\|?|>) ", found[1])[0], comments=True) if found else []
        if len(words) > 1 and not PLACEHOLDERS.search(" ".join(words)):
            yield tuple(words)


COMMANDS = [(page.name, words) for page in PAGES for words in dict.fromkeys(shown(page))]


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else "-"
)
def test_every_command_shown_is_taken(page, words):
    command, *rest = words
    assert command in main.COMMANDS, f"{page}: no command {command}"
    if rest == ["--help"]:
        return
    check_settings(command, main.parse(main.parser_of(command), rest))


def check_settings(command: str, args: argparse.Namespace) -> None:
    """Presets are there, and the keys that a command changes are too."""
    given = vars(args)
    words = [*(given.get("overrides") or ()), *(given.get("rest") or ())]
    changes = [word for word in words if "=" in word]
    target = str(given.get("target") or given.get("spec") or "")
    if (
        command == "study"
        and "/" not in target
        and target not in import_module("scalevit.cli.study").SUBCOMMANDS
    ):
        if not target.endswith(".yaml"):
            grid.load(target, changes, args.preset)
    elif command in ("pretrain", "plan", "doctor", "finetune"):
        assert not target or target in PRESETS or target.endswith(".yaml"), f"no preset {target}"
        base = target if target in PRESETS else "demo"
        try:
            config.load(base, changes)
        except config.ConfigErrors as error:  # combinations that only another base allows
            assert not [line for line in error.errors if "nearest" in line or "expected" in line], error


def test_enough_commands_were_met_and_every_command_among_them():
    assert len(COMMANDS) >= 90
    assert {words[0] for _, words in COMMANDS} == {*main.COMMANDS}


def test_every_command_has_a_page_of_the_site_that_shows_it():
    nav = yaml.safe_load(re.sub(r"!\S+", "", (ROOT / "mkdocs.yml").read_text()))["nav"]
    (commands,) = [entry["Commands"] for entry in nav if "Commands" in entry]
    assert {command: f"{command}.md" for command in main.COMMANDS} == {
        k: v for entry in commands for k, v in entry.items()
    }
    for command in main.COMMANDS:
        assert any(words[0] == command for page, words in COMMANDS if page == f"{command}.md"), (
            f"{command}.md shows none"
        )


def test_the_yaml_on_the_pages_is_of_studies_that_load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(config.dump(config.load("demo", ["schedule.warmup=5"])))
    met = 0
    for page in PAGES:
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.S | re.M):
            (tmp_path / "study.yaml").write_text(block)
            grid.load("study.yaml")
            met += 1
    assert met >= 2


def test_the_api_page_names_every_public_function():
    text = (ROOT / "docs" / "api.md").read_text()
    import scalevit

    for name, module in scalevit._PUBLIC.items():
        assert f"scalevit.{module}.{name}\n" in text or f"::: scalevit.{module}\n" in text, name
