"""scalevit checkpoint: list, verify and consolidate the checkpoints of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from scalevit.artifacts import checkpoint, run_folder
from scalevit.artifacts.remote import Folder, StoreUnavailable, path_or_remote
from scalevit.config.result import CHECK_FAILED, CommandResult

SUMMARY = "list, verify and consolidate checkpoints"


def arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="what", required=True)
    for name, text in (
        ("list", "every checkpoint: step, size, whether its files have the right sizes"),
        ("verify", "read every byte and compare checksums; exit 1 when something is damaged"),
        ("consolidate", "write the weights of a checkpoint as model.safetensors + config.json"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "folder", help="a run's folder, a folder of checkpoints or one of them, or an address"
        )
        if name == "consolidate":
            command.add_argument("--step", type=int, help="which checkpoint; default: the newest whole one")
            command.add_argument("--out", type=Path, help="default: model/ in the run's folder")


def main(args: argparse.Namespace) -> CommandResult:
    if args.what == "consolidate":
        return consolidate(args.folder, args.step, args.out)
    checkpoints = entries(args.folder)
    return {"list": listing, "verify": verify}[args.what](checkpoints)


def entries(where: str) -> list[checkpoint.SavedCheckpoint]:
    """The checkpoints of a run's folder, of a folder or address of checkpoints, or the one that is there."""
    folder = path_or_remote(where)
    if isinstance(folder, Path) and not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    try:
        return _entries(folder)
    except StoreUnavailable:
        raise
    except OSError as error:
        raise ValueError(f"{where}: {error}") from None


def _entries(folder: Folder) -> list[checkpoint.SavedCheckpoint]:
    if folder.name.startswith("step_"):
        around = folder.absolute().parent if isinstance(folder, Path) else folder.parent
        return [entry for entry in checkpoint.list_checkpoints(around) if entry.folder.name == folder.name]
    home = isinstance(folder, Path) and checkpoint.list_checkpoints(run_folder.checkpoint_folder_in(folder))
    checkpoints = home or checkpoint.list_checkpoints(folder)
    if not checkpoints:
        raise ValueError(f"{folder}: holds no checkpoint (no step_N with a manifest, and no run's run.yaml)")
    return checkpoints


def listing(checkpoints: list[checkpoint.SavedCheckpoint]) -> CommandResult:
    rows = [checkpoint.summarize(entry) for entry in checkpoints]
    lines = [
        f"step {row['step']:>9}  {row['bytes'] / 2**20:>10.1f} MiB  {row['files']:>5} files  "
        f"{row['damage'][0] if row['damage'] else 'sizes right'}"
        for row in rows
    ]
    return CommandResult("\n".join(lines), {"checkpoints": rows})


def verify(checkpoints: list[checkpoint.SavedCheckpoint]) -> CommandResult:
    rows = [{"step": entry.step, "damage": checkpoint.find_damage(entry.folder)} for entry in checkpoints]
    lines = [f"step {row['step']:>9}  {'; '.join(row['damage']) or 'whole'}" for row in rows]
    damaged = any(row["damage"] for row in rows)
    return CommandResult(
        "\n".join(lines), {"checkpoints": rows, "whole": not damaged}, CHECK_FAILED if damaged else 0
    )


def consolidate(folder: str, step: int | None, out: Path | None) -> CommandResult:
    """Export the newest whole checkpoint, or that of a step, as a model that timm and scalevit read."""
    checkpoints = [entry for entry in entries(folder) if step is None or entry.step == step]
    if not checkpoints:
        raise ValueError(
            f"{folder}: no checkpoint of step {step}; there: {[e.step for e in entries(folder)]}"
        )
    damage: list[str] = []
    for entry in reversed(checkpoints):
        damage = checkpoint.find_damage(entry.folder)
        if not damage:
            break
    else:
        raise ValueError("; ".join(damage))
    from scalevit.model import export

    home = Path(folder) if (Path(folder) / run_folder.CONFIG).exists() else entry.folder.parent.parent
    if not isinstance(home, Path):
        raise ValueError(
            f"{folder}: give the run's folder, whose {run_folder.CONFIG} says what model this is"
        )
    target = out or home / "model"
    export.export_checkpoint(entry, home, target)
    text = f"{target}: the weights of step {entry.step}"
    return CommandResult(text, {"step": entry.step, "model": str(target)})
