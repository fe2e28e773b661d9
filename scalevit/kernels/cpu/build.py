"""The C files beside this one, compiled for this processor when they are first needed, and kept.

Torch's compiler needs a C++ compiler, too; where there is none, or this one fails, plain PyTorch computes the
same. SCALEVIT_NATIVE=0 asks for that.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.utils._python_dispatch import _get_current_dispatch_mode

from scalevit.kernels.fake_device import is_cpu

SOURCES = sorted(Path(__file__).parent.glob("*.c"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
#: What lets loops with choices and roots become vectors. That numbers are finite is said to compilers alone:
#: the sources keep what is not (tests/test_native.py).
FLAGS = (
    "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-freciprocal-math",
    "-ffinite-math-only", "-fPIC", "-fopenmp",
)  # fmt: skip
#: Tensors of fewer numbers are left to torch: a call from Python costs more than it saves.
SMALL = 1 << 14
#: Rows that a product takes at once, as in tile.h.
TALL = 6
#: Rows that one sum of a gradient covers, as in native.c.
ROWS = 32
#: How the sources are told a dtype.
KINDS = {torch.float32: 0, torch.bfloat16: 1}


def available(device: torch.device) -> bool:
    """Whether native kernels run on this device's memory."""
    return is_cpu(device) and library() is not None


def usable(tensor: Tensor) -> bool:
    """Whether to compute on this tensor natively: none that is small, traced, or without memory."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_fake(tensor):
        return False
    if torch._C._are_functorch_transforms_active():  # vmap and the like see through torch's operations only
        return False
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.dtype in KINDS
    return plain and tensor.numel() >= SMALL and available(tensor.device)


def multiplies(x: Tensor, dtype: torch.dtype, rows: int, *terms: int) -> bool:
    """Whether to compute products in `dtype` natively that begin with x: of so many rows, with so many terms
    a sum. bf16 takes two terms at once. What looks at torch's operations, as selective recomputing does, is
    to find torch's."""
    if rows < TALL or any(count % 2 for count in terms) or not usable(x):
        return False
    return multiplies_in(dtype) and _get_current_dispatch_mode() is None


def multiplies_in(dtype: torch.dtype) -> bool:
    """Whether this processor has what native products in a dtype need, and no matrix units for torch's."""
    found = library()
    return found is not None and dtype in KINDS and bool(found.multiplies(KINDS[dtype]))


def blocks(rows: int) -> int:
    """Sums that cover so many rows."""
    return -(-rows // ROWS)


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
        return ctypes.c_int(KINDS[argument])
    return ctypes.c_void_p(None) if argument is None else ctypes.c_int64(argument)


# --------------------------------------------------------------------------- building


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled sources; None without a compiler, or with one that fails, which is said once."""
    named = shlex.split(os.environ.get("CC") or "cc")
    compiler = shutil.which(named[0])
    if compiler is None or not sys.platform.startswith("linux") or os.environ.get("SCALEVIT_NATIVE") == "0":
        return None
    try:
        kept = _folder() / f"native-{_fingerprint(compiler)}.so"
        if not kept.exists():
            _build([compiler, *named[1:]], kept)
        return ctypes.CDLL(str(kept))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: nobody's home
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        why = said.splitlines()[0] if said else type(error).__name__
        warnings.warn(
            f"{compiler} could not build the native kernels ({why}); PyTorch's are used", stacklevel=2
        )
        return None


def _folder() -> Path:
    """Where libraries are kept; nobody else may write there, since what lies in it is run."""
    folder = Path(os.environ.get("SCALEVIT_CACHE") or Path.home() / ".cache" / "scalevit") / "native"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"{folder} can be written by others")
    return folder


def _fingerprint(compiler: str) -> str:
    """Of all that the library depends on; homes are shared by machines with different processors."""
    about = Path(compiler).stat()
    parts = [file.read_text() for file in (*SOURCES, *HEADERS)]
    parts += [*FLAGS, compiler, str(about.st_size), str(about.st_mtime_ns)]
    parts += [torch.__version__, platform.machine(), _features()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _features() -> str:
    """The instruction sets of this processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")


def _build(compiler: list[str], kept: Path) -> None:
    """Compile, and put the result in its place when it is whole. Torch's own OpenMP is linked, so that both
    work with the same threads."""
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        linked = Path(scratch) / "native.so"
        objects = [Path(scratch) / f"{source.stem}.o" for source in SOURCES]
        ours = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
        openmp = [str(ours[0])] if ours else ["-fopenmp"]
        steps = [
            [*compiler, *FLAGS, "-c", str(source), "-o", str(made)]
            for source, made in zip(SOURCES, objects, strict=True)
        ]
        with ThreadPoolExecutor() as at_once:
            list(at_once.map(_run, steps))
        _run([*compiler, "-shared", *map(str, objects), *openmp, "-lm", "-o", str(linked)])
        linked.replace(kept)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
