"""What this machine's processor and compiler offer, and skips that name what would be needed."""

import os
from pathlib import Path

import pytest
import torch

from scalevit.kernels.cpu import build, dispatch


def _processor_flags():
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return set(next((line for line in lines if line.lower().startswith(("flags", "features"))), "").split())


#: Instruction sets of the processor, by Linux's names.
FLAGS = _processor_flags()
#: CC leaves instructions out, as `CC="cc -mno-avx512f"` does to test the code of other processors.
COMPILER_IS_LIMITED = "-mno-" in os.environ.get("CC", "")
#: What the C products of each dtype need.
NEEDS = {
    "fp32": "a processor with AVX-512",
    "bf16": "a processor with AVX512-bf16 and without AMX (with it: CC='cc -mno-amx-bf16')",
}


def require_native():
    """Skip a test where no C kernels are built."""
    if build.library() is None:
        pytest.skip("needs C kernels: Linux, a C compiler, and SCALEVIT_NATIVE other than 0")


def require_native_matmul(precision):
    """Skip a test where there is no C product of this precision."""
    require_native()
    if not dispatch.has_native_matmul({"fp32": torch.float32, "bf16": torch.bfloat16}[precision]):
        pytest.skip(f"needs {NEEDS[precision]}")
