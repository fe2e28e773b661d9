"""Local shards of tensors (DTensor): which elements are on this rank, as slices of the whole tensor.

FSDP2 gives each rank some rows of the first dimension, wherever that falls (also through the middle of an
attention head), and optimizers work through a parameter in chunks. Both are a range of a row-major array, and
a range of a row-major array is a short list of rectangular slices.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scalevit.artifacts import dcp

#: First and last index + 1 along each dimension.
Slices = tuple[slice, ...]


def slices_of_range(shape: tuple[int, ...], start: int, stop: int, most: int) -> Iterator[Slices]:
    """Slices of at most `most` elements that together are the elements start … stop of a row-major array."""
    if not shape:
        yield ()
        return
    inner = math.prod(shape[1:])
    whole = tuple(slice(0, size) for size in shape[1:])
    while start < stop:
        index, within = divmod(start, inner)
        if within or stop - start < inner or inner > most:
            end = min(stop, (index + 1) * inner)
            for box in slices_of_range(shape[1:], within, end - index * inner, most):
                yield (slice(index, index + 1), *box)
        else:
            end = start + min((stop - start) // inner, most // inner) * inner
            yield (slice(index, end // inner), *whole)
        start = end


@dataclass(frozen=True)
class ElementRange:
    """Elements start … stop of a parameter that are on this rank; group: the ranks of one parameter."""

    start: int
    stop: int
    group: dist.ProcessGroup | None


def local_tensor(tensor: Tensor) -> Tensor:
    """The local part of a DTensor, or the tensor itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


def is_sharded(tensor: Tensor) -> bool:
    """Whether this is a DTensor, without importing that class, which costs half a second."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_range(parameter: Tensor) -> ElementRange:
    """Which elements of a parameter are on this rank. Raises ValueError for a sharding other than FSDP2's."""
    if not is_sharded(parameter):
        return ElementRange(0, parameter.numel(), None)
    from torch.distributed.tensor import DTensor, Shard

    assert isinstance(parameter, DTensor)
    mesh, cuts = parameter.device_mesh, [(d, p) for d, p in enumerate(parameter.placements) if p.is_shard()]
    if len(cuts) != 1 or cuts[0][1] != Shard(0):
        raise ValueError(
            f"parameters must be sharded once, along dimension 0, as FSDP2 does; found {parameter.placements}"
        )
    axis = cuts[0][0]
    rows, row = parameter.shape[0], math.prod(parameter.shape[1:])
    share = math.ceil(rows / mesh.size(axis))  # as torch.chunk: the last ones get less, or nothing
    first = min(rows, share * mesh.get_local_rank(axis))
    return ElementRange(first * row, min(rows, first + share) * row, mesh.get_group(axis))


def read_local(target: Tensor, reader: dcp.ShardReader, name: str) -> None:
    """Read this rank's part of a tensor from a checkpoint of any number of ranks."""
    share = local_tensor(target)
    part = torch.empty(share.shape, dtype=reader.dtype(name))
    reader.read_into(name, part, global_offset(target) if is_sharded(target) else (0,) * part.ndim)
    share.copy_(part)


def copy_local(target: Tensor, whole: Tensor) -> None:
    """Copy this rank's part of the unsharded tensor `whole` into a tensor."""
    share = local_tensor(target)
    offset = global_offset(target) if is_sharded(target) else (0,) * whole.ndim
    share.copy_(whole[tuple(slice(o, o + n) for o, n in zip(offset, share.shape))])


def global_offset(tensor: Any) -> tuple[int, ...]:
    """Index of the local part's first element within the whole DTensor."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(offset)
