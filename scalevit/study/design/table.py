"""Read a table of measurements: CSV in any dialect, TSV, JSON lines, Parquet, Excel, compressed or not.

Every row keeps the number of its line, so that errors can name it. Delimited text is read by the csv module,
because pandas drops the line numbers and pads rows that are too long; Parquet and Excel are read by pandas,
which is imported only then.
"""

from __future__ import annotations

import bz2
import csv
import difflib
import gzip
import io
import json
import lzma
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scalevit.study.design.table_numbers import parse_numbers, uses_decimal_commas, uses_decimal_points

DELIMITERS = (",", ";", "\t", "|")
#: First bytes of compressed files, and what opens them.
COMPRESSED = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ": lzma.decompress}
BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
#: Rows that decide on the delimiter.
SAMPLE = 200
#: Between a file of sheets and the sheet's name.
SHEET = "#"


@dataclass(frozen=True)
class Table:
    """Cells by row. `names` are the columns' names in order, equal ones included; `lines` is the line
    (or row)
    of the file that each row comes from; `notes` say what was assumed when the file was read."""

    where: str
    names: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...] = field(repr=False)
    lines: tuple[int, ...] = field(repr=False)
    unit: str = "line"
    notes: tuple[str, ...] = ()

    def at(self, row: int) -> str:
        """The place of a row, for messages: `runs.csv, line 12`."""
        return f"{self.where}, {self.unit} {self.lines[row]}"

    def cells(self, name: str) -> list[Any]:
        """The cells of a column. ValueError for a name that no column has, or more than one."""
        count = self.names.count(name)
        if not count:
            near = difflib.get_close_matches(name, self.names, n=3, cutoff=0.4) or list(self.names)
            raise ValueError(f"{self.where} has no column {name!r}; nearest: {', '.join(near)}")
        if count > 1:
            raise ValueError(
                f"{self.where} has {count} columns {name!r} (in {self.unit} 1); rename all but one, or "
                f"export "
                "runs with different names"
            )
        index = self.names.index(name)
        return [row[index] for row in self.rows]

    def texts(self, name: str) -> list[str]:
        """The cells of a column as text; "" for what is missing."""
        return ["" if _missing(cell) else str(cell).strip() for cell in self.cells(name)]

    def numbers(self, name: str) -> np.ndarray:
        """The cells of a column as numbers, NaN for what is missing. ValueError names the line of a cell that
        is no number, or whose comma may separate thousands or decimals."""
        places = [f"{self.unit} {line}" for line in self.lines]
        where = f"{self.where}, column {name!r}"
        return parse_numbers(self.cells(name), places, where, self.decimal_commas, self.decimal_points)

    @cached_property
    def _texts_by_column(self) -> list[list[str]]:
        return [[cell for cell in column if isinstance(cell, str)] for column in zip(*self.rows)]

    @cached_property
    def decimal_commas(self) -> bool:
        """Whether some column certainly writes decimal commas: the others then do so too."""
        return any(map(uses_decimal_commas, self._texts_by_column))

    @cached_property
    def decimal_points(self) -> bool:
        """Whether some column writes decimal points: decimal commas are then not certain."""
        return any(map(uses_decimal_points, self._texts_by_column))

    def check_unique(self) -> None:
        """ValueError where two columns have one name."""
        for name, count in Counter(self.names).items():
            if count > 1 and name:
                self.cells(name)


def _missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and np.isnan(cell))


def load_table(source: Path | str | Any) -> Table:
    """The table of a file, or of a DataFrame. A sheet of an Excel file is `FILE.xlsx#SHEET`.

    ValueError for a file that is empty or no table, and for rows with more cells than the header.
    """
    if not isinstance(source, Path | str):
        return from_frame(source)
    path, sheet = Path(source), ""
    if SHEET in path.name and not path.exists():
        name, _, sheet = str(path).rpartition(SHEET)
        path = Path(name)
    data = path.read_bytes()
    if data.startswith(b"PAR1") or path.suffix.lower() in (".parquet", ".pq"):
        return _parquet(path)
    if path.suffix.lower() in (".xlsx", ".xlsm", ".xls"):
        return _excel(path, sheet)
    for magic, decompress in COMPRESSED.items():
        if data.startswith(magic):
            try:
                data = decompress(data)
            except (OSError, EOFError, lzma.LZMAError) as error:
                raise ValueError(f"{path} is compressed and damaged: {error}") from None
    text, notes = _decode(data, path)
    if not text.strip():
        raise ValueError(f"{path} is empty: a header and rows are needed")
    if text.lstrip()[0] in "{[":
        return _json(text, path)
    return _delimited(text, path, notes)


def _decode(data: bytes, path: Path) -> tuple[str, tuple[str, ...]]:
    """UTF-8 or, by its mark, UTF-16; else Windows-1252, which European spreadsheets write, and a note."""
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if b"\0" in data or encoding != "utf-8":
            raise ValueError(f"{path} is no table that can be read: {error}") from None
        return data.decode("cp1252", "replace"), ("the file is not UTF-8; it was read as Windows-1252",)
    if "\0" in text:
        raise ValueError(f"{path} is no table that can be read: it holds null bytes")
    return text, ()


def columns_of(data: Any, *columns: Any) -> list[Any]:
    """Numbers of the columns that are given by name, of a file or DataFrame; what is no name stays as it
    is."""
    if data is None:
        return list(columns)
    table = load_table(data)
    return [table.numbers(column) if isinstance(column, str) else column for column in columns]


# --------------------------------------------------------------------------- delimited text


def _delimited(text: str, path: Path, notes: tuple[str, ...]) -> Table:
    """CSV: the delimiter is the one by which the header and the first rows have equally many cells."""
    start, first = 1, text.split("\n", 1)[0].strip()
    if first.lower().startswith("sep=") and len(first) == 5:  # Excel's own line about the delimiter
        text, start = text.split("\n", 1)[1], 2
        delimiter = first[4]
    else:
        delimiter = _delimiter(text)
    try:
        rows = list(_split(text, delimiter, start))
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV file: {error}") from None
    (_, header), body = rows[0], rows[1:]
    names = tuple(name.strip() for name in header)
    width = len(names)
    cut = [(line, [*row, *[None] * (width - len(row))]) for line, row in body]
    cut = [(line, _without_end(row, width)) for line, row in cut]
    for line, row in cut:
        if len(row) > width:
            raise ValueError(
                f"{path}, line {line}: {len(row)} cells in a table of {width} columns; quote cells that "
                f"hold the "
                f"separator {delimiter!r}, or decimal commas, or separate columns by ';'"
            )
    if not body:
        raise ValueError(f"{path} has no rows")
    return Table(str(path), names, tuple(tuple(row) for _, row in cut), tuple(n for n, _ in cut), notes=notes)


def _without_end(row: list[str | None], width: int) -> list[str | None]:
    """Without empty cells beyond the header's columns: a separator at the end of each row."""
    while len(row) > width and not (row[-1] or "").strip():
        row = row[:-1]
    return row


def _split(text: str, delimiter: str, start: int = 1) -> Iterable[tuple[int, list[str]]]:
    """(line, cells) of every row that is not blank."""
    reader, line = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True), 0
    for row in reader:
        if any(cell.strip() for cell in row):
            yield line + start, row
        line = reader.line_num


def _delimiter(text: str) -> str:
    """The delimiter that splits the header into most columns, those that fit every row preferred."""

    def fit(delimiter: str) -> tuple[bool, int]:
        try:
            rows = [row for (_, row), _ in zip(_split(text, delimiter), range(SAMPLE))]
        except csv.Error:
            return False, 0
        width = len(rows[0])
        return width > 1 and all(len(row) == width for row in rows), width

    return max(DELIMITERS, key=fit)


# --------------------------------------------------------------------------- other formats


def _json(text: str, path: Path) -> Table:
    """JSON lines, or one list of objects; objects inside a row become columns `outer.inner`."""
    rows: list[tuple[int, dict[str, Any]]] = []
    if text.lstrip().startswith("["):
        try:
            objects = list(enumerate(json.loads(text), 1))
        except ValueError as error:
            raise ValueError(f"{path} is no JSON: {error}") from None
    else:
        objects = [(n, _object(line, n, path)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    for line, row in objects:
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {line}: a row must be an object, not {str(row)[:40]!r}")
        rows.append((line, dict(_flat(row))))
    names = tuple(dict.fromkeys(name for _, row in rows for name in row))
    cells = tuple(tuple(row.get(name) for name in names) for _, row in rows)
    return Table(str(path), names, cells, tuple(line for line, _ in rows))


def _object(line: str, number: int, path: Path) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        raise ValueError(f"{path}, line {number}: no JSON object: {line[:60]!r}") from None


def _flat(row: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}".strip(), value


def _parquet(path: Path) -> Table:
    pandas = _pandas()
    try:
        return from_frame(pandas.read_parquet(path), str(path))
    except ImportError:
        raise ValueError(f"{path}: Parquet needs pyarrow: pip install scalevit[parquet]") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from None


def _excel(path: Path, sheet: str) -> Table:
    """One sheet, by its name where several hold something."""
    pandas = _pandas()
    try:
        sheets = pandas.read_excel(path, sheet_name=None)
    except ImportError:
        raise ValueError(f"{path}: Excel files need openpyxl: pip install scalevit[excel]") from None
    except Exception as error:  # openpyxl has no error family of its own
        raise ValueError(f"{path} is no Excel file: {str(error).splitlines()[0]}") from None
    full = {name: frame for name, frame in sheets.items() if len(frame)}
    if sheet and sheet not in sheets:
        raise ValueError(f"{path} has no sheet {sheet!r}; it has {', '.join(sheets)}")
    if not sheet and len(full) > 1:
        raise ValueError(f"{path} has several sheets; give {path}{SHEET}NAME, NAME one of {', '.join(full)}")
    if not full:
        raise ValueError(f"{path} has no rows")
    name = sheet or next(iter(full))
    return from_frame(sheets[name], str(path))


def _pandas() -> Any:
    import pandas

    return pandas


def from_frame(frame: Any, where: str = "the table") -> Table:
    """The table of a DataFrame (or of a mapping from names to columns); rows are counted from 2, as in a
    spreadsheet with a header."""
    if not hasattr(frame, "columns") and not hasattr(frame, "keys"):
        raise ValueError(f"{type(frame).__name__} is no table: give a file's name or a DataFrame")
    if hasattr(frame, "columns"):
        names = tuple(str(name).strip() for name in frame.columns)
        columns = [frame.iloc[:, index].tolist() for index in range(len(names))]
    else:
        names, columns = tuple(map(str, frame)), [list(column) for column in frame.values()]
    if len({len(column) for column in columns}) > 1:
        raise ValueError("columns of a table must be equally long")
    rows = tuple(zip(*columns))
    if not rows:
        raise ValueError(f"{where} has no rows")
    return Table(where, names, rows, tuple(range(2, len(rows) + 2)), unit="row")
