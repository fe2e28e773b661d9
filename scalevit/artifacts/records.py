"""A run's folder and its append-only records.jsonl; many runs as one table.

A row says one number and where it comes from. A process that dies in the middle of a line leaves a cut line:
readers drop it. A resumed run repeats the rows since its checkpoint: the last row of a key wins.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

Row = dict[str, Any]

FILE = "records.jsonl"

#: What tells rows apart: two rows that agree on all of these say the same thing.
KEY = ("run", "kind", "dataset", "shots", "seed", "step", "metric")

#: The columns of every row, in the order that tables show them.
COLUMNS = (
    "run", "parent", "kind", "dataset", "shots", "seed", "step", "images_seen", "train_flops", "parameters",
    "metric", "value",
)  # fmt: skip


def append_records(folder: Path | str, rows: Iterable[Row]) -> None:
    """Add rows to the folder's records in one write that is on disk when this returns."""
    text = "".join(json.dumps(row, allow_nan=True) + "\n" for row in rows)
    path = Path(folder) / FILE
    with path.open("a+b") as file:
        if file.seek(0, os.SEEK_END) and _last_byte(file) != b"\n":
            text = "\n" + text
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _last_byte(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def read_records(folder: Path | str) -> list[Row]:
    """The rows of one run in the order of their last writing; none when the run has not written yet."""
    path = Path(folder) / FILE
    if not path.exists():
        return []
    rows: dict[tuple[Any, ...], Row] = {}
    for line in path.read_bytes().split(b"\n"):
        row = _row(line)
        if row is not None:
            key = tuple(str(row.get(name)) for name in KEY)
            rows.pop(key, None)
            rows[key] = row
    return list(rows.values())


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, UnicodeDecodeError):
        return None
    return row if isinstance(row, dict) and "metric" in row else None


def records_table(folders: Sequence[Path | str]) -> list[Row]:
    """The rows of many runs, each with the columns of `COLUMNS` present (None when a row does not say)."""
    rows = [row for folder in folders for row in read_records(folder)]
    return [{**dict.fromkeys(COLUMNS), **row} for row in rows]


def find_run_folders(folder: Path | str) -> list[Path]:
    """Every run's folder at or below `folder`, in a stable order."""
    root = Path(folder)
    return sorted({path.parent for path in [root / FILE, *root.glob(f"**/{FILE}")] if path.exists()})


def provenance() -> Row:
    """Which code on which machine: commit, versions, device's name, command line. Environment variables
    are left out on purpose: they hold secrets."""
    return {
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **_versions("scalevit", "torch", "numpy")},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "command": " ".join(["scalevit", *sys.argv[1:]]),
    }


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """The commit of scalevit's own source, "+" when files differ from it, "" outside a git checkout."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=12"]
        done = subprocess.run(git, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
