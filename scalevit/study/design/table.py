"""Anybody's CSV as curves: columns by name, groups, accuracies turned into errors, bad cells named."""

from __future__ import annotations

import csv
import difflib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class TableColumns:
    """Which columns to read; `accuracy` turns y into 1 - y."""

    x: str
    y: str
    group: str | None = None
    weight: str | None = None
    accuracy: bool = False


@dataclass(frozen=True)
class TableGroup:
    """The curve of one group; `left_out` rows had an empty cell or NaN."""

    name: str
    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    left_out: int


def read_table(path: Path, columns: TableColumns) -> list[TableGroup]:
    """The groups of a CSV file in the order in which they appear; one group without a column to group by.

    Raises ValueError for a missing column, a cell that is no number, and accuracies outside 0 to 1.
    """
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
        names, rows = list(reader.fieldnames or []), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from None
    if not names:
        raise ValueError(f"{path} is empty: a header and rows are needed")
    for name in (columns.x, columns.y, columns.group, columns.weight):
        if name is not None and name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
            raise ValueError(f"{path} has no column {name!r}; nearest: {', '.join(near)}")
    if not rows:
        raise ValueError(f"{path} has no rows")
    keys = [row[columns.group] if columns.group else "all" for row in rows]
    x = np.array([_number(path, line, columns.x, row) for line, row in enumerate(rows, 2)])
    y = np.array([_number(path, line, columns.y, row) for line, row in enumerate(rows, 2)])
    weight = np.ones(len(rows))
    if columns.weight:
        weight = np.array([_number(path, line, columns.weight, row) for line, row in enumerate(rows, 2)])
    if columns.accuracy:
        y = _errors(y, columns.y)
    return [
        _group(name, np.array([key == name for key in keys]), x, y, weight) for name in dict.fromkeys(keys)
    ]


def _group(name: str, rows: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> TableGroup:
    known = rows & ~(np.isnan(x) | np.isnan(y) | np.isnan(weight))
    return TableGroup(name, x[known], y[known], weight[known], int(np.sum(rows) - np.sum(known)))


def _number(path: Path, line: int, column: str, row: dict[str, str | None]) -> float:
    cell = (row[column] or "").strip()
    try:
        return float(cell) if cell else float("nan")
    except ValueError:
        raise ValueError(f"{path}, line {line}: {cell!r} in column {column!r} is no number") from None


def _errors(accuracy: np.ndarray, column: str) -> np.ndarray:
    if np.any(accuracy > 1):
        raise ValueError(
            f"{column} reaches {np.nanmax(accuracy):g}: accuracies run from 0 to 1; divide by 100?"
        )
    if np.any(accuracy < 0):
        raise ValueError(f"{column} falls to {np.nanmin(accuracy):g}: accuracies run from 0 to 1")
    return 1 - accuracy
