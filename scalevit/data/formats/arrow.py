"""Arrow streams, which Hugging Face's `datasets` keeps: what `save_to_disk` writes, and its cache.

A row is reached through its record batch, which is found by the byte where it begins.
"""

from __future__ import annotations

from typing import Any

from scalevit.artifacts.remote import file_version, is_remote
from scalevit.data.formats.parquet import add_rows
from scalevit.data.formats.tables import Remote, class_names, columns, image_in, pyarrow
from scalevit.data.index.cache import UNCACHED, CachedReader
from scalevit.data.index.read import Builder, Header, ShardIndex
from scalevit.data.options import DEFAULTS, ListingOptions


def _opened(path: str) -> tuple[Any, Any]:
    """(file, schema); the file is at the first batch."""
    arrow = pyarrow()
    try:
        file = arrow.PythonFile(Remote(path), "r") if is_remote(path) else arrow.memory_map(path)
        return file, arrow.ipc.read_schema(file)
    except (arrow.ArrowException, OSError, EOFError) as error:
        raise ValueError(f"{path} is no Arrow stream: {str(error).splitlines()[0][:120]}") from None


def _batch(file: Any, schema: Any) -> Any:
    """The record batch that begins here; None at the end. What it says of itself is validated."""
    arrow = pyarrow()
    try:
        message = arrow.ipc.read_message(file)
    except EOFError:
        return None
    batch = arrow.ipc.read_record_batch(message, schema)
    batch.validate()
    return batch


def scan(path: str, options: ListingOptions = DEFAULTS, boundary: str = "") -> ShardIndex:
    """Index of a stream: batches are gone through, images on a disk are not read."""
    file, schema = _opened(path)
    chosen = columns(schema, path, options)
    builder = Builder(
        Header(
            "arrow", path, *file_version(path), names=class_names(schema, chosen.label),
            columns=tuple(map(str, schema.names)), options=options.as_dict(),
        )
    )  # fmt: skip
    place = file.tell()
    try:
        while (batch := _batch(file, schema)) is not None:
            add_rows(builder, place, batch.num_rows, batch, chosen)
            place = file.tell()
    except (pyarrow().ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ValueError(f"{path} is damaged or cut at byte {place}: {reason}") from None
    if not builder.rows:
        raise ValueError(f"{path} holds no row")
    return builder.done()


def _images(header: Header, place: int) -> Any:
    """The images of the batch that begins at this byte."""
    file, schema = _opened(header.path)
    file.seek(place)
    return _batch(file, schema)[columns(schema, header.path, ListingOptions(**header.options)).image]


def name(index: ShardIndex, number: int) -> str:
    """How a message names a sample: the stream, the row, and the byte its batch begins at."""
    record = index.records[number]
    return f"{index.header.path} row {int(record['row'])} of the batch at byte {int(record['offset'])}"


def encoded(index: ShardIndex, number: int, reader: CachedReader = UNCACHED) -> bytes:
    """The bytes of one image."""
    record, header = index.records[number], index.header
    place, row = int(record["offset"]), int(record["row"])

    image = header.options.get("image")

    def column() -> Any:
        return reader.groups.get((header.path, header.changed, image, place), lambda: _images(header, place))

    return image_in(column, row, name(index, number), header.path)
