"""Which dtype computes, and what a device could compute at best.

Weights, gradients and their reductions are fp32 always; "bf16" only lets matrix products and what torch
counts as safe compute in bf16 (autocast), so resuming and averaging never see rounded weights. "fp8" is the
same, with linear layers of the blocks in eight bits where that is faster (fp8.py, fp8choice.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from scalevit.config.devices import peak_from_driver
from scalevit.kernels.triton.launch import TRITON_AVAILABLE

#: The first compute capability whose tensor cores multiply eight-bit floats: Ada; then Hopper, Blackwell.
FP8_SINCE = (8, 9)


def precision_errors(precision: str) -> list[str]:
    """Why this machine cannot compute so."""
    if precision != "fp8":
        return []
    found = "no GPU"
    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        if capability >= FP8_SINCE and TRITON_AVAILABLE:
            return []
        found = f"{torch.cuda.get_device_name()} ({'.'.join(map(str, capability))})"
        found += "" if TRITON_AVAILABLE else " without Triton or its C compiler"
    return [
        "train.precision=fp8 needs Triton and a GPU of compute capability 8.9 or later (Ada, Hopper, "
        f"Blackwell), found {found}; use train.precision=bf16"
    ]


def autocast_for(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context in which forward passes run: "fp32", "bf16" or "fp8" """
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


#: On CPUs: a product and a sum may be one operation, as in torch's own kernels; and what tracing has settled
#: about sizes is not asked again at every call.
COMPILER = {
    "cpp.enable_floating_point_contract_flag": "fast",
    "size_asserts": False,
    "alignment_asserts": False,
}


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Have each block compiled when it is first called; alike ones share their code."""
    for block in blocks:
        block.compile(options=COMPILER)


def eager(compiled: bool) -> AbstractContextManager[object]:
    """The context in which a model that trains compiled is measured: without gradients, and with batches of
    other sizes, it would be compiled again for each."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """The context in which the same step gives the same bits on a GPU, too: torch takes an operation's slower
    implementation where the fast one does not, and refuses where it has none."""
    if not wanted:
        yield  # and torch is not asked: it would load its compiler, which takes a second
        return
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def peak_flops(precision: str, device: torch.device) -> float | None:
    """FLOP/s that this device's maker promises at this precision; None when unknown, as for every CPU."""
    if precision == "fp32" or device.type != "cuda":
        return None
    peak = peak_from_driver(torch.cuda.get_device_name(device))
    return 2 * peak if peak and precision == "fp8" else peak
