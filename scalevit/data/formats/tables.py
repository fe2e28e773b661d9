"""Tables of images, however they are stored: which column holds images, labels and splits.

Images are a struct with `bytes` (or a `path` in the table's folder), plain binary, or paths as text; labels
are numbers, names, or lists of either. Hugging Face's `datasets` writes beside the schema which type each
column has, and the names of classes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scalevit.artifacts.remote import file_version, is_remote, read_range
from scalevit.config.dataclass_io import nearest_names
from scalevit.data.class_names import listed
from scalevit.data.decode import BrokenImage
from scalevit.data.formats.image_files import read_inside
from scalevit.data.formats.labels import key_of
from scalevit.data.left_out import printable
from scalevit.data.options import DEFAULTS, ListingOptions

#: Names of columns of images, in lower case, the first that is there before others.
IMAGE_NAMES = ("image", "img", "jpg", "png", "jpeg", "webp", "picture", "photo", "image_bytes")
#: Where a schema's metadata holds the types that `datasets` gave the columns.
_FEATURES = b"huggingface"


class Columns(NamedTuple):
    """Names of a table's columns; label and split: None where there is none."""

    image: str
    label: str | None
    split: str | None


def pyarrow() -> Any:
    """The package with its submodules, or a ValueError with the command that installs it."""
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise ValueError('tables need pyarrow: pip install "scalevit[parquet]"') from None
    return pyarrow


class Remote(io.RawIOBase):
    """A remote file of which pyarrow reads parts."""

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


def columns(schema: Any, path: str, options: ListingOptions = DEFAULTS) -> Columns:
    """The columns of images, labels and splits: those that `options` name, else by type and name. Raises
    ValueError with the list of columns where none or several may hold the image, or several the label."""
    names = [str(name) for name in schema.names]
    split = options.split or next((name for name in names if name.lower() == "split"), None)
    for chosen in filter(None, (options.image, options.split)):
        if chosen not in names:
            near = ", ".join(nearest_names(chosen, names))
            raise ValueError(f"{path} has no column {chosen!r}; nearest: {near}")
    return Columns(options.image or _image_column(schema, path), _label_column(schema, path, options), split)


def _image_column(schema: Any, path: str) -> str:
    features = _features(schema)
    typed = [n for n in schema.names if _type_of(features.get(n)) == "Image"]
    structs = [field.name for field in schema if _is_struct(field.type)]
    binary = [field.name for field in schema if _is_binary(field.type)]
    paths = (*IMAGE_NAMES, "file_name")
    texts = [field.name for field in schema if _is_text(field.type) and field.name.lower() in paths]
    for candidates in (typed, structs, binary, texts):
        named = [n for word in IMAGE_NAMES for n in candidates if n.lower() == word]
        if named or len(candidates) == 1:
            return [*named, *candidates][0]
        if candidates:
            several = listed(candidates)
            raise ValueError(
                f"{path}: several columns may hold the image: {several}; choose one with data.image="
            )
    raise ValueError(
        f"{path} has no column of images (bytes, or a struct with bytes); its columns: {listed(schema.names)}"
    )


def _label_column(schema: Any, path: str, options: ListingOptions) -> str | None:
    features = _features(schema)
    typed = [n for n in schema.names if _type_of(_inner(features.get(n))) == "ClassLabel"]
    if not options.label and len(typed) == 1:
        return typed[0]
    return key_of(list(schema.names), options.label, path)


def _is_struct(kind: Any) -> bool:
    types = pyarrow().types
    return types.is_struct(kind) and "bytes" in [inner.name for inner in kind]


def _is_binary(kind: Any) -> bool:
    types = pyarrow().types
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _is_text(kind: Any) -> bool:
    types = pyarrow().types
    return types.is_string(kind) or types.is_large_string(kind)


def _features(schema: Any) -> dict[str, Any]:
    """The types that `datasets` wrote, by column; {} where it wrote none."""
    try:
        features = json.loads((schema.metadata or {})[_FEATURES])["info"]["features"]
        return features if isinstance(features, dict) else {}
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}


def _inner(feature: Any) -> Any:
    """What a list holds, or the feature itself."""
    inner = feature.get("feature") if isinstance(feature, dict) else None
    return inner or (feature[0] if isinstance(feature, list) and feature else feature)


def _type_of(feature: Any) -> str:
    return str(feature.get("_type", "")) if isinstance(feature, dict) else ""


def class_names(schema: Any, label: str | None) -> tuple[str, ...]:
    """Names of the classes of the column `label`, where `datasets` wrote them."""
    feature = _inner(_features(schema).get(label)) if label else None
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


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


def image_in(column: Callable[[], Any], row: int, name: str, path: str) -> bytes:
    """The encoded image in a row of a column of the table at `path`; BrokenImage where there is none."""
    try:
        value = column()[row].as_py()
    except (pyarrow().ArrowException, OSError, IndexError) as error:
        raise BrokenImage(f"{name}: {str(error).splitlines()[0][:120]}") from None
    data = value.get("bytes") if isinstance(value, dict) else value
    file = value.get("path") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return data
    if not isinstance(file, str) or is_remote(path):
        raise BrokenImage(f"{name} holds no bytes")
    folder = Path(path).parent
    try:
        return read_inside(str(folder), str(folder / file))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file's name"
        raise BrokenImage(f"{name} holds no bytes; {printable(file)}: {reason}") from None
