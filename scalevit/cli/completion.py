"""scalevit completion: a script with which bash, zsh or fish completes commands, flags, presets and keys."""

from __future__ import annotations

import argparse
import shlex
from itertools import chain

from scalevit.config.result import CommandResult

SUMMARY = "a script that completes commands, flags, presets and keys in bash, zsh or fish"

#: Commands whose words may be presets and section.key=value.
CONFIGURED = ("plan", "pretrain", "doctor", "finetune", "study")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.epilog = 'bash: eval "$(scalevit completion bash)" in ~/.bashrc; zsh likewise in ~/.zshrc; ' \
                    "fish: scalevit completion fish > ~/.config/fish/completions/scalevit.fish"  # fmt: skip


def main(args: argparse.Namespace) -> CommandResult:
    script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell]()
    return CommandResult(script, {"shell": args.shell, "script": script})


def words_of(command: str) -> tuple[list[str], list[str]]:
    """(flags, other words) that a command takes: subcommands, choices, presets and keys."""
    from scalevit.cli.main import parser_of

    parser = parser_of(command)
    actions = list(parser._actions)
    words: list[str] = []
    for action in actions:
        if isinstance(action, argparse._SubParsersAction):
            words += action.choices
            for inner in action.choices.values():
                actions += inner._actions
        elif action.choices and not action.option_strings:
            words += map(str, action.choices)
    flags = [flag for action in actions for flag in action.option_strings if flag.startswith("--")]
    return [*dict.fromkeys(flags)], [*dict.fromkeys([*words, *_configured(command)])]


def _configured(command: str) -> list[str]:
    from scalevit.config.key_ranges import describe_keys
    from scalevit.config.presets import PRESETS
    from scalevit.study.design.grid import STUDIES

    if command not in CONFIGURED:
        return []
    named = {"study": [*STUDIES, "status", "stop", "resume", "add"], "finetune": []}.get(command, [*PRESETS])
    return [*named, *(f"{info.key}=" for info in describe_keys())]


def _bash() -> str:
    from scalevit.cli.main import COMMANDS

    cases = "\n".join(
        f"    {name}) words={shlex.quote(' '.join(chain(*words_of(name))))} ;;" for name in COMMANDS
    )
    return f"""\
_scalevit() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" words
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W {shlex.quote(" ".join([*COMMANDS, "help"]))} -- "$current"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{cases}
    help) words={shlex.quote(" ".join(COMMANDS))} ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current") $(compgen -f -- "$current"))
  case "${{COMPREPLY[0]}}" in *=) compopt -o nospace 2>/dev/null ;; esac
}}
COMP_WORDBREAKS="${{COMP_WORDBREAKS//=/}}"
complete -o filenames -F _scalevit scalevit"""


def _zsh() -> str:
    return f"autoload -U +X bashcompinit && bashcompinit\n{_bash()}"


def _fish() -> str:
    from scalevit.cli.main import COMMANDS

    lines = []
    for name, summary in COMMANDS.items():
        lines.append(f"complete -c scalevit -n __fish_use_subcommand -a {name} -d {shlex.quote(summary)}")
        flags, words = words_of(name)
        seen = f"complete -c scalevit -n '__fish_seen_subcommand_from {name}'"
        lines += [f"{seen} -l {flag.removeprefix('--')}" for flag in flags]
        lines += [f"{seen} -a {shlex.quote(' '.join(words))}"] if words else []
    return "\n".join(lines)
