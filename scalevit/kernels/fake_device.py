"""A CPU that stands in for an accelerator: a rehearsal takes the choices that the run will take there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch

_PRETENDING = ContextVar("pretending", default=False)


@contextlib.contextmanager
def fake_accelerator() -> Iterator[None]:
    """While this holds, `is_cpu` is false."""
    token = _PRETENDING.set(True)
    try:
        yield
    finally:
        _PRETENDING.reset(token)


def is_cpu(device: torch.device) -> bool:
    """Whether to choose as on a CPU: which attention is fast, and whether to work in pieces for a cache."""
    # the compiler cannot read the variable, and would cut a block in pieces to ask for it
    return device.type == "cpu" and (torch.compiler.is_compiling() or not _PRETENDING.get())
