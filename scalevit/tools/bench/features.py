"""Feature extraction as `scalevit probe` does it, beside the bare network on batches that are ready.

What extraction adds is stacking, scaling to floats and handing over; the ratio says whether that keeps the
network waiting. The images are synthetic, in memory, of the network's own size.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from scalevit.config.run import Model
from scalevit.evals.backbones import LAST_LAYER, of_vit
from scalevit.evals.features import BATCH, extract
from scalevit.model.vit import ViT
from scalevit.tools.bench.interleaved import (
    bench_device,
    busy_note,
    device_name,
    rounds_spread,
    time_interleaved,
    uses_process_time,
)  # fmt: skip


def measure(shape: str, image: int, images: int, rounds: int, threads: int) -> dict[str, Any]:
    """Images a second of both candidates, each the best of `rounds`, and their ratio. One CPU thread is timed
    by the process's own time: neighbours do not count, nor is what other threads prepare free."""
    if min(images, rounds, threads) < 1:
        raise ValueError("--images, --rounds and --threads must be at least 1")
    torch.set_num_threads(threads)
    device = bench_device()
    model = ViT(Model(shape=shape, image=image, classes=0), device=device)
    count = -(-images // BATCH) * BATCH
    pixels = np.random.default_rng(0).integers(0, 256, (count, image, image, 3), np.uint8)
    candidates = {"network": partial(_bare, model, count), "extraction": partial(_extract, model, pixels)}
    seconds = time_interleaved(candidates, rounds, threads, device)
    speeds = {name: count / min(spent) for name, spent in seconds.items()}
    return {
        "shape": shape, "image": image, "images": count, "rounds": rounds, "threads": threads,
        "device": device_name(device),
        "clock": "process" if uses_process_time(threads, device) else "wall", "images_per_second": speeds,
        "ratio": speeds["extraction"] / speeds["network"], "missing": {},
        "rounds_spread": rounds_spread(seconds),
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The figures as text."""
    speeds, device = found["images_per_second"], f"{found['device']}, {found['threads']} thread(s)"
    return "\n".join(
        [
            f"features of {found['shape']} at {found['image']} px, {device}, best of {found['rounds']}, "
            f"{found['clock']} time",
            f"{'':<14}{'images/s':>10}{'× network':>11}",
            f"{'bare network':<14}{speeds['network']:>10.1f}{1:>11.3f}",
            f"{'extraction':<14}{speeds['extraction']:>10.1f}{found['ratio']:>11.3f}",
            *busy_note(found["rounds_spread"]),
        ]
    )


def _bare(model: ViT, count: int) -> None:
    side = model.config.image
    ready = torch.zeros(BATCH, 3, side, side, device=next(model.parameters()).device)
    with torch.inference_mode():
        for _ in range(count // BATCH):
            last = model.features(ready)
    last.cpu()


def _extract(model: ViT, pixels: np.ndarray) -> None:
    extract(of_vit(model, "model"), pixels, whole=True, layers=(LAST_LAYER,))
