"""Command-line entry point: dispatches to the command's file, parses arguments, prints the command's result.

Exit status: 0 done, 1 a check failed, 2 the user's mistake (one line says which), 3 stopped but resumable.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from scalevit import __version__
from scalevit.artifacts.printable import printable
from scalevit.artifacts.redact import redact
from scalevit.artifacts.remote import StoreUnavailable
from scalevit.config.dataclass_io import nearest_names
from scalevit.config.result import RESUMABLE, USER_ERROR, CommandResult

#: Error numbers of a full disk and of a used-up quota.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

#: Every command with its summary; the command's file is scalevit/cli/COMMAND.py.
COMMANDS = {
    "plan": "what a run costs, or the best run for a budget, before anything is spent",
    "pretrain": "train a model; continues by itself when its folder holds a checkpoint",
    "cooldown": "branch a cooldown off a trunk at any step it saved",
    "probe": "few-shot, kNN and linear accuracy of frozen features, beside baselines",
    "predict": "names and probabilities of what images show, or their features",
    "finetune": "train a pretrained model further on labelled images, by the paper's protocol",
    "evaluate": "accuracy, calibration and confusion of a classifier on labelled images",
    "study": "a grid of runs, the law through them, a forecast and a report; resumable",
    "fit": "fit a scaling law to any table and forecast",
    "compare": "recipes compared by their laws: how much compute one is worth against another",
    "report": "one HTML page of runs or of studies",
    "status": "how far a run, or a folder of runs, has come",
    "checkpoint": "list, verify and consolidate checkpoints",
    "convert": "weights in and out: timm, Hugging Face, big_vision, ONNX",
    "data": "index, check, pack, preview and de-duplicate images",
    "parity": "replay the authors' numbers and print how far ours are",
    "doctor": "what this machine can do, and what limits a run on it",
    "bench": "speed beside the peers that are installed, and beside this machine's ceiling",
    "presets": "runs and studies that have a name",
    "config": "every configuration key: its range, default and meaning",
    "completion": "a script that completes commands, flags, presets and keys in bash, zsh or fish",
}

HELP = f"""\
scalevit {__version__}: plan, pretrain, probe and study Vision Transformers at any scale

usage: scalevit COMMAND [arguments]        scalevit help COMMAND explains a command

{chr(10).join(f"  {command:<12}{summary}" for command, summary in COMMANDS.items())}

--json on every command prints one JSON object on stdout and nothing else there; --quiet shows no progress.
start here: scalevit study demo --out runs/demo"""


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are ValueErrors of one line."""

    def error(self, message: str) -> NoReturn:
        _, unknown, flags = message.partition("unrecognized arguments: ")
        from scalevit.cli.foreign_flags import advice

        hint = advice(flags.split(), self._option_string_actions) if unknown else ""
        raise ValueError("; ".join(filter(None, [message, hint, f"see {self.prog} --help"])))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"] and len(arguments) > 1:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if arguments[0] in ("--version", "-V"):
        print(f"scalevit {__version__}")
        return 0
    try:
        return _dispatch(arguments[0], arguments[1:])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ValueError as error:
        return _print_error(str(error))
    except StoreUnavailable as error:
        return _print_error(f"{error}; repeat the command when the store answers again", RESUMABLE)
    except OSError as error:
        if error.errno in DISK_FULL:
            return _print_error(
                f"{error}; free some space and repeat the command: finished work is kept", RESUMABLE
            )
        if error.filename is None:
            raise
        return _print_error(f"{error.filename}: {error.strerror}")


def _dispatch(command: str, arguments: Sequence[str]) -> int:
    if command not in COMMANDS:
        near = nearest_names(command, list(COMMANDS))
        raise ValueError(f"no command {command!r}; nearest: {', '.join(near)}")
    args = parse(parser_of(command), arguments)
    module = importlib.import_module(f"scalevit.cli.{command}")
    with _silent_stderr() if args.quiet else contextlib.nullcontext():
        result = module.main(args)
    return _print(result, as_json=args.json)


def parser_of(command: str) -> Parser:
    """The argument parser of a command of `COMMANDS`."""
    module = importlib.import_module(f"scalevit.cli.{command}")
    parser = Parser(prog=f"scalevit {command}", description=module.SUMMARY)
    module.arguments(parser)
    _add_common_flags(parser)
    return parser


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Progress and remarks go nowhere; errors are printed by `main`, outside."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # noqa: PTH123
        yield


def parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse overrides that stand anywhere among the options (argparse: only without subcommands)."""
    if any(isinstance(action, argparse._SubParsersAction) for action in parser._actions):
        return parser.parse_args(arguments)
    return parser.parse_intermixed_args(arguments)


def _add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--json` and `--quiet` to a command and its subcommands, without one default hiding the other."""
    default = argparse.SUPPRESS if parser.prog.count(" ") > 1 else False
    json_help, quiet_help = "print one JSON object instead of text", "show no progress on stderr"
    parser.add_argument("--json", action="store_true", default=default, help=json_help)
    parser.add_argument("--quiet", action="store_true", default=default, help=quiet_help)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subcommand in action.choices.values():
                _add_common_flags(subcommand)


def _print(answer: CommandResult, *, as_json: bool) -> int:
    text = json.dumps(_finite(answer.data), indent=2) if as_json else printable(answer.text, keep="\n\t")
    if text:
        print(text, flush=True)
    return answer.code


def _finite(value: Any) -> Any:
    """Convert values to JSON types; infinity and NaN, which JSON lacks, become null."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    item = getattr(value, "item", None)
    return item() if item else value


def _print_error(message: str, code: int = USER_ERROR) -> int:
    for line in redact(message).split("\n"):
        print(f"scalevit: {printable(line)}", file=sys.stderr)
    return code
