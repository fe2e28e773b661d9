"""Torch's distributed checkpoint format, written and read without importing torch.distributed.checkpoint.

That package costs the better part of a second a process, which a study of many short runs pays at every
start; and its planner gathers on one rank what each rank here knows already. So a rank writes its own pieces,
the first one adds the index, and `torch.distributed.checkpoint.load` reads the result as its own (tested).

A folder holds `__R_0.distcp`, the pieces of rank R, each a `torch.save` of one tensor; and `.metadata`, a
pickle that says which piece of which tensor lies where. Reading takes any slice of any tensor, so the number
of ranks that read need not be the number that wrote.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor

from scalevit.artifacts.remote import Folder

INDEX = ".metadata"
METADATA, FILESYSTEM = "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"


@dataclass(frozen=True)
class Shard:
    """A contiguous block of a tensor of shape `size`, from `offset` on; the whole tensor on one device."""

    name: str
    data: Tensor
    size: tuple[int, ...]
    offset: tuple[int, ...]


@dataclass(frozen=True)
class ShardLocation:
    """Where a piece lies: file, first byte, bytes; and which block of its tensor it is."""

    name: str
    dtype: torch.dtype
    size: tuple[int, ...]
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    start: int
    length: int


def unsharded(tensors: Mapping[str, Tensor]) -> list[Shard]:
    """Unsharded tensors as pieces."""
    return [Shard(name, t, tuple(t.shape), (0,) * t.ndim) for name, t in tensors.items()]


# --------------------------------------------------------------------------- writing


class _HashingWriter:
    """A file that knows the SHA-256 of what went through it."""

    def __init__(self, file: Any) -> None:
        self.file, self.sha256, self.bytes = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.bytes += memoryview(data).nbytes
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


@dataclass(frozen=True)
class WrittenFile:
    """A file on disk, with what is needed to notice damage later."""

    file: str
    bytes: int
    sha256: str


def write_shards(
    folder: Folder, rank: int, pieces: Iterable[Shard]
) -> tuple[list[ShardLocation], WrittenFile]:
    """Write this rank's pieces; they are on disk when this returns."""
    name, places = f"__{rank}_0.distcp", []
    with (folder / name).open("wb") as raw:
        file = _HashingWriter(raw)
        for piece in pieces:
            start, data = file.bytes, _contiguous_on_cpu(piece.data)
            try:
                torch.save(data, file)  # pyright: ignore[reportArgumentType]
            except RuntimeError:  # torch hides what went wrong with the file
                raise file.error or RuntimeError(f"cannot write {folder / name}") from None
            shape = tuple(data.shape)
            span = (name, start, file.bytes - start)
            places.append(ShardLocation(piece.name, data.dtype, piece.size, piece.offset, shape, *span))
        _sync(raw)
    return places, WrittenFile(name, file.bytes, file.sha256.hexdigest())


def _contiguous_on_cpu(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous, and without the rest of a larger storage, which torch.save would write too."""
    data = tensor.detach().to("cpu").contiguous()
    return data.clone() if data.untyped_storage().nbytes() != data.nbytes else data


def write_index(folder: Folder, places: Sequence[ShardLocation]) -> WrittenFile:
    """Write `.metadata` for the pieces of all ranks."""
    with (folder / INDEX).open("wb") as raw:
        file = _HashingWriter(raw)
        _Pickler(file, protocol=2).dump(_metadata(places))
        _sync(raw)
    return WrittenFile(INDEX, file.bytes, file.sha256.hexdigest())


def _sync(file: Any) -> None:
    """On the disk, where there is one: a store has what it was given when the file is closed."""
    file.flush()
    with contextlib.suppress(io.UnsupportedOperation):
        os.fsync(file.fileno())


# --------------------------------------------------------------------------- reading


class ShardReader:
    """A checkpoint's tensors by name, whole or in part, read when asked for."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.locations: dict[str, list[ShardLocation]] = {}
        for place in _read_index(folder / INDEX):
            self.locations.setdefault(place.name, []).append(place)

    def size(self, name: str) -> tuple[int, ...]:
        return self.locations[name][0].size

    def dtype(self, name: str) -> torch.dtype:
        return self.locations[name][0].dtype

    def read_tensor(self, name: str) -> Tensor:
        """The tensor called `name` on the CPU."""
        first = self.locations[name][0]
        if first.shape == first.size:
            return self._read_shard(first)
        out = torch.empty(first.size, dtype=first.dtype)
        self.read_into(name, out, (0,) * len(first.size))
        return out

    def read_into(self, name: str, out: Tensor, offset: Sequence[int]) -> None:
        """Copy into `out` the block of the tensor that starts at `offset` and has `out`'s shape."""
        for place in self.locations[name]:
            low = [max(a, b) for a, b in zip(offset, place.offset)]
            high = [min(a + n, b + m) for a, n, b, m in zip(offset, out.shape, place.offset, place.shape)]
            if all(a < b for a, b in zip(low, high)):
                source = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, place.offset))
                target = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, offset))
                out[target].copy_(self._read_shard(place)[source])

    def _read_shard(self, place: ShardLocation) -> Tensor:
        with (self.folder / place.file).open("rb") as file:
            part = _FileRange(file, place.start, place.length)
            return torch.load(part, map_location="cpu", weights_only=True)  # pyright: ignore


class _FileRange(io.RawIOBase):
    """Some bytes of a file as a file of its own: torch reads from it straight into a tensor's memory."""

    def __init__(self, file: Any, start: int, length: int) -> None:
        self.file, self.start, self.length, self.at = file, start, length, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.length}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), max(0, self.length - self.at))
        self.file.seek(self.start + self.at)
        found = self.file.readinto(memoryview(buffer)[:count])  # pyright: ignore[reportAttributeAccessIssue]
        self.at += found
        return found


# --------------------------------------------------------------------------- stand-ins for torch's classes


@dataclass
class _Chunk:
    offsets: torch.Size
    sizes: torch.Size


class _MemoryFormat:
    """torch's enumeration of memory formats; ours are always contiguous, number 0."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return _MemoryFormat, (self.number,)


@dataclass
class _Properties:
    dtype: torch.dtype

    def __getstate__(self) -> tuple[Any, ...]:
        return self.dtype, torch.strided, False, _MemoryFormat(), False

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = state[0]


@dataclass
class _Tensor:
    properties: _Properties
    size: torch.Size
    chunks: list[_Chunk]


class _Bytes:
    """An entry that is no tensor; we write none, others do."""


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
    _Bytes: (METADATA, "BytesStorageMetadata"),
    _Storage: (METADATA, "StorageMeta"),
    _Index: (METADATA, "MetadataIndex"),
    _Metadata: (METADATA, "Metadata"),
    _Info: (FILESYSTEM, "_StorageInfo"),
}
STAND_INS = {name: kind for kind, name in NAMES.items()}


class _Pickler(pickle._Pickler):
    """Writes our stand-ins under the names of torch's classes."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if isinstance(obj, type) and obj in NAMES:
            self.write(pickle.GLOBAL + "{}\n{}\n".format(*NAMES[obj]).encode())  # pyright: ignore
            self.memoize(obj)  # pyright: ignore
        else:
            super().save_global(obj, name)  # pyright: ignore

    dispatch = {**pickle._Pickler.dispatch, type: save_global}  # noqa: RUF012  # pyright: ignore


class _Unpickler(pickle.Unpickler):
    """Reads torch's index into our stand-ins, and refuses every class that an index does not need."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in STAND_INS:
            return STAND_INS[module, name]
        value = getattr(torch, name, None) if module == "torch" else None
        if name == "Size" or isinstance(value, torch.dtype | torch.layout):
            return value
        if (module, name) == ("torch.serialization", "_get_layout"):
            return torch.serialization._get_layout
        if module.startswith("pathlib") and name.endswith("Path"):
            return PurePosixPath
        raise pickle.UnpicklingError(f"an index holds no {module}.{name}")


def _metadata(places: Sequence[ShardLocation]) -> _Metadata:
    tensors: dict[str, _Tensor] = {}
    storage: dict[_Index, _Info] = {}
    for place in places:
        fresh = _Tensor(_Properties(place.dtype), torch.Size(place.size), [])
        chunks = tensors.setdefault(place.name, fresh).chunks
        chunks.append(_Chunk(torch.Size(place.offset), torch.Size(place.shape)))
        index = _Index(place.name, torch.Size(place.offset), len(chunks) - 1)
        storage[index] = _Info(place.file, place.start, place.length)
    names = {name: (name,) for name in tensors}
    return _Metadata(tensors, names, storage, _Storage())


def _read_index(path: Folder) -> list[ShardLocation]:
    with path.open("rb") as file:
        metadata = _Unpickler(file).load()
    places = []
    for index, info in metadata.storage_data.items():
        tensor = metadata.state_dict_metadata[index.fqn]
        if isinstance(tensor, _Tensor):
            shape = next(tuple(c.sizes) for c in tensor.chunks if tuple(c.offsets) == tuple(index.offset))
            span = (info.relative_path, info.offset, info.length)
            dtype, size = tensor.properties.dtype, tuple(tensor.size)
            places.append(ShardLocation(index.fqn, dtype, size, tuple(index.offset), shape, *span))
    return places
