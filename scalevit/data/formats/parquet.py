"""Parquet tables. A row is reached through its row group, so small groups (`datasets` writes 100 rows) read
quickest."""

from __future__ import annotations

from typing import Any

from scalevit.artifacts.remote import file_version, is_remote
from scalevit.data.formats.labels import label_values
from scalevit.data.formats.tables import Remote, class_names, columns, image_in, pyarrow
from scalevit.data.index.cache import UNCACHED, CachedReader, LRUCache
from scalevit.data.index.read import Builder, Header, ShardIndex
from scalevit.data.options import DEFAULTS, ListingOptions
from scalevit.data.splits import split_value

#: Footers of tables, which name their row groups: of a large one it is long to read.
_FOOTERS = LRUCache(64)


def _table(path: str, footer: Any = None) -> Any:
    arrow = pyarrow()
    try:
        return arrow.parquet.ParquetFile(Remote(path) if is_remote(path) else path, metadata=footer)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no parquet table: {str(error).splitlines()[0][:120]}") from None


def scan(path: str, options: ListingOptions = DEFAULTS, boundary: str = "") -> ShardIndex:
    """Index of a table from its labels; images are not read."""
    table = _table(path)
    schema = table.schema_arrow
    chosen = columns(schema, path, options)
    builder = Builder(
        Header(
            "parquet", path, *file_version(path), names=class_names(schema, chosen.label),
            columns=tuple(map(str, schema.names)), options=options.as_dict(),
        )
    )  # fmt: skip
    wanted = [name for name in (chosen.label, chosen.split) if name]
    try:
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            part = table.read_row_group(group, wanted) if wanted else None
            add_rows(builder, group, rows, part, chosen)
    except (pyarrow().ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged or cut: {str(error).splitlines()[0][:120]}") from None
    if not builder.rows:
        raise ValueError(f"{path} holds no row")
    return builder.done()


def add_rows(builder: Builder, offset: int, rows: int, part: Any, chosen: Any) -> None:
    """Add rows of a row group or record batch, reached through `offset`, to an index."""
    none = [None] * rows
    labels = part[chosen.label].to_pylist() if chosen.label else none
    splits = part[chosen.split].to_pylist() if chosen.split else none
    for row, (value, split) in enumerate(zip(labels, splits)):
        builder.add(offset, 0, label_values(value, builder.header.path), row=row, split=split_value(split))


def _group(header: Header, group: int) -> Any:
    """The images of one row group."""
    path = header.path
    footer = _FOOTERS.get((path, header.changed), lambda: _table(path).metadata)
    table = _table(path, footer)
    image = columns(table.schema_arrow, path, ListingOptions(**header.options)).image
    return table.read_row_group(group, [image])[image]


def name(index: ShardIndex, number: int) -> str:
    """How a message names a sample: the table, row group and row."""
    record = index.records[number]
    return f"{index.header.path} row {int(record['row'])} of group {int(record['offset'])}"


def encoded(index: ShardIndex, number: int, reader: CachedReader = UNCACHED) -> bytes:
    """The bytes of one image."""
    record, header = index.records[number], index.header
    group, row = int(record["offset"]), int(record["row"])

    image = header.options.get("image")

    def column() -> Any:
        return reader.groups.get((header.path, header.changed, image, group), lambda: _group(header, group))

    return image_in(column, row, name(index, number), header.path)
