"""Fake device: a CPU that stands in for an accelerator, so that a memory dry run chooses as the run will."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch

_FAKE = ContextVar("fake_device", default=False)


@contextlib.contextmanager
def fake_accelerator() -> Iterator[None]:
    """Context in which `is_cpu` is false for every device."""
    token = _FAKE.set(True)
    try:
        yield
    finally:
        _FAKE.reset(token)


def is_cpu(device: torch.device) -> bool:
    """Whether to choose implementations as on a CPU: attention by matrix products, updates in cache-sized
    chunks."""
    # the compiler cannot read the variable, and would cut a block in pieces to ask for it
    return device.type == "cpu" and (torch.compiler.is_compiling() or not _FAKE.get())
