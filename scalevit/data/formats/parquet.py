"""Parquet tables. A row is reached through its row group, so small groups (`datasets` writes 100 rows) read
quickest. Labels may be words, whose numbers are their places among the table's own."""

from __future__ import annotations

from typing import Any

from scalevit.artifacts.remote import file_version, is_remote
from scalevit.data.formats.tables import Remote, class_names, columns, image_in, labels_of, pyarrow
from scalevit.data.index.cache import UNCACHED, CachedReader, LRUCache
from scalevit.data.index.read import Builder, Header, ShardIndex

#: What tables say of their row groups, over all tables: of a large one it is long to read.
_FOOTERS = LRUCache(64)


def _table(path: str, footer: Any = None) -> Any:
    arrow = pyarrow()
    try:
        return arrow.parquet.ParquetFile(Remote(path) if is_remote(path) else path, metadata=footer)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no parquet table: {str(error).splitlines()[0][:120]}") from None


def scan(path: str) -> ShardIndex:
    """An index of a table from its labels; images are not read."""
    table = _table(path)
    _, labels = columns(table.schema_arrow, path)
    words = _words(table, labels)
    names = words or class_names(table.schema_arrow)
    numbers = {word: number for number, word in enumerate(words)}
    builder = Builder(Header("parquet", path, *file_version(path), names=names))
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        column = table.read_row_group(group, [labels])[labels].to_pylist() if labels else [None] * rows
        for row, value in enumerate(column):
            builder.add(group, 0, labels_of(numbers.get(value, value) if words else value, path), row=row)
    if not builder.rows:
        raise ValueError(f"{path} holds no row")
    return builder.done()


def _words(table: Any, labels: str | None) -> tuple[str, ...]:
    """The classes, ascending, of a table whose labels are words; none of one with numbers."""
    types = pyarrow().types
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


def _group(header: Header, group: int) -> Any:
    """The images of one row group."""
    path = header.path
    footer = _FOOTERS.get((path, header.changed), lambda: _table(path).metadata)
    table = _table(path, footer)
    name, _ = columns(table.schema_arrow, path)
    return table.read_row_group(group, [name])[name]


def name(index: ShardIndex, number: int) -> str:
    """How to say which sample this is: the table, row group and row."""
    record = index.records[number]
    return f"{index.header.path} row {int(record['row'])} of group {int(record['offset'])}"


def encoded(index: ShardIndex, number: int, reader: CachedReader = UNCACHED) -> bytes:
    """The bytes of one image."""
    record, header = index.records[number], index.header
    group, row = int(record["offset"]), int(record["row"])

    def column() -> Any:
        return reader.groups.get((header.path, header.changed, group), lambda: _group(header, group))

    return image_in(column, row, name(index, number))
