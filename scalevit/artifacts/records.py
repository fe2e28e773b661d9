"""Records of a run: append-only rows in records.jsonl, and the rows of many runs as one table.

A row holds one number and where it comes from. Secrets are removed before a row is written. A process that
dies in the middle of a line leaves a cut line; a resumed run repeats the rows since its checkpoint, and the
last row of a key wins. A line that is no valid row costs itself alone: readers skip and count it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from scalevit.artifacts.redact import redact, redact_all

Row = dict[str, Any]

FILE = "records.jsonl"

#: The key of a row: of two rows that agree on all of these the later one counts.
KEY = ("run", "kind", "dataset", "shots", "seed", "step", "metric")

#: The columns of every row, in the order that tables show them.
COLUMNS = (
    "run", "parent", "kind", "dataset", "shots", "seed", "step", "images_seen", "train_flops", "parameters",
    "metric", "value",
)  # fmt: skip


#: Longest line in bytes that is read as a row.
LONGEST_LINE = 1 << 20
#: Types of the columns that readers rely on. `metric` and `kind` must be there; others may be absent or null.
_TEXT, _COUNTS, _NUMBERS = ("run", "parent", "dataset"), ("shots", "seed"), ("value", "train_flops")
_LARGEST_COUNT = 1 << 62


@dataclass(frozen=True)
class RunRecords:
    """Rows of one records.jsonl, and the numbers of the lines (from 1) that are no valid row."""

    rows: list[Row]
    bad_lines: tuple[int, ...] = ()


def append_records(folder: Path | str, rows: Iterable[Row]) -> None:
    """Append rows to the folder's records in one write that is on disk when this returns; secrets are
    replaced. Raises OSError."""
    text = "".join(json.dumps(redact_all(row), allow_nan=True) + "\n" for row in rows)
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
    """The valid rows of one run in the order of their last writing; none when there is no file yet."""
    return read_run_records(folder).rows


def read_run_records(folder: Path | str) -> RunRecords:
    """The valid rows of one run as `read_records` gives them, and which lines are invalid. A last line that
    was cut by the death of its writer is not counted as invalid."""
    path = Path(folder) / FILE
    if not path.is_file():
        return RunRecords([])
    rows: dict[tuple[Any, ...], Row] = {}
    bad = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        row = _parse_row(line)
        if row is not None:
            key = tuple(str(row.get(name)) for name in KEY)
            rows.pop(key, None)
            rows[key] = row
        elif line.strip() and number < len(lines):
            bad.append(number)
    return RunRecords(list(rows.values()), tuple(bad))


def _parse_row(line: bytes) -> Row | None:
    if not line or len(line) > LONGEST_LINE:
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and is_valid_row(row) else None


def is_valid_row(row: Mapping[str, Any]) -> bool:
    """Whether the columns that readers rely on have their types."""
    texts = all(isinstance(row.get(name), str) for name in ("metric", "kind"))
    texts = texts and all(isinstance(row.get(name), str | None) for name in _TEXT)
    numbers = all(row.get(name) is None or _is_number(row[name]) for name in _NUMBERS)
    steps = _is_count(row.get("step")) and _is_count(row.get("images_seen", 0), null=True)
    return texts and numbers and steps and all(_is_count(row.get(name), null=True) for name in _COUNTS)


def _is_count(value: Any, null: bool = False) -> bool:
    """Whether a value is an integer of at most 62 bits, also as a float like 3.0."""
    if value is None:
        return null
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < _LARGEST_COUNT and value == int(value)


def _is_number(value: Any) -> bool:
    """Whether a value is a number that fits into a float, NaN and infinity included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 1 << 1000


def records_table(folders: Sequence[Path | str]) -> list[Row]:
    """The rows of many runs, each with the columns of `COLUMNS` present (None when a row does not say)."""
    rows = [row for folder in folders for row in read_records(folder)]
    return [{**dict.fromkeys(COLUMNS), **row} for row in rows]


def find_run_folders(folder: Path | str) -> list[Path]:
    """Every run's folder at or below `folder`, in a stable order."""
    root = Path(folder)
    return sorted({path.parent for path in [root / FILE, *root.glob(f"**/{FILE}")] if path.exists()})


def provenance() -> Row:
    """Provenance columns: commit, versions, machine, command line. Environment variables are left out on
    purpose, and secrets in the command line are replaced."""
    return {
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **_versions("scalevit", "torch", "numpy")},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "command": redact(" ".join(["scalevit", *sys.argv[1:]])),
    }


def _versions(*packages: str) -> dict[str, str]:
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str:
    """The commit of scalevit's own source, "+" when files differ from it, "" outside a git checkout."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=12"]
        done = subprocess.run(git, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
