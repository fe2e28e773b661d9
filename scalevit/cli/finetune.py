"""scalevit finetune: train a pretrained model further on labelled images of its own kind."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from scalevit.config.result import CommandResult

SUMMARY = "train a pretrained model further on labelled images; continues by itself"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run's or a model's folder, timm:NAME, …, as convert reads them")
    parser.add_argument("data", help="labelled images, as scalevit probe reads them")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="e.g. model.image=384")
    parser.add_argument("--out", required=True, type=Path, help="the run's folder")
    parser.add_argument("--preset", choices=("paper", "vtab1k"), default="paper", help="the protocol")
    parser.add_argument(
        "--lr", action="append", type=float, default=[], metavar="RATE",
        help="the learning rate; given several times, one is chosen on held-out training images",
    )  # fmt: skip
    parser.add_argument("--max-minutes", type=float, help="save and stop after so long (exit status 3)")


def main(args: argparse.Namespace) -> CommandResult:
    from scalevit.cli.pretrain import command_result
    from scalevit.distributed import world
    from scalevit.train.finetune import finetune, plan, reached

    planned = plan(args.model, args.data, args.overrides, preset=args.preset, rates=args.lr)
    outcome = finetune(planned, args.out, max_minutes=args.max_minutes)
    answer = command_result(outcome)
    if outcome.stopped is None:
        accuracy = reached(outcome.folder, "accuracy")
        text = f"{answer.text}; {100 * accuracy:.2f} % of the test images are right"
        answer = replace(answer, text=text, data=answer.data | {"accuracy": accuracy})
    world.exit_all(answer.code)
    return answer
