"""Curves of a table: columns by name, groups, accuracies turned into errors, rows left out by reason.

A row without a value, with a value that has no logarithm, or of weight 0 is left out, and counted with the
first lines that it was met on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scalevit.study.design.table import Table, load_table

#: Lines named for each reason.
NAMED = 3
#: Columns that W&B exports beside a series.
BESIDE = re.compile(r"__(MIN|MAX)$")
#: From this share of rows without logarithm on, a table is refused.
TOO_MANY = 0.5
#: x between these, spread less than this factor, may be a logarithm.
LOGARITHMS, NARROW = (4.0, 40.0), 4.0


@dataclass(frozen=True)
class TableColumns:
    """Which columns to read. `x` are one or more inputs; a `*` in `y` matches several columns, a series each;
    `accuracy` turns y into 1 - y."""

    x: tuple[str, ...]
    y: str
    group: str | None = None
    weight: str | None = None
    accuracy: bool = False


@dataclass(frozen=True)
class TableGroup:
    """The curve of one group: x (n,) or (n, inputs), y and weight (n,). `left_out` counts rows by reason with
    their first lines; `lines` are those of the rows that are left."""

    name: str
    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    left_out: dict[str, LeftOutRows] = field(default_factory=dict)

    lines: tuple[int, ...] = ()

    @property
    def rows_left_out(self) -> int:
        return sum(reason.count for reason in self.left_out.values())


@dataclass(frozen=True)
class LeftOutRows:
    """How many rows were left out for one reason, and the first lines that it was met on."""

    count: int
    lines: tuple[int, ...]

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.lines) else ""
        return f"{self.count} (line {', '.join(map(str, self.lines))}{more})"


def read_groups(source: Path | str | Any, columns: TableColumns) -> tuple[list[TableGroup], tuple[str, ...]]:
    """The groups of a table in the order in which they appear, one group without a column to group by; and
    notes about how the table was read.

    Raises ValueError for a missing or doubled column, a cell that is no number, accuracies outside 0 to 1,
    and a table most of whose rows have no logarithm.
    """
    table = load_table(source)
    x = np.stack([table.numbers(name) for name in columns.x], axis=1)
    weight = table.numbers(columns.weight) if columns.weight else np.ones(len(x))
    if np.any(weight < 0):
        row = int(np.argmax(weight < 0))
        raise ValueError(f"{table.at(row)}: the weight {weight[row]:g} is negative")
    keys = table.texts(columns.group) if columns.group else [""] * len(x)
    groups = []
    for series, name in _series(table, columns.y):
        y = table.numbers(name)
        y = _errors(table, name, y, weight) if columns.accuracy else y
        for key in dict.fromkeys(keys):
            rows = np.array([one == key for one in keys])
            label = " ".join(part for part in (series, key) if part) or "all"
            groups.append(_group(label, table, columns, name, rows, x, y, weight))
    return groups, (*table.notes, *_logarithm_notes(columns, x))


def _series(table: Table, y: str) -> Iterator[tuple[str, str]]:
    """(series' name, column) of every column that the pattern `y` matches; ("", y) for a plain name."""
    if "*" not in y or y in table.names:
        yield "", y
        return
    pattern = re.compile("(.+?)".join(re.escape(part) for part in y.split("*")))
    matches = [(found, name) for name in table.names if (found := pattern.fullmatch(name))]
    kept = [
        (m, name) for m, name in matches if not (BESIDE.search(name) and BESIDE.sub("", name) in table.names)
    ]
    if not kept:
        raise ValueError(f"{table.where} has no column like {y!r}; it has {', '.join(table.names)}")
    for match, name in kept:
        yield " ".join(match.groups()).strip(), name


def _group(
    label: str, table: Table, columns: TableColumns, y_name: str, rows: np.ndarray, x: np.ndarray,
    y: np.ndarray, weight: np.ndarray,
) -> TableGroup:  # fmt: skip
    """One group without the rows that cannot be used."""
    of = f"1 - {y_name}" if columns.accuracy else y_name
    reasons: list[tuple[str, np.ndarray]] = [("weight 0", weight == 0)]
    if columns.weight:
        reasons.append((f"no {columns.weight}", np.isnan(weight)))
    for name, values in (*zip(columns.x, x.T), (of, y)):
        reasons += [
            (f"no {name}", np.isnan(values)), (f"{name} infinite", np.isinf(values)),
            (f"{name} zero or negative", values <= 0),
        ]  # fmt: skip
    left, known, no_logarithm = {}, rows.copy(), np.zeros(len(y), bool)
    for reason, bad in reasons:
        out = np.flatnonzero(known & bad)
        if len(out):
            left[reason] = LeftOutRows(len(out), tuple(table.lines[row] for row in out[:NAMED]))
            known[out] = False
            no_logarithm[out] |= reason.endswith("negative")
    _check_share(label, table, left, no_logarithm, known)
    inputs = x[known, 0] if len(columns.x) == 1 else x[known]
    lines = tuple(table.lines[row] for row in np.flatnonzero(known))
    return TableGroup(label, inputs, y[known], weight[known], left, lines)


def _check_share(
    label: str, table: Table, left: dict[str, LeftOutRows], no_logarithm: np.ndarray, known: np.ndarray
) -> None:
    """ValueError where laws, which need logarithms, could use only the smaller part of the rows."""
    bad, good = int(no_logarithm.sum()), int(known.sum())
    if bad and bad > TOO_MANY * (bad + good):
        first = int(np.argmax(no_logarithm))
        reason = "; ".join(
            f"{name}: {rows.count}" for name, rows in left.items() if name.endswith("negative")
        )
        raise ValueError(
            f"{table.at(first)}: laws need logarithms, and most rows of {label!r} have none ({reason}); "
            "leave rows out with a column of weights, --weight COL, 0 in them"
        )


def _errors(table: Table, name: str, accuracy: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """1 - accuracy; ValueError outside 0 to 1 in a row that counts."""
    finite = np.isfinite(accuracy) & (weight != 0)
    for bad, hint in ((finite & (accuracy > 1), "; divide by 100?"), (finite & (accuracy < 0), "")):
        if np.any(bad):
            row = int(np.argmax(bad))
            raise ValueError(
                f"{table.at(row)}: {name} is {accuracy[row]:g}; accuracies run from 0 to 1{hint}"
            )
    return np.where(np.isfinite(accuracy), 1 - accuracy, accuracy)


def _logarithm_notes(columns: TableColumns, x: np.ndarray) -> tuple[str, ...]:
    """A question for each input that looks like a logarithm, by its name or its values."""
    notes = []
    for name, values in zip(columns.x, x.T):
        finite = values[np.isfinite(values)]
        named = re.search(r"(^|[^a-z])(log|ln|lg)(2|10|e)?([^a-z]|$)", name.lower())
        narrow = (
            len(finite) > 2
            and LOGARITHMS[0] <= finite.min() and finite.max() <= LOGARITHMS[1]
            and finite.max() < NARROW * finite.min() and np.any(finite != np.round(finite))
        )  # fmt: skip
        if named or narrow:
            notes.append(
                f"is {name} a logarithm? Laws take its logarithm themselves: give 10^{name}, or e^{name}"
            )
    return tuple(notes)


def average_seeds(group: TableGroup) -> tuple[TableGroup, float]:
    """Runs of one x averaged in ln y, their weights added; and the noise of one run: the standard deviation
    of ln y over runs of one x, pooled. ValueError where no x was measured twice."""
    inputs = group.x.reshape(len(group.x), -1)
    values, index = np.unique(inputs, axis=0, return_inverse=True)
    index = index.ravel()
    total = np.bincount(index, group.weight)
    mean = np.bincount(index, group.weight * np.log(group.y)) / total
    counts = np.bincount(index)
    free = int(np.sum(counts - 1))
    if not free:
        raise ValueError(
            f"{group.name}: no x was measured with two seeds, so seeds say nothing about the noise"
        )
    squared = np.sum((np.log(group.y) - mean[index]) ** 2) / free
    x = values[:, 0] if group.x.ndim == 1 else values
    averaged = TableGroup(group.name, x, np.exp(mean), total, group.left_out)
    return averaged, float(np.sqrt(squared))


def left_out_lines(group: TableGroup) -> list[str]:
    """The rows left out, for people: all of them, then by reason with the first lines."""
    if not group.left_out:
        return []
    reasons = "; ".join(f"{reason}: {rows}" for reason, rows in group.left_out.items())
    return [f"  left out: {group.rows_left_out} rows ({reasons})"]
