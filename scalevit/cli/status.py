"""scalevit status: how far runs have come, read from their folders; needs no torch."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from scalevit import config
from scalevit.artifacts import checkpoint, records, run_folder
from scalevit.artifacts.printable import printable
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
    ("bad lines", "bad_lines", "{}"),
    ("stopped by", "why", "{}"),
)
#: Keys of a row.
KEYS = ("folder", "name", *dict.fromkeys(key for _, key, _ in COLUMNS[1:]))


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
    runs = sorted(path.parent for path in folder.glob(f"**/{run_folder.CONFIG}"))
    if not runs:
        raise ValueError(f"{folder}: holds no run (no {run_folder.CONFIG} in it or below)")
    return runs


def status(folder: Path) -> dict[str, Any]:
    """One row of the table.

    state: complete, running, failed (the same command would fail again), stopped, waiting (nothing trained
    yet), or unreadable (run.yaml is damaged). why: what stopped the last attempt, so that the same command
    goes on; None when it still runs, or died. bad_lines: lines of records.jsonl that are no valid row."""
    found = records.read_run_records(folder)
    try:
        run = config.load(str(folder / run_folder.CONFIG))
    except ValueError as error:
        return dict.fromkeys(KEYS) | {"folder": str(folder), "state": "unreadable", "why": str(error)}
    rows, last = found.rows, {row["metric"]: row for row in found.rows if row["kind"] == "train"}
    values = {metric: row.get("value") for metric, row in last.items()}
    about = next((row for row in rows if row["kind"] == "run"), {})
    saved = _saved_steps(folder)
    step = max([*[row["step"] for row in rows if row["kind"] == "train"][-1:], *saved], default=0)
    speed = values.get("images_per_second")
    left = (run.schedule.steps - step) * run.train.batch / speed / 60 if speed else None
    overall = about.get("images_per_second")
    return dict.fromkeys(KEYS) | {
        "folder": str(folder), "name": run.name, "state": _state(folder, rows, step), "step": step,
        "steps": run.schedule.steps, **{key: values.get(key) for key in ("loss", "stall", "mfu")},
        "images_per_second": overall if isinstance(overall, int | float) else speed,
        "minutes_left": None if about else left, "saved": max(saved, default=None), "why": _why(rows),
        "events": sum(row["kind"] == "event" for row in rows) or None,
        "bad_lines": len(found.bad_lines) or None,
    }  # fmt: skip


def _saved_steps(folder: Path) -> list[int]:
    """Steps of the run's checkpoints; none when their store does not answer."""
    try:
        return [entry.step for entry in checkpoint.list_checkpoints(run_folder.checkpoint_folder_in(folder))]
    except (OSError, ValueError):
        return []


def _state(folder: Path, rows: list[records.Row], step: int) -> str:
    if run_folder.is_complete(folder):
        return "complete"
    if run_folder.is_locked(folder):
        return "running"
    if _last_attempt(rows).get("failed"):
        return "failed"
    return "stopped" if step else "waiting"


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
        cells.append(["" if row[key] is None else printable(form.format(row[key])) for _, key, form in shown])
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
