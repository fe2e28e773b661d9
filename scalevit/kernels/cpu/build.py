"""Building and loading the C kernels: compiled for this processor at first need, and cached.

The cache holds code that is run, so it is trusted by descriptor and by content, never by path: the folder is
opened once and must belong to this user and be writable by nobody else; a library's name holds the hash of
its bytes, which is checked on the descriptor that is loaded. Torch's compiler needs a C++ compiler, too;
without a working compiler plain PyTorch computes the same. SCALEVIT_NATIVE=0 asks for that."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import secrets
import shlex
import shutil
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from scalevit.artifacts.cache_folder import cache_folder, cache_location

SOURCES = sorted(Path(__file__).parent.glob("*.c"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
#: Flags that let loops with branches and roots be vectorised. `-ffinite-math-only` is for the compiler alone:
#: the sources pass on NaN and infinities (tests/kernels/test_cpu.py).
COMPILER_FLAGS = (
    "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-freciprocal-math",
    "-ffinite-math-only", "-fPIC", "-fopenmp",
)  # fmt: skip
#: Prefix of a build's folder, and the seconds after which one that a killed process has left is removed.
STAGING, STALE = ".build-", 3600.0


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None without a compiler, or, after one warning, with one that fails."""
    command = shlex.split(os.environ.get("CC") or "cc")
    compiler = shutil.which(command[0])
    if compiler is None or not sys.platform.startswith("linux") or os.environ.get("SCALEVIT_NATIVE") == "0":
        return None
    try:
        folder = cache_folder("native")
        if folder is None:
            raise OSError(f"{cache_location()} cannot be written; SCALEVIT_CACHE names another folder")
        return cached_library(folder, [compiler, *command[1:]])
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        reason = said.splitlines()[0] if said else type(error).__name__
        warnings.warn(
            f"{compiler} could not build the native kernels ({reason}); PyTorch's are used", stacklevel=2
        )
        return None


def cached_library(
    folder: Path, compiler: Sequence[str], flags: Sequence[str] = COMPILER_FLAGS
) -> ctypes.CDLL:
    """Load the library for this compiler, these flags and this processor from `folder`; build it when it is
    missing or damaged. Raises OSError where the folder cannot be trusted or written."""
    with _trusted(folder) as root:
        key = build_key(compiler, flags)
        for _ in range(2):
            for name in sorted(_names_in(root)):
                if name.startswith(f"native-{key}-") and (loaded := _load(root, name)) is not None:
                    return loaded
            _build(root, key, compiler, flags)
    raise OSError(f"a library that was built in {folder} is not what is there")


# --------------------------------------------------------------------------- trust


@contextlib.contextmanager
def _trusted(folder: Path) -> Iterator[int]:
    """A descriptor of the folder, checked to be this user's and writable by nobody else. All that follows
    goes through the descriptor, so that nobody can exchange the folder after the check."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _is_ours(os.fstat(root)):
            raise OSError(f"{folder} can be written by others")
        yield root
    finally:
        os.close(root)


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _load(root: int, name: str) -> ctypes.CDLL | None:
    """The library of this name, if its bytes have the hash that the name holds; else the file is removed.

    The descriptor that was hashed is the one that is loaded. It stays open: the loader knows libraries by
    name, and the name of this one is its descriptor's number."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    except OSError:
        return None
    status = os.fstat(file)
    if stat.S_ISREG(status.st_mode) and _is_ours(status) and name == library_name(_key_in(name), file):
        return ctypes.CDLL(f"/proc/self/fd/{file}")
    os.close(file)
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=root)
    return None


def library_name(key: str, file: int) -> str:
    """File name of the library behind a descriptor: what it was built from, and the hash of its bytes."""
    digest, at = hashlib.sha256(), 0
    while block := os.pread(file, 1 << 20, at):
        digest.update(block)
        at += len(block)
    return f"native-{key}-{digest.hexdigest()}.so"


def _key_in(name: str) -> str:
    return name.split("-")[1]


# --------------------------------------------------------------------------- building


def build_key(compiler: Sequence[str], flags: Sequence[str]) -> str:
    """Hash of everything that the library depends on: sources, compiler with its arguments, flags, torch and
    processor. Homes are shared by machines with different processors."""
    about = Path(compiler[0]).stat()
    parts = [file.read_text() for file in (*SOURCES, *HEADERS)]
    parts += [*flags, "", *compiler, str(about.st_size), str(about.st_mtime_ns)]
    parts += [torch.__version__, platform.machine(), _processor_features()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _processor_features() -> str:
    """The instruction sets of this processor, as Linux lists them."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")


def _build(root: int, key: str, compiler: Sequence[str], flags: Sequence[str]) -> None:
    """Compile in a folder of its own and move the library to its name when its bytes are on the disk, so that
    builders at the same time do not meet and a power failure leaves nothing half written. Torch's own OpenMP
    is linked: both work with the same threads."""
    _remove_stale(root)
    staging = STAGING + secrets.token_hex(8)
    os.mkdir(staging, 0o700, dir_fd=root)
    here = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    try:
        ours = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
        openmp = [str(ours[0])] if ours else ["-fopenmp"]
        objects = [f"{source.stem}.o" for source in SOURCES]
        steps = [
            [*compiler, *flags, "-c", str(source), "-o", name]
            for source, name in zip(SOURCES, objects, strict=True)
        ]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda step: _run(step, here), steps))
        linker = [flag for flag in flags if flag.startswith("-fsanitize")]
        _run([*compiler, *linker, "-shared", *objects, *openmp, "-lm", "-o", "native.so"], here)
        file = os.open("native.so", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        try:
            os.fchmod(file, 0o700)
            os.fsync(file)
            os.rename("native.so", library_name(key, file), src_dir_fd=here, dst_dir_fd=root)
            os.fsync(root)
        finally:
            os.close(file)
    finally:
        os.close(here)
        _remove(root, staging)


def _run(command: Sequence[str], here: int) -> None:
    subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=120, cwd=f"/proc/self/fd/{here}",
        pass_fds=(here,),
    )  # fmt: skip


def _names_in(folder: int) -> list[str]:
    """Names of the files in the folder behind a descriptor."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _remove_stale(root: int) -> None:
    """Remove the folders of builds that were killed."""
    for name in _names_in(root):
        if name.startswith(STAGING):
            with contextlib.suppress(OSError):
                age = time.time() - os.stat(name, dir_fd=root, follow_symlinks=False).st_mtime
                if age > STALE:
                    _remove(root, name)


def _remove(root: int, name: str) -> None:
    """Remove a build's folder of plain files."""
    with contextlib.suppress(OSError):
        here = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
        try:
            for file in _names_in(here):
                os.unlink(file, dir_fd=here)
        finally:
            os.close(here)
        os.rmdir(name, dir_fd=root)
