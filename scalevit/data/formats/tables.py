"""What tables of images have in common, however they are stored: a column of encoded images, one of labels.

Images are a struct with `bytes`, or plain binary; labels are an integer or a list of them. Hugging Face's
`datasets` writes beside the schema which type each column has, and the names of classes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from scalevit.artifacts.remote import file_version, read_range
from scalevit.data.decode import BrokenImage
from scalevit.data.formats.labels import Labels

LABEL_COLUMNS = ("label", "labels", "cls", "class", "fine_label", "target", "targets", "y", "category")
#: Where a schema's metadata says what `datasets` wants to know.
_FEATURES = b"huggingface"


def pyarrow() -> Any:
    """The package with its submodules, or a ValueError saying how to get it."""
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise ValueError('tables need pyarrow: pip install "scalevit[parquet]"') from None
    return pyarrow


class Remote(io.RawIOBase):
    """A file of which pyarrow asks the parts it wants."""

    def __init__(self, path: str) -> None:
        self.path, self.size, self.place = path, file_version(path).size, 0

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
        data = read_range(self.path, self.place, min(len(buffer), max(0, self.size - self.place)))
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


def columns(schema: Any, path: str) -> tuple[str, str | None]:
    """(column of images, column of labels or None)."""
    types = pyarrow().types
    images = [
        one.name
        for one in schema
        if types.is_binary(one.type)
        or types.is_large_binary(one.type)
        or (types.is_struct(one.type) and "bytes" in [inner.name for inner in one.type])
    ]
    if not images:
        raise ValueError(
            f"{path} has no column of images (bytes, or a struct with bytes); it has {schema.names}"
        )
    return images[0], next((name for name in LABEL_COLUMNS if name in schema.names), None)


def labels_of(value: Any, path: str) -> Labels:
    """A row's classes."""
    if value in (None, -1, [-1]):  # -1 is how datasets writes "not known"
        return None
    values = value if isinstance(value, list) else [value]
    if any(type(one) is not int for one in values):
        raise ValueError(f"{path}: labels must be words, integers or lists of integers, found {value!r:.60}")
    return tuple(values)


def class_names(schema: Any) -> tuple[str, ...]:
    """Names of the classes, where `datasets` wrote them."""
    try:
        features = json.loads((schema.metadata or {})[_FEATURES])["info"]["features"]
        found = next(features[name] for name in LABEL_COLUMNS if name in features)
        return tuple(str(name) for name in (found.get("feature") or found)["names"])
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration):
        return ()


def schema_for(names: Sequence[str], multi: bool) -> Any:
    """The schema of a table of images that `datasets` reads as such."""
    arrow = pyarrow()
    label: dict[str, Any] = {"dtype": "int64", "_type": "Value"}
    if names:
        label = {"names": [*names], "_type": "ClassLabel"}
    features = {
        "image": {"_type": "Image"},
        "label": {"feature": label, "_type": "Sequence"} if multi else label,
    }
    image = arrow.struct({"bytes": arrow.binary(), "path": arrow.string()})
    kind = arrow.list_(arrow.int64()) if multi else arrow.int64()
    metadata = {_FEATURES: json.dumps({"info": {"features": features}})}
    return arrow.schema({"image": image, "label": kind}, metadata)


def image_in(column: Callable[[], Any], row: int, name: str) -> bytes:
    """The encoded image in a row of a column."""
    try:
        value = column()[row].as_py()
    except (pyarrow().ArrowException, OSError, IndexError) as error:
        raise BrokenImage(f"{name}: {str(error).splitlines()[0][:120]}") from None
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None:
        raise BrokenImage(f"{name} holds no bytes")
    return data
