"""Triton launches: whether kernels run here, their registration as torch operations, the interpreter."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

#: Triton is installed, and so is the compiler that builds its launchers.
TRITON_AVAILABLE = importlib.util.find_spec("triton") is not None and bool(
    os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
)


#: Triton's interpreter stands in for a device: slow, and meant for tests.
TRITON_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def use_triton(tensor: Tensor, *others: Tensor) -> bool:
    """Whether Triton kernels compute on this tensor, which is not empty; `others` are further arguments."""
    if not TRITON_AVAILABLE or not (tensor.is_cuda or TRITON_INTERPRETED) or tensor.numel() == 0:
        return False
    dtypes = (torch.float32, torch.bfloat16)
    return all(one.dtype in dtypes and one.device == tensor.device for one in (tensor, *others))


def torch_op(run: Callable[..., Any]) -> Any:
    """Register a function that returns new tensors as the torch operation scalevit::<its name>; torch's
    compiler sees the kernels in it and launches them itself."""
    return torch.library.triton_op(f"scalevit::{run.__name__}", run, mutates_args=())


def launch_kernel(kernel: Any, grid: tuple[int, ...], *args: Any, **settings: Any) -> None:
    """Launch a wrapped kernel; nothing for fake tensors in the interpreter, which cannot run them."""
    if TRITON_INTERPRETED and is_fake(args[0]):
        return
    kernel[grid](*args, **settings)
