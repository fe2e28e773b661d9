"""scalevit cooldown: a run of its own that starts from a trunk's checkpoint and cools down."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scalevit import config
from scalevit.artifacts import run_folder
from scalevit.cli.pretrain import command_result
from scalevit.config import lr_schedule
from scalevit.config.result import CommandResult

SUMMARY = "branch a cooldown off a trunk at any step it saved"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trunk", type=Path, help="the folder of a run")
    parser.add_argument(
        "--at", required=True, type=int, metavar="STEP", help="a step whose checkpoint is there"
    )
    parser.add_argument("--steps", required=True, type=int, metavar="N", help="length of the cooldown")
    parser.add_argument("--out", required=True, type=Path, help="the branch's own folder")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="e.g. data.source=PATH where images moved"
    )
    parser.add_argument(
        "--accept-changed-data", action="store_true",
        help="branch though the images are not those that the trunk began with; it is recorded",
    )  # fmt: skip
    parser.add_argument("--max-minutes", type=float, help="save and stop after so long (exit status 3)")


def branch(trunk: Path, at: int, steps: int, overrides: Sequence[str] = ()) -> config.Run:
    """The run that follows `trunk` to step `at` and then cools down for `steps`. The same run trained from
    scratch gives the same weights, bit for bit."""
    path = trunk / run_folder.CONFIG
    if not path.is_file():
        raise ValueError(f"{trunk} is no run's folder: it holds no run.yaml")
    if steps < 1:
        raise ValueError(f"--steps: must be at least 1, found {steps}")
    past = config.load(str(path))
    cooled = replace(
        past,
        name=f"{past.name}-cooldown-{at}",
        schedule=lr_schedule.branch_schedule(past.schedule, at, steps),
        branch=config.Branch(trunk=str(trunk.resolve()), step=at, parent=config.run_id(past)),
    )
    return config.override(cooled, overrides)


def main(args: argparse.Namespace) -> CommandResult:
    from scalevit.distributed import world
    from scalevit.train.run import pretrain

    run = branch(args.trunk, args.at, args.steps, args.overrides)
    answer = command_result(
        pretrain(run, args.out, max_minutes=args.max_minutes, accept_changed_data=args.accept_changed_data)
    )
    world.exit_all(answer.code)
    return answer
