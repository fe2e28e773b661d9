"""Dispatch to the C kernels: which tensors they take, and calls with tensors as addresses."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.utils._python_dispatch import _get_current_dispatch_mode

from scalevit.kernels.cpu.build import library
from scalevit.kernels.fake_device import is_cpu

#: Tensors of fewer numbers are left to torch: a call from Python costs more than it saves.
MIN_ELEMENTS = 1 << 14


#: Rows that a product takes at once, as in matmul_tile.h.
TILE_ROWS = 6


#: Rows that one sum of a gradient covers, as in dtypes.h.
ROWS_PER_SUM = 32


#: How the sources are told a dtype.
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}


def is_available(device: torch.device) -> bool:
    """Whether native kernels run on this device's memory."""
    return is_cpu(device) and library() is not None


def use_native(tensor: Tensor, *others: Tensor) -> bool:
    """Whether a C kernel computes on this tensor: not on one that is small, empty, traced, or without memory.
    `others` are further arguments, of any size."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_fake(tensor):
        return False
    if torch._C._are_functorch_transforms_active():  # vmap and the like see through torch's operations only
        return False
    if tensor.numel() < max(1, MIN_ELEMENTS) or not is_available(tensor.device):
        return False
    return all(_has_plain_memory(argument, tensor.device) for argument in (tensor, *others))


def _has_plain_memory(tensor: Tensor, device: torch.device) -> bool:
    """Whether a tensor is one of numbers that the sources read, in memory of this device."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
    return plain and tensor.dtype in DTYPE_CODES and tensor.device == device


def use_native_matmul(x: Tensor, dtype: torch.dtype, rows: int, *terms: int) -> bool:
    """Whether to compute products in `dtype` natively that begin with x: of so many rows, with so many terms
    a sum. bf16 takes two terms at once. What looks at torch's operations, as selective recomputing does, is
    to find torch's."""
    if rows < TILE_ROWS or any(count % 2 for count in terms) or not use_native(x):
        return False
    return has_native_matmul(dtype) and _get_current_dispatch_mode() is None


def has_native_matmul(dtype: torch.dtype) -> bool:
    """Whether this processor has what native products in a dtype need, and no matrix units for torch's."""
    found = library()
    return found is not None and dtype in DTYPE_CODES and bool(found.multiplies(DTYPE_CODES[dtype]))


def row_blocks(rows: int) -> int:
    """Sums that cover so many rows."""
    return -(-rows // ROWS_PER_SUM)


def call(function: str, *arguments: Any) -> None:
    """Run a compiled function on as many threads as torch has. Tensors are passed by address, dtypes as
    kinds, None as no address."""
    found = library()
    assert found is not None
    getattr(found, function)(*map(_passed, arguments), ctypes.c_int(torch.get_num_threads()))


def _passed(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        assert argument.is_contiguous()
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    if isinstance(argument, torch.dtype):
        return ctypes.c_int(DTYPE_CODES[argument])
    return ctypes.c_void_p(None) if argument is None else ctypes.c_int64(argument)
