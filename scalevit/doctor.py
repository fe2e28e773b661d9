"""What this machine can do, measured in a few seconds, and what limits a given run on it."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import torch

from scalevit.config import Run
from scalevit.fp8choice import Choice, choose
from scalevit.shapes import shape

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


def examine() -> dict[str, Any]:
    """Facts and ceilings: cores, devices, matrix products and copies as fast as they get here, the disk."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gflops": {name: matmul_gflops(dtype, device) for name, dtype in DTYPES.items()},
        "copy_gb_per_second": copy_speed(device),
        "disk_mb_per_second": disk_speed(Path.cwd()),
        "compiler": bool(shutil.which("c++") or shutil.which("clang++")),
        "packages": {name: util.find_spec(name) is not None for name in EXTRAS},
    }


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def advice(facts: dict[str, Any]) -> list[str]:
    """What to change, most useful first."""
    found = []
    fp32, bf16 = facts["gflops"]["fp32"], facts["gflops"]["bf16"]
    if bf16 > 1.5 * fp32:
        found.append(f"train.precision=bf16: matrix products run {bf16 / fp32:.1f} × as fast as in fp32 here")
    elif bf16 < fp32:
        found.append(
            f"train.precision=fp32: bf16 matrix products reach {bf16 / fp32:.2f} of fp32's speed here"
        )
    if facts["threads"] < (facts["cores"] or 1) and facts["device"] == "cpu":
        found.append(f"torch uses {facts['threads']} of {facts['cores']} cores: OMP_NUM_THREADS sets it")
    for name, there in facts["packages"].items():
        brings, extra = EXTRAS[name]
        if not there:
            found.append(f'no {name}: pip install "scalevit[{extra}]" brings {brings}')
    if not facts["compiler"]:
        found.append("no C++ compiler: train.compile=true will not work on the CPU")
    return found


def limits(run: Run) -> dict[str, Any]:
    """Seconds of one training step without its data, and of one batch without its step, for `run` here.

    The larger one limits the run when the loader works ahead; both add up when it does not (workers=0)."""
    from scalevit.data.sources import batches_of
    from scalevit.losses import LOSSES
    from scalevit.model import ViT
    from scalevit.precision import compute_in

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, side = ViT(run.model, device=device), run.model.image
    share = run.train.micro_batch or run.train.batch
    images = torch.rand(share, 3, side, side, device=device) * 2 - 1
    labels = torch.zeros(share, dtype=torch.long, device=device)

    def step() -> None:
        with compute_in(run.train.precision, device):
            loss = LOSSES[run.train.loss](model(images), labels)
        loss.backward()
        _wait(device)

    batches = batches_of(run.data, image=side, classes=run.model.classes, batch=share)
    steps = iter(range(10**9))
    computing, loading = seconds(step), seconds(lambda: batches[next(steps)])
    together = max(computing, loading) if run.data.workers else computing + loading
    return {
        "step_seconds": computing,
        "batch_seconds": loading,
        "images_per_second": share / together,
        "limited_by": "the model" if computing >= loading else "the data",
    }


def layers(run: Run) -> list[Choice]:
    """How each linear layer of the run's blocks is fastest here; empty where nothing computes in fp8, and for
    a run in fp32."""
    from scalevit.precision import mistakes

    if run.train.precision == "fp32" or mistakes("fp8"):
        return []
    return choose(run, 1, torch.device("cuda"))


def verdict(run: Run, found: dict[str, Any]) -> str:
    """One sentence on what limits `run` here and what would help."""
    computing, loading = found["step_seconds"], found["batch_seconds"]
    said = (
        f"{run.name}: limited by {found['limited_by']}: a micro-batch takes {computing:.3f} s to compute and "
        f"{loading:.3f} s to load, {found['images_per_second']:.0f} images/s"
    )
    if not run.data.workers and loading > 0.1 * computing:
        gain = (computing + loading) / max(computing, loading)
        return f"{said}; data.workers=1 should give {gain:.2f} ×"
    if run.data.workers and loading > computing:
        return f"{said}; more data.workers help while cores are free"
    return said


# --------------------------------------------------------------------------- measuring


def seconds(work: Callable[[], object], least: int = 3, most: float = 1.5) -> float:
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
    right = torch.randn(s.width, s.mlp, device=device, dtype=dtype)

    def work() -> None:
        _ = left @ right
        _wait(device)

    return 2 * tokens * s.width * s.mlp / seconds(work, most=0.5) / 1e9


def copy_speed(device: torch.device) -> float:
    """GB/s of copying 64 MB, bytes read and written both counted."""
    source = torch.empty(16 * 2**20, device=device)
    target = torch.empty_like(source)

    def work() -> None:
        target.copy_(source)
        _wait(device)

    return 2 * source.numel() * 4 / seconds(work, most=0.5) / 1e9


def disk_speed(folder: Path) -> float:
    """MB/s of writing 64 MB to `folder`, on disk before the clock stops; 0 where it cannot be written."""
    block = os.urandom(2**20)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            began = time.perf_counter()
            for _ in range(64):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            return 64 * 1.048576 / (time.perf_counter() - began)
    except OSError:
        return 0.0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
