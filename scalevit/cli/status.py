"""scalevit status: how far runs have come, read from their folders; needs no torch."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from scalevit import config
from scalevit.artifacts import checkpoint, records, run_folder
from scalevit.config.result import CommandResult

SUMMARY = "how far a run, or a folder of runs, has come"

#: Column of the table: (title, key of a row, how it is shown).
COLUMNS = (
    ("run", "folder", "{}"),
    ("state", "state", "{}"),
    ("step", "step", "{:,}"),
    ("of", "steps", "{:,}"),
    ("loss", "loss", "{:.4f}"),
    ("images/s", "images_per_second", "{:,.0f}"),
    ("MFU", "mfu", "{:.1%}"),
    ("stall", "stall", "{:.0%}"),
    ("left", "minutes_left", "{:,.1f} min"),
    ("saved", "saved", "{:,}"),
    ("events", "events", "{}"),
    ("stopped by", "why", "{}"),
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a run's folder, or one that holds runs")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="draw the table again so often")


def main(args: argparse.Namespace) -> CommandResult:
    if args.watch and not args.json:
        return watch(args.folder, args.watch)
    rows = [status(folder) for folder in below(args.folder)]
    return CommandResult(table(rows), {"runs": rows})


def below(folder: Path) -> list[Path]:
    """Every run's folder at or below `folder`."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found = sorted(path.parent for path in folder.glob(f"**/{run_folder.CONFIG}"))
    if not found:
        raise ValueError(f"{folder}: holds no run (no {run_folder.CONFIG} in it or below)")
    return found


def status(folder: Path) -> dict[str, Any]:
    """One row of the table. state: complete, running, failed (the same command would fail again),
    stopped, or waiting (nothing trained yet). why: what
    stopped the last attempt, so that the same command goes on; None when it still runs, or died."""
    run = config.load(str(folder / run_folder.CONFIG))
    rows = records.read_records(folder)
    last = {row["metric"]: row for row in rows if row["kind"] == "train"}
    about = next((row for row in rows if row["kind"] == "run"), {})
    steps_saved = [
        entry.step for entry in checkpoint.list_checkpoints(run_folder.checkpoint_folder_in(folder))
    ]
    step = max([row["step"] for row in last.values()] + steps_saved, default=0)
    speed = last["images_per_second"]["value"] if "images_per_second" in last else None
    left = (run.schedule.steps - step) * run.train.batch / speed / 60 if speed else None
    state = (
        "complete"
        if about
        else "running"
        if run_folder.is_locked(folder)
        else "failed"
        if _last_attempt(rows).get("failed")
        else "stopped"
        if step
        else "waiting"
    )
    return {
        "folder": str(folder), "name": run.name, "state": state, "step": step, "steps": run.schedule.steps,
        **{key: last[key]["value"] if key in last else None for key in ("loss", "stall", "mfu")},
        "images_per_second": about.get("images_per_second", speed),
        "minutes_left": None if about else left, "saved": max(steps_saved, default=None),
        "why": _why(rows), "events": sum(row["kind"] == "event" for row in rows) or None,
    }  # fmt: skip


def _why(rows: list[records.Row]) -> str | None:
    """What stopped the last attempt: rows come in the order in which they were written."""
    return _last_attempt(rows).get("why")


def _last_attempt(rows: list[records.Row]) -> records.Row:
    """The newest record about an attempt, or an empty one."""
    about = [row for row in rows if row["kind"] in ("start", "stop", "run")]
    return about[-1] if about else {}


def table(rows: list[dict[str, Any]]) -> str:
    """Columns that have something to say, aligned."""
    shown = [column for column in COLUMNS if any(row[column[1]] is not None for row in rows)]
    cells = [[title for title, _, _ in shown]]
    for row in rows:
        cells.append(["" if row[key] is None else form.format(row[key]) for _, key, form in shown])
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = []
    for line in cells:
        padded = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths))]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def watch(folder: Path, seconds: float) -> CommandResult:
    """Draw the table until every run is complete or somebody presses Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    rows: list[dict[str, Any]] = []
    try:
        with Live(console=Console(stderr=True), auto_refresh=False) as live:
            while not rows or any(row["state"] != "complete" for row in rows):
                rows = [status(path) for path in below(folder)]
                live.update(table(rows), refresh=True)
                time.sleep(seconds)
    except KeyboardInterrupt:
        pass
    return CommandResult(table(rows), {"runs": rows})
