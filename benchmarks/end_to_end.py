"""Training steps from JPEG tars beside the same steps on a batch that is in memory.

    OMP_NUM_THREADS=1 python benchmarks/end_to_end.py --model S/16 --rounds 9

Photographs of 500 × 375 pixels are written as JPEGs in folders, packed into tars and indexed, and read by the
loader that `scalevit pretrain` uses, decoded, cropped and mirrored. Both ways take turns in one process; with
one thread its own processor time counts, in which the loader's work is contained.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from scalevit import config
from scalevit.cli.main import main as scalevit
from scalevit.data.loader import as_floats
from scalevit.data.registry import batches_of
from scalevit.model.vit import ViT
from scalevit.tools.bench.data import photographs
from scalevit.tools.bench.interleaved import bench_device, device_name, time_interleaved
from scalevit.tools.bench.models import CASES, CLASSES, BenchJob, our_step

FOLDERS = 4


def packed(folder: Path, count: int) -> Path:
    """Tars of `count` photographs."""
    for number, jpeg in enumerate(photographs(count)):
        place = folder / "photographs" / f"class{number % FOLDERS}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(jpeg)
    tars = folder / "tars"
    words = ["data", "pack", str(folder / "photographs"), "--out", str(tars), "--form", "tar"]
    assert scalevit(words) == 0
    return tars


def measure(name: str, precision: str, rounds: int, workers: int, threads: int) -> dict[str, object]:
    """Images a second from memory and from tars, and their ratio."""
    torch.set_num_threads(threads)
    case, device = CASES[name], bench_device()
    job = BenchJob(name, precision, "train", case.batch, device)
    with tempfile.TemporaryDirectory() as folder:
        data = config.Data(source=str(packed(Path(folder), 256)), workers=workers)
        ahead = batches_of(data, image=case.image, classes=CLASSES, batch=case.batch).iter_from(0)

        def read() -> tuple[Tensor, Tensor]:
            _, batch = next(ahead)
            return as_floats(batch.images.to(device)), batch.labels.to(device)

        kept = read()
        ways = {}
        for way, inputs in (("memory", lambda: kept), ("tars", read)):
            words = config.Model(shape=case.shape, image=case.image, pool="gap", classes=CLASSES)
            ways[way] = our_step(ViT(words, device=device), job, inputs)
        spent = time_interleaved(ways, rounds, threads, device)
        ahead.close()
    speeds = {way: case.batch / statistics.median(times) for way, times in spent.items()}
    about = {
        "model": name,
        "precision": precision,
        "batch": case.batch,
        "workers": workers,
        "threads": threads,
    }
    return {**about, "device": device_name(device), **speeds, "ratio": speeds["tars"] / speeds["memory"]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="S/16", choices=CASES)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    print(json.dumps(measure(args.model, args.precision, args.rounds, args.workers, args.threads)))
