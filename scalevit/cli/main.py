"""The command line: find the verb, parse, call one function, print its answer.

Exit status: 0 done, 1 a check failed, 2 the user's mistake (one line says which), 3 stopped but resumable.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from scalevit import __version__
from scalevit.config.result import MISTAKE, RESUMABLE, Answer

#: What a system says when a disk, or a user's share of it, is full.
FULL = (errno.ENOSPC, errno.EDQUOT)

#: Every verb and what it does; its file is scalevit/commands/VERB.py.
VERBS = {
    "plan": "what a run costs, or the best run for a budget, before anything is spent",
    "pretrain": "train a model; continues by itself when its folder holds a checkpoint",
    "cooldown": "branch a cooldown off a trunk at any step it saved",
    "probe": "few-shot, kNN and linear accuracy of frozen features, beside their floors",
    "finetune": "train a pretrained model further on labelled images, by the paper's protocol",
    "evaluate": "accuracy, calibration and confusion of a classifier on labelled images",
    "study": "a grid of runs, the law through them, a forecast and a report; resumable",
    "fit": "fit a scaling law to any table and forecast",
    "report": "one HTML page of runs or of studies",
    "status": "how far a run, or a folder of runs, has come",
    "checkpoint": "list, verify and consolidate checkpoints",
    "convert": "weights in and out: timm, Hugging Face, big_vision, ONNX",
    "data": "index, check, pack, preview and de-duplicate images",
    "parity": "replay the authors' numbers and print how far ours are",
    "doctor": "what this machine can do, and what limits a run on it",
    "bench": "speed beside the peers that are installed, and beside this machine's ceiling",
}

HELP = f"""\
scalevit {__version__}: plan, pretrain, probe and study Vision Transformers at any scale

usage: scalevit VERB [arguments]        scalevit VERB --help explains a verb

{chr(10).join(f"  {verb:<12}{summary}" for verb, summary in VERBS.items())}

--json on every verb prints one JSON object on stdout and nothing else there.
start here: scalevit study demo --out runs/demo"""


class Parser(argparse.ArgumentParser):
    """argparse that says a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if words[0] in ("--version", "-V"):
        print(f"scalevit {__version__}")
        return 0
    try:
        return _dispatch(words[0], words[1:])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ValueError as error:
        return _mistake(str(error))
    except OSError as error:
        if error.errno in FULL:
            return _mistake(f"{error}; make room and say the same again, what is done stays done", RESUMABLE)
        if error.filename is None:
            raise
        return _mistake(f"{error.filename}: {error.strerror}")


def _dispatch(verb: str, words: Sequence[str]) -> int:
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=3, cutoff=0.4) or list(VERBS)
        raise ValueError(f"no verb {verb!r}; nearest: {', '.join(near)}")
    command = importlib.import_module(f"scalevit.cli.{verb}")
    parser = Parser(prog=f"scalevit {verb}", description=command.SUMMARY)
    command.arguments(parser)
    _add_json(parser)
    args = _parse(parser, words)
    return _print(command.main(args), as_json=args.json)


def _parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """With overrides before, between or after the options, which only parsers without verbs below allow."""
    if any(isinstance(action, argparse._SubParsersAction) for action in parser._actions):
        return parser.parse_args(words)
    return parser.parse_intermixed_args(words)


def _add_json(parser: argparse.ArgumentParser) -> None:
    """`--json` on the verb and on each verb below it, without one hiding the other."""
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS if " " in _below(parser) else False,
        help="print one JSON object instead of text",
    )  # fmt: skip
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _add_json(inner)


def _below(parser: argparse.ArgumentParser) -> str:
    return parser.prog.removeprefix("scalevit ").strip()


def _print(answer: Answer, *, as_json: bool) -> int:
    text = json.dumps(_finite(answer.data), indent=2) if as_json else answer.text
    if text:
        print(text, flush=True)
    return answer.code


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: both become null."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    item = getattr(value, "item", None)
    return item() if item else value


def _mistake(message: str, code: int = MISTAKE) -> int:
    for line in message.splitlines():
        print(f"scalevit: {line}", file=sys.stderr)
    return code
