"""Parquet tables as Hugging Face's `datasets` writes them: a column of encoded images, a column of labels.

Images are a struct with `bytes`, or plain binary; labels are an integer or a list of them, or a word, whose
number is its place among the table's own. A row is reached through its row group, so tables with small row
groups (datasets writes 100 rows) read quickest.
"""

from __future__ import annotations

import io
from typing import Any

from scalevit.data.decode import BrokenImage
from scalevit.data.index import Builder, Header, ShardIndex
from scalevit.data.kept import PLAIN, Kept, Reader
from scalevit.data.labels import Labels
from scalevit.data.storage import is_remote, read, stamp

LABEL_COLUMNS = ("label", "labels", "cls", "class", "fine_label", "target", "targets", "y", "category")
#: What tables say of their row groups, over all tables: of a large one it is long to read.
_FOOTERS = Kept(64)


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError('parquet needs pyarrow: pip install "scalevit[parquet]"') from None
    return pyarrow


class _Remote(io.RawIOBase):
    """A file of which pyarrow asks the parts it wants."""

    def __init__(self, path: str) -> None:
        self.path, self.size, self.place = path, stamp(path).size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = offset + (0, self.place, self.size)[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any) -> int:
        data = read(self.path, self.place, min(len(buffer), max(0, self.size - self.place)))
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


def _table(path: str, footer: Any = None) -> Any:
    pyarrow = _pyarrow()
    try:
        return pyarrow.parquet.ParquetFile(_Remote(path) if is_remote(path) else path, metadata=footer)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no parquet table: {str(error).splitlines()[0][:120]}") from None


def _columns(table: Any, path: str) -> tuple[str, str | None]:
    """(column of images, column of labels or None)."""
    types = _pyarrow().types
    images = [
        one.name
        for one in table.schema_arrow
        if types.is_binary(one.type)
        or types.is_large_binary(one.type)
        or (types.is_struct(one.type) and "bytes" in [inner.name for inner in one.type])
    ]
    names = table.schema_arrow.names
    if not images:
        raise ValueError(f"{path} has no column of images (bytes, or a struct with bytes); it has {names}")
    return images[0], next((name for name in LABEL_COLUMNS if name in names), None)


def scan(path: str) -> ShardIndex:
    """An index of a table from its labels; images are not read."""
    table = _table(path)
    _, labels = _columns(table, path)
    names = _names(table, labels)
    numbers = {name: number for number, name in enumerate(names)}
    builder = Builder(Header("parquet", path, *stamp(path), names=names))
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        column = table.read_row_group(group, [labels])[labels].to_pylist() if labels else [None] * rows
        for row, value in enumerate(column):
            builder.add(group, 0, _as_labels(numbers.get(value, value) if names else value, path), row=row)
    if not builder.rows:
        raise ValueError(f"{path} holds no row")
    return builder.done()


def _names(table: Any, labels: str | None) -> tuple[str, ...]:
    """The classes, ascending, of a table whose labels are words; none of one with numbers."""
    types = _pyarrow().types
    kind = table.schema_arrow.field(labels).type if labels else None
    kind = kind.value_type if kind is not None and types.is_dictionary(kind) else kind
    if kind is None or not (types.is_string(kind) or types.is_large_string(kind)):
        return ()
    groups = (table.read_row_group(group, [labels])[labels] for group in range(table.num_row_groups))
    return tuple(sorted({word for group in groups for word in group.unique().to_pylist()} - {None}))


def column(path: str, name: str) -> list[Any] | None:
    """A table's values of a column, row by row; None when it has no such column."""
    table = _table(path)
    return table.read([name])[name].to_pylist() if name in table.schema_arrow.names else None


def _as_labels(value: Any, path: str) -> Labels:
    if value in (None, -1, [-1]):  # -1 is how datasets writes "not known"
        return None
    values = value if isinstance(value, list) else [value]
    if any(type(one) is not int for one in values):
        raise ValueError(f"{path}: labels must be words, integers or lists of integers, found {value!r:.60}")
    return tuple(values)


def _group(header: Header, group: int) -> Any:
    """The images of one row group."""
    path = header.path
    footer = _FOOTERS.get((path, header.changed), lambda: _table(path).metadata)
    table = _table(path, footer)
    name, _ = _columns(table, path)
    return table.read_row_group(group, [name])[name]


def name(index: ShardIndex, number: int) -> str:
    """How to say which sample this is: the table, row group and row."""
    record = index.records[number]
    return f"{index.header.path} row {int(record['row'])} of group {int(record['offset'])}"


def encoded(index: ShardIndex, number: int, reader: Reader = PLAIN) -> bytes:
    """The bytes of one image."""
    record, header = index.records[number], index.header
    pyarrow, group = _pyarrow(), int(record["offset"])
    try:
        column = reader.groups.get((header.path, header.changed, group), lambda: _group(header, group))
        value = column[int(record["row"])].as_py()
    except (pyarrow.ArrowException, OSError, IndexError) as error:
        raise BrokenImage(f"{name(index, number)}: {str(error).splitlines()[0][:120]}") from None
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None:
        raise BrokenImage(f"{name(index, number)} holds no bytes")
    return data
