"""scalevit pretrain: train a model, or go on where a folder's last checkpoint is."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scalevit import config
from scalevit.config.result import CHECK_FAILED, RESUMABLE, CommandResult

if TYPE_CHECKING:
    from scalevit.train.run import PretrainResult

SUMMARY = "train a model; continues by itself when its folder holds a checkpoint"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", help="a preset's name, a run.yaml, or what scalevit plan --json said")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="e.g. schedule.lr=1e-3")
    parser.add_argument("--out", type=Path, help="the run's folder; only --dry-run does without")
    parser.add_argument(
        "--dry-run", action="store_true", help="only check everything and say what would be done"
    )
    parser.add_argument(
        "--accept-changed-data", action="store_true",
        help="resume though the images are not those that the run began with; it is recorded",
    )  # fmt: skip
    parser.add_argument("--max-minutes", type=float, help="save and stop after so long (exit status 3)")


def main(args: argparse.Namespace) -> CommandResult:
    run = config.load(args.target, args.overrides)
    if args.dry_run:
        return dry_run(run, args.out, args.accept_changed_data)
    if args.out is None:
        raise ValueError(f"where should the run go? say --out, such as --out runs/{run.name}")
    from scalevit.distributed import world
    from scalevit.train.run import pretrain

    answer = command_result(
        pretrain(run, args.out, max_minutes=args.max_minutes, accept_changed_data=args.accept_changed_data)
    )
    world.exit_all(answer.code)
    return answer


def command_result(outcome: PretrainResult) -> CommandResult:
    """What came of a run, for people and for programs."""
    data = {"folder": str(outcome.folder), "step": outcome.step, "stopped": outcome.stopped}
    if outcome.failed:
        text = f"{outcome.folder}: failed at step {outcome.step}: {outcome.stopped}"
        return CommandResult(text, data | {"failed": True}, CHECK_FAILED)
    if outcome.stopped is not None:
        return CommandResult(f"{outcome.folder}: stopped at step {outcome.step}, resumable", data, RESUMABLE)
    return CommandResult(
        f"{outcome.folder}: complete, {outcome.step} steps", data | {"model": str(outcome.model)}
    )


def dry_run(run: config.Run, out: Path | None, accept_changed_data: bool = False) -> CommandResult:
    """Every check of a real run, and what it would do; nothing is created."""
    from scalevit.distributed.world import process_group
    from scalevit.train.data_identity import identify
    from scalevit.train.memory_check import check_memory
    from scalevit.train.run import open_batches, preflight_errors

    errors = config.validate(run)
    if not errors:
        run, _ = identify(run, out, accept_changed_data)
        errors = preflight_errors(run, out)
    if errors:
        raise config.ConfigErrors(errors)
    with process_group(run.parallel) as world:
        memory = check_memory(run, world)
    if run.data.source:
        open_batches(run)
    shape, size = run.model.resolve(), (run.model.image, run.model.pool, run.model.classes)
    images = run.schedule.steps * run.train.batch
    data = {
        "run": config.run_id(run), "shape": asdict(shape), "parameters": shape.parameters(*size),
        "images": images, "steps": run.schedule.steps, "train_flops": 3 * shape.flops(*size) * images,
        "folder": out and str(out), "memory": asdict(memory),
    }  # fmt: skip
    text = (
        f"{run.name}: {data['parameters']:,} parameters, {run.schedule.steps:,} steps of "
        f"{run.train.batch:,} images, {data['train_flops']:.3g} FLOPs; {memory}; "
        "all checks pass, nothing created"
    )
    return CommandResult("\n".join([text, *config.missing_source(run)]), data)
