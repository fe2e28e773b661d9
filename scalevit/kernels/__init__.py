"""What is done faster than by torch's operations and its compiler: in Triton on accelerators, in C on CPUs.

A file a calculation: what callers use, with its twin in plain PyTorch, which is the reference, and the
fallback wherever `usable` and `native.usable` say no. Triton's kernels are beside it, in the file that ends
in _triton and is imported where it is used, since Triton is not everywhere; those of the C files are called
from the file that ends in _native: linear's are in products.c, attention's in attention.c, all others in
native.c. (The twins of updates, of attention and of fp8 are the optimizers, attention.py and fp8.py
themselves.) benchmarks/kernels.py compares Triton's with their twins, in numbers and in time.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

#: Triton is there, and what it builds its launchers with.
INSTALLED = importlib.util.find_spec("triton") is not None and bool(
    os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
)
#: Triton's interpreter stands in for a device: slow, and meant for tests.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def usable(tensor: Tensor) -> bool:
    """Whether kernels are to be run on this tensor."""
    return INSTALLED and (tensor.is_cuda or INTERPRETED) and tensor.dtype in (torch.float32, torch.bfloat16)


def computes_in(tensor: Tensor) -> torch.dtype:
    """The dtype that a matrix product with this tensor gives: autocast's where that is on."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def operation(run: Callable[..., Any]) -> Any:
    """Make an operation of torch, called scalevit::<its name>, of a function that gives new tensors; torch's
    compiler sees the kernels in it and launches them itself."""
    return torch.library.triton_op(f"scalevit::{run.__name__}", run, mutates_args=())


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **settings: Any) -> None:
    """Run a wrapped kernel. The interpreter cannot do so on tensors without memory, and need not."""
    if INTERPRETED and is_fake(args[0]):
        return
    kernel[grid](*args, **settings)
