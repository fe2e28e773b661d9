"""Doctor: measurements of this machine (cores, devices, products, copies, disk, decoding) and advice."""

from __future__ import annotations

import io
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scalevit import OPENMP_SPINNING, openmp_spinning
from scalevit.config.model_sizes import shape
from scalevit.data import crops, decode
from scalevit.data.procedural.hashing import key
from scalevit.kernels.cpu import build, dispatch
from scalevit.kernels.linear import linear

#: Optional packages, what they bring, and the extra that installs them.
EXTRAS = {
    "simplejpeg": ("fast JPEG decoding", "jpeg"),
    "cv2": ("fast resizing", "jpeg"),
    "pyarrow": ("parquet", "parquet"),
    "timm": ("timm's models", "timm"),
    "onnxruntime": ("ONNX", "onnx"),
    "submitit": ("Slurm", "slurm"),
    "ray": ("Ray", "ray"),
}


def examine_machine() -> dict[str, Any]:
    """Facts and measured ceilings of this machine: cores, devices, matrix products, copies, reading of
    images, the disk, whether the C kernels are built and their matmul dtypes, and why torch.compile fails
    (None: it works)."""
    written, read = disk_speed(Path.cwd())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "blas": blas_library(),
        "bf16": bf16_path(device),
        "gflops": {name: matmul_gflops(dtype, device) for name, dtype in DTYPES.items()},
        "copy_gb_per_second": copy_speed(device),
        "decoder": decoder_names(),
        "images_per_second_per_core": decode_speed(),
        "disk_mb_per_second": {"written": written, "read": read},
        "openmp_spinning": openmp_spinning,
        "native_kernels": build.library() is not None,
        "native_products": [name for name, dtype in DTYPES.items() if dispatch.has_native_matmul(dtype)],
        "compile_fails": compile_error(device),
        "packages": {name: util.find_spec(name) is not None for name in EXTRAS},
    }


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def advice(facts: dict[str, Any]) -> list[str]:
    """Advice: settings to change, most useful first."""
    lines = []
    fp32, bf16 = facts["gflops"]["fp32"], facts["gflops"]["bf16"]
    if bf16 > 1.5 * fp32:
        lines.append(f"train.precision=bf16: matrix products run {bf16 / fp32:.1f} × as fast as in fp32 here")
    elif bf16 < fp32:
        lines.append(
            f"train.precision=fp32: bf16 matrix products reach {bf16 / fp32:.2f} of fp32's speed here"
        )
    if facts["threads"] < (facts["cores"] or 1) and facts["device"] == "cpu":
        lines.append(f"torch uses {facts['threads']} of {facts['cores']} cores: OMP_NUM_THREADS sets it")
    if facts["openmp_spinning"] == "late" and facts["device"] == "cpu":
        setting = " ".join(f"{name}={value}" for name, value in OPENMP_SPINNING.items())
        lines.append(
            "torch was imported before scalevit: OpenMP threads spin while they wait, and beside a busy "
            f"process a step takes several times as long; import scalevit first, or set {setting}"
        )
    for name, there in facts["packages"].items():
        brings, extra = EXTRAS[name]
        if not there:
            lines.append(f'no {name}: pip install "scalevit[{extra}]" brings {brings}')
    if facts["device"] == "cpu" and not facts["native_kernels"]:
        lines.append("no native kernels: with a C compiler (gcc or clang) a CPU trains faster")
    if facts["compile_fails"]:
        lines.append(f"train.compile=true does not work here: {facts['compile_fails']}")
    return lines


# --------------------------------------------------------------------------- measuring


def median_seconds(work: Callable[[], object], least: int = 3, most: float = 1.5) -> float:
    """Median time of `work` after one warm call: at least `least` calls, `most` seconds altogether."""
    work()
    times: list[float] = []
    while len(times) < least or (sum(times) < most and len(times) < 50):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def matmul_gflops(dtype: torch.dtype, device: torch.device) -> float:
    """GFLOP/s of the MLP's first product of S/16 at batch 16: the shape that training spends most time in."""
    s = shape("S/16")
    tokens = 16 * s.tokens(224)
    left = torch.randn(tokens, s.width, device=device, dtype=dtype)
    weight = torch.randn(s.mlp, s.width, device=device, dtype=dtype)

    def work() -> None:
        linear(left, weight, None)
        synchronize(device)

    return 2 * tokens * s.width * s.mlp / median_seconds(work, most=0.5) / 1e9


def copy_speed(device: torch.device) -> float:
    """GB/s of copying 64 MB, bytes read and written both counted."""
    source = torch.empty(16 * 2**20, device=device)
    target = torch.empty_like(source)

    def work() -> None:
        target.copy_(source)
        synchronize(device)

    return 2 * source.numel() * 4 / median_seconds(work, most=0.5) / 1e9


def disk_speed(folder: Path) -> tuple[float, float]:
    """MB/s of writing 64 MB to `folder`, on disk before the clock stops, and of reading them, from the disk
    where the system forgets them on request; 0 where nothing can be written."""
    block = os.urandom(2**20)
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            began = time.perf_counter()
            for _ in range(64):
                file.write(block)
            os.fsync(file.fileno())
            written = time.perf_counter() - began
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            began = time.perf_counter()
            while file.read(2**20):
                pass
            return 64 * 1.048576 / written, 64 * 1.048576 / (time.perf_counter() - began)
    except OSError:
        return 0.0, 0.0


def blas_library() -> str:
    """Names of torch's BLAS libraries."""
    built = torch.__config__.show()
    found = re.search(r"BLAS_INFO=(\w+)", built)
    dnn = re.search(r"MKL-DNN v([\d.]+)", built)
    return " and ".join([found[1] if found else "unknown", *([f"oneDNN {dnn[1]}"] if dnn else [])])


def bf16_path(device: torch.device) -> str:
    """Instructions that compute bf16 matrix products on this device."""
    if device.type == "cuda":
        return "tensor cores" if torch.cuda.is_bf16_supported(including_emulation=False) else "emulated"
    for name, words in INSTRUCTIONS.items():
        if any(word in _cpu_flags() for word in words):
            return name
    return "emulated in fp32"


#: Instructions for bf16 products, fastest first, by their flags in Linux's /proc/cpuinfo.
INSTRUCTIONS = {"AMX": ("amx_bf16",), "AVX512-bf16": ("avx512_bf16",), "Arm bf16": ("bf16",)}


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


def decoder_names() -> str:
    """Names of the libraries that decode JPEGs and resize."""
    return f"{'simplejpeg' if decode.simplejpeg else 'Pillow'}, {'OpenCV' if crops.cv2 else 'Pillow'}"


def decode_speed() -> float:
    """Reading speed in images a second and core: a JPEG of 500 × 375 pixels, random crop, 224 × 224."""
    waves = np.add.outer(np.sin(np.arange(375) / 9), np.cos(np.arange(500) / 7))[..., None]
    noise = np.random.default_rng(0).normal(0, 12, (375, 500, 3))
    pixels = np.clip(128 + 50 * waves + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    jpeg, keys = file.getvalue(), [int(one) for one in key(0, np.arange(16))]

    def work() -> None:
        for one in keys:
            crops.train_view(jpeg, "", 224, one)

    return len(keys) / median_seconds(work, most=0.3)


def compile_error(device: torch.device) -> str | None:
    """Why torch.compile fails here, in one line; None when a small function comes out right."""
    given = torch.arange(64.0, device=device)
    try:
        made = torch.compile(lambda x: torch.sin(x) * 2 + x)(given)
    except Exception as error:  # a missing compiler, header or Triton: each raises its own
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    right = torch.allclose(made, torch.sin(given) * 2 + given, atol=1e-4)
    return None if right else "a small function came out wrong"


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
