"""A CPU that stands in for an accelerator: a rehearsal takes the choices that the run will take there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch

_PRETENDING = ContextVar("pretending", default=False)


@contextlib.contextmanager
def accelerator() -> Iterator[None]:
    """While this holds, `is_cpu` is false."""
    token = _PRETENDING.set(True)
    try:
        yield
    finally:
        _PRETENDING.reset(token)


def is_cpu(device: torch.device) -> bool:
    """Whether to choose as on a CPU: which attention is fast, and whether to work in pieces for a cache."""
    return device.type == "cpu" and not _PRETENDING.get()
