"""Triton kernels for accelerators, where the compiler leaves time. Each has a twin in plain PyTorch that is its
reference, and that computes wherever a kernel cannot."""

from __future__ import annotations

import importlib.util
import os
from functools import cache

from torch import Tensor


def usable(tensor: Tensor) -> bool:
    """Whether Triton's kernels can work on this tensor: on CUDA, or anywhere in Triton's interpreter."""
    return (tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1") and _installed()


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
