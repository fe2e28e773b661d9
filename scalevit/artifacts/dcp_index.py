"""Index of torch's distributed checkpoint format: `.metadata`, the place of each shard of each tensor.

Torch keeps it as a pickle. It is written under the names of torch's classes, so that torch reads it, and read
as data, so that nothing in it runs.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from scalevit.artifacts.hashing_writer import HashingWriter, WrittenFile, fsync_open_file, no_progress
from scalevit.artifacts.inert_pickle import PickledName, PickledObject, parse_pickle
from scalevit.artifacts.remote import Folder

INDEX = ".metadata"
METADATA, FILESYSTEM = "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"
#: Dimensions of a tensor that are read.
_MOST_DIMENSIONS = 16


@dataclass(frozen=True)
class ShardLocation:
    """Where a shard lies: file, first byte, bytes; and which block of its tensor it is."""

    name: str
    dtype: torch.dtype
    size: tuple[int, ...]
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    start: int
    length: int


def write_index(folder: Folder, locations: Sequence[ShardLocation]) -> WrittenFile:
    """Write `.metadata` for the shards of all ranks. Raises OSError."""
    with (folder / INDEX).open("wb") as raw:
        file = HashingWriter(raw, no_progress)
        _Pickler(file, protocol=2).dump(_metadata(locations))
        fsync_open_file(raw)
    return WrittenFile(INDEX, file.bytes, file.sha256.hexdigest())


# --------------------------------------------------------------------------- reading


def read_index(path: Folder) -> list[ShardLocation]:
    """Shard locations from torch's `.metadata`; entries that are no tensors are left out. Raises ValueError
    when it is damaged."""
    with path.open("rb") as file:
        data = file.read()
    try:
        return _locations(parse_pickle(data))
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, StopIteration) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path}: no index of a checkpoint ({reason})") from None


def _locations(root: Any) -> list[ShardLocation]:
    metadata = _fields(root, "Metadata")
    locations = []
    for key, value in metadata["storage_data"].items():
        index, info = _fields(key, "MetadataIndex"), _fields(value, "_StorageInfo")
        tensor = metadata["state_dict_metadata"][index["fqn"]]
        if _class_name(tensor) != "TensorStorageMetadata":
            continue
        tensor, offset = _fields(tensor, "TensorStorageMetadata"), parse_sizes(index["offset"])
        chunks = [_fields(chunk, "ChunkStorageMetadata") for chunk in tensor["chunks"]]
        shape = next(
            parse_sizes(chunk["sizes"]) for chunk in chunks if parse_sizes(chunk["offsets"]) == offset
        )
        span = (str(info["relative_path"]), int(info["offset"]), int(info["length"]))
        dtype, size = _dtype(tensor["properties"].state[0]), parse_sizes(tensor["size"])
        locations.append(ShardLocation(str(index["fqn"]), dtype, size, offset, shape, *span))
    return locations


def _class_name(node: Any) -> str:
    return node.name.rpartition(".")[2] if isinstance(node, PickledObject) else type(node).__name__


def _fields(node: Any, name: str) -> dict[Any, Any]:
    """Attributes of an object of torch's class `name`."""
    if _class_name(node) != name or not isinstance(node.state, dict):
        raise ValueError(f"{_class_name(node)} where {name} belongs")
    return node.state


def parse_sizes(value: Any) -> tuple[int, ...]:
    """A torch.Size or a tuple of sizes."""
    items = value.args[0] if isinstance(value, PickledObject) and value.name == "torch.Size" else value
    if not isinstance(items, tuple | list) or len(items) > _MOST_DIMENSIONS:
        raise ValueError("sizes of another kind")
    if not all(isinstance(n, int) and 0 <= n < 1 << 48 for n in items):
        raise ValueError("sizes out of range")
    return tuple(items)


def _dtype(name: Any) -> torch.dtype:
    text = name.text.removeprefix("torch.") if isinstance(name, PickledName) else ""
    dtype = getattr(torch, text, None) if text.isidentifier() else None
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{text or name} is no dtype")
    return dtype


# --------------------------------------------------------------------------- writing under torch's names


@dataclass
class _Chunk:
    offsets: torch.Size
    sizes: torch.Size


class _MemoryFormat:
    """torch's enumeration of memory formats; always contiguous, number 0."""

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return _MemoryFormat, (0,)


@dataclass
class _Properties:
    dtype: torch.dtype

    def __getstate__(self) -> tuple[Any, ...]:
        return self.dtype, torch.strided, False, _MemoryFormat(), False


@dataclass
class _Tensor:
    properties: _Properties
    size: torch.Size
    chunks: list[_Chunk]


@dataclass
class _Storage:
    checkpoint_id: str | None = None
    save_id: str | None = None
    load_id: str | None = None
    modules: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Index:
    fqn: str
    offset: torch.Size | None = None
    index: int | None = field(hash=False, compare=False, default=None)


@dataclass
class _Info:
    relative_path: str
    offset: int
    length: int


@dataclass
class _Metadata:
    state_dict_metadata: dict[str, _Tensor]
    planner_data: dict[str, tuple[str, ...]]
    storage_data: dict[_Index, _Info]
    storage_meta: _Storage
    version: str = "1.0.0"


NAMES: dict[type, tuple[str, str]] = {
    _Chunk: (METADATA, "ChunkStorageMetadata"),
    _MemoryFormat: (METADATA, "_MEM_FORMAT_ENCODING"),
    _Properties: (METADATA, "TensorProperties"),
    _Tensor: (METADATA, "TensorStorageMetadata"),
    _Storage: (METADATA, "StorageMeta"),
    _Index: (METADATA, "MetadataIndex"),
    _Metadata: (METADATA, "Metadata"),
    _Info: (FILESYSTEM, "_StorageInfo"),
}


class _Pickler(pickle._Pickler):
    """Writes the classes above under the names of torch's classes."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if isinstance(obj, type) and obj in NAMES:
            self.write(pickle.GLOBAL + "{}\n{}\n".format(*NAMES[obj]).encode())  # pyright: ignore
            self.memoize(obj)  # pyright: ignore
        else:
            super().save_global(obj, name)  # pyright: ignore

    dispatch = {**pickle._Pickler.dispatch, type: save_global}  # noqa: RUF012  # pyright: ignore


def _metadata(locations: Sequence[ShardLocation]) -> _Metadata:
    tensors: dict[str, _Tensor] = {}
    storage: dict[_Index, _Info] = {}
    for it in locations:
        fresh = _Tensor(_Properties(it.dtype), torch.Size(it.size), [])
        chunks = tensors.setdefault(it.name, fresh).chunks
        chunks.append(_Chunk(torch.Size(it.offset), torch.Size(it.shape)))
        index = _Index(it.name, torch.Size(it.offset), len(chunks) - 1)
        storage[index] = _Info(it.file, it.start, it.length)
    names = {name: (name,) for name in tensors}
    return _Metadata(tensors, names, storage, _Storage())
