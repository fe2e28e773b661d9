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

import torch

from scalevit.artifacts.atomic_write import fsync_file, fsync_folder
from scalevit.artifacts.cache_folder import cache_folder, cache_location

SOURCES = sorted(Path(__file__).parent.glob("*.c"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
#: What lets loops with choices and roots become vectors. That numbers are finite is said to compilers alone:
#: the sources keep what is not (tests/test_native.py).
COMPILER_FLAGS = (
    "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-freciprocal-math",
    "-ffinite-math-only", "-fPIC", "-fopenmp",
)  # fmt: skip


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
    folder = cache_folder("native")
    if folder is None:
        raise OSError(f"{cache_location()} cannot be written; SCALEVIT_CACHE names another folder")
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"{folder} can be written by others")
    return folder


def _fingerprint(compiler: str) -> str:
    """Of all that the library depends on; homes are shared by machines with different processors."""
    about = Path(compiler).stat()
    parts = [file.read_text() for file in (*SOURCES, *HEADERS)]
    parts += [*COMPILER_FLAGS, compiler, str(about.st_size), str(about.st_mtime_ns)]
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
            [*compiler, *COMPILER_FLAGS, "-c", str(source), "-o", str(made)]
            for source, made in zip(SOURCES, objects, strict=True)
        ]
        with ThreadPoolExecutor() as at_once:
            list(at_once.map(_run, steps))
        _run([*compiler, "-shared", *map(str, objects), *openmp, "-lm", "-o", str(linked)])
        fsync_file(linked)
        linked.replace(kept)
        fsync_folder(kept.parent)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
