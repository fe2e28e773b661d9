"""Torch's distributed checkpoint format (DCP), written and read without torch.distributed.checkpoint.

A folder holds `__R_0.distcp`, the shards of rank R, each a `torch.save` of one tensor; and `.metadata`, a
pickle that says which shard of which tensor lies where. Torch reads what is written here (tested). Reading
takes any slice of any tensor, so the number of ranks that read need not be the number that wrote.

Why not torch's own functions (measured, docs/design.md): importing them costs more than half a second a
process, their reader unpickles `.metadata`, which runs any code that a stranger put there, and hashes for
noticing damage would need a second pass over the files. The reader here treats both pickles as data, opens
only files of the checkpoint's folder, and takes no size on trust.
"""

from __future__ import annotations

import io
import math
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalevit.artifacts.dcp_index import INDEX, ShardLocation, parse_sizes, read_index, write_index
from scalevit.artifacts.hashing_writer import HashingWriter, WrittenFile, fsync_open_file, no_progress
from scalevit.artifacts.inert_pickle import PickledObject, parse_pickle
from scalevit.artifacts.remote import Folder

#: Bytes of one shard's header, a pickle of a few names and numbers.
_LARGEST_HEADER = 1 << 16


__all__ = [
    "INDEX",
    "Shard",
    "ShardLocation",
    "ShardReader",
    "WrittenFile",
    "unsharded",
    "write_index",
    "write_shards",
]


@dataclass(frozen=True)
class Shard:
    """A contiguous block of a tensor of shape `size`, from `offset` on; the whole tensor on one device."""

    name: str
    data: Tensor
    size: tuple[int, ...]
    offset: tuple[int, ...]


def unsharded(tensors: Mapping[str, Tensor]) -> list[Shard]:
    """Whole tensors, each as its only shard."""
    return [Shard(name, t, tuple(t.shape), (0,) * t.ndim) for name, t in tensors.items()]


# --------------------------------------------------------------------------- writing


def write_shards(
    folder: Folder, rank: int, shards: Iterable[Shard], progress: Callable[[], None] = no_progress
) -> tuple[list[ShardLocation], WrittenFile]:
    """Write this rank's shards; they are on disk when this returns. progress: is called at each write.
    Raises OSError."""
    name, locations = f"__{rank}_0.distcp", []
    with (folder / name).open("wb") as raw:
        file = HashingWriter(raw, progress)
        for shard in shards:
            start, data = file.bytes, _contiguous_on_cpu(shard.data)
            try:
                torch.save(data, file)  # pyright: ignore[reportArgumentType]
            except RuntimeError:  # torch hides what went wrong with the file
                raise file.error or RuntimeError(f"cannot write {folder / name}") from None
            span = (name, start, file.bytes - start)
            locations.append(
                ShardLocation(shard.name, data.dtype, shard.size, shard.offset, tuple(data.shape), *span)
            )
        fsync_open_file(raw)
    return locations, WrittenFile(name, file.bytes, file.sha256.hexdigest())


def _contiguous_on_cpu(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous, and without the rest of a larger storage, which torch.save would write too."""
    data = tensor.detach().to("cpu").contiguous()
    return data.clone() if data.untyped_storage().nbytes() != data.nbytes else data


# --------------------------------------------------------------------------- reading


class ShardReader:
    """Tensors of a checkpoint by name, whole or in part, read when asked for.

    Raises ValueError when the index is damaged, or names what lies outside the folder or a file."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.locations: dict[str, list[ShardLocation]] = {}
        for location in read_index(folder / INDEX):
            self.locations.setdefault(location.name, []).append(location)
        self._check()

    def _check(self) -> None:
        """Every shard lies within a file of the folder and is long enough; shards make up their tensors."""
        every = [location for shards in self.locations.values() for location in shards]
        sizes = {name: _file_size(self.folder, name) for name in {location.file for location in every}}
        for it in every:
            content = math.prod(it.shape) * it.dtype.itemsize
            if it.start < 0 or it.length < content or it.start + it.length > sizes[it.file]:
                raise ValueError(f"{self.folder}: {it.name} lies beyond the end of {it.file}")
            ends = zip(it.offset, it.shape, it.size, strict=True)
            if any(o < 0 or n < 0 or o + n > m for o, n, m in ends):
                raise ValueError(f"{self.folder}: a shard of {it.name} lies outside its tensor")
        for name, shards in self.locations.items():
            one = {(shard.dtype, shard.size) for shard in shards}
            if len(one) > 1 or sum(math.prod(s.shape) for s in shards) != math.prod(shards[0].size):
                raise ValueError(f"{self.folder}: the shards of {name} do not make up the tensor")

    def size(self, name: str) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        return self.locations[name][0].size

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of the tensor."""
        return self.locations[name][0].dtype

    def read_tensor(self, name: str) -> Tensor:
        """The whole tensor called `name` on the CPU."""
        first = self.locations[name][0]
        if first.shape == first.size:
            return self._read_shard(first)
        out = torch.zeros(first.size, dtype=first.dtype)
        self.read_into(name, out, (0,) * len(first.size))
        return out

    def read_into(self, name: str, out: Tensor, offset: Sequence[int]) -> None:
        """Copy into `out` the block of the tensor that starts at `offset` and has `out`'s shape."""
        for it in self.locations[name]:
            low = [max(a, b) for a, b in zip(offset, it.offset)]
            high = [min(a + n, b + m) for a, n, b, m in zip(offset, out.shape, it.offset, it.shape)]
            if all(a < b for a, b in zip(low, high)):
                source = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, it.offset))
                target = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, offset))
                out[target].copy_(self._read_shard(it)[source])

    def _read_shard(self, location: ShardLocation) -> Tensor:
        with (self.folder / location.file).open("rb") as file:
            try:
                return _read_saved_tensor(_FileRange(file, location.start, location.length), location)
            except (
                zipfile.BadZipFile,
                LookupError,
                TypeError,
                AttributeError,
                RuntimeError,
                EOFError,
            ) as error:
                text = f"{self.folder / location.file}: {location.name} cannot be read ({error})"
                raise ValueError(text) from None


def _file_size(folder: Folder, name: str) -> int:
    """Bytes of a file of the checkpoint. Raises ValueError unless it is a plain file of the folder."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"{folder}: the index names a file elsewhere: {name!r}")
    path = folder / name
    if isinstance(path, Path):
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{path}: missing, or not a plain file")
        return path.stat().st_size
    size = path.size()
    if size is None:
        raise ValueError(f"{path}: missing")
    return size


def _read_saved_tensor(file: _FileRange, location: ShardLocation) -> Tensor:
    """The tensor in a `torch.save` file, whose header is treated as data and must agree with the index."""
    with zipfile.ZipFile(file) as archive:  # pyright: ignore[reportArgumentType]
        entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        header = entries["data.pkl"]
        if header.file_size > _LARGEST_HEADER or header.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{location.name}: the tensor's header is too long")
        offset, size, stride, key = _tensor_header(parse_pickle(archive.read(header)))
        if "byteorder" in entries and archive.read(entries["byteorder"])[:6].decode() != sys.byteorder:
            raise ValueError(f"{location.name}: written by a machine of another byte order")
        info = entries[f"data/{key}"]
    count = math.prod(size)
    if size != location.shape or offset != 0 or info.file_size != count * location.dtype.itemsize:
        raise ValueError(f"{location.name}: the tensor's header does not agree with the index")
    flat = torch.empty(count, dtype=location.dtype)
    if count:
        file.read_exactly(_content_start(file, info), flat.view(torch.uint8).numpy())
    strides = _contiguous_strides(size)
    if any(s != d for n, s, d in zip(size, stride, strides) if n > 1):
        # torch saves a transposed tensor as it lies: every element once, in another order
        if sorted(zip(stride, size)) != sorted(zip(_dense_strides(stride, size), size)):
            raise ValueError(f"{location.name}: elements overlap")
        return flat.as_strided(size, stride).contiguous()
    return flat.reshape(size)


def _tensor_header(node: Any) -> tuple[int, tuple[int, ...], tuple[int, ...], str]:
    """Offset, shape, strides and the name of the content from the pickle of one tensor."""
    if not isinstance(node, PickledObject) or node.name != "torch._utils._rebuild_tensor_v2":
        raise ValueError("the file holds something else than a tensor")
    storage, offset, size, stride = node.args[:4]
    key = storage.args[2] if isinstance(storage, PickledObject) and storage.name == "persistent" else None
    if not isinstance(key, str) or not key.isdigit() or not isinstance(offset, int):
        raise ValueError("the tensor's header is damaged")
    return offset, parse_sizes(size), parse_sizes(stride), key


def _contiguous_strides(size: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))


def _dense_strides(stride: Sequence[int], size: Sequence[int]) -> list[int]:
    """Strides of a dense tensor whose axes are ordered in memory as these are."""
    order = sorted(range(len(size)), key=lambda axis: (-stride[axis], axis))
    dense = dict(zip(order, _contiguous_strides([size[axis] for axis in order])))
    return [dense[axis] for axis in range(len(size))]


def _content_start(file: _FileRange, info: zipfile.ZipInfo) -> int:
    """Where the content of a stored entry begins: after its local header of 30 bytes, name and padding."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError("the tensor is compressed")
    local = bytearray(30)
    file.read_exactly(info.header_offset, local)
    return (
        info.header_offset
        + 30
        + int.from_bytes(local[26:28], "little")
        + int.from_bytes(local[28:30], "little")
    )


class _FileRange(io.RawIOBase):
    """Some bytes of a file as a file of its own."""

    def __init__(self, file: Any, start: int, length: int) -> None:
        self.file, self.start, self.length, self.at = file, start, length, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.length}[whence])
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = min(len(view), max(0, self.length - self.at))
        self.file.seek(self.start + self.at)
        count = self.file.readinto(view[:count])
        self.at += count
        return count

    def read_exactly(self, start: int, buffer: Any) -> None:
        """Fill a buffer from byte `start` on. Raises EOFError when the range ends before."""
        view = memoryview(buffer).cast("B")
        self.seek(start)
        done = 0
        while done < len(view):
            count = self.readinto(view[done:])
            if not count:
                raise EOFError("cut short")
            done += count
