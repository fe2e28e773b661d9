"""Training steps of the paper's models on one GPU, ours beside timm's, and the memory they take.

    python benchmarks/gpu.py --out DIR

Everything compiled, bf16, Adafactor against fused AdamW, images in memory; each row names its batch. A part
that would begin after --seconds is left out, one that fails is told and the rest goes on. Prints Markdown and
writes DIR/models.json after each part. Three minutes on an H200.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import traceback
from pathlib import Path

import torch

from scalevit.config.memory import GIB
from scalevit.tools.bench import models

OURS, BOTH = ("scalevit compiled",), ("scalevit compiled", "timm compiled")
#: Model, who, images at once. Of G/14, timm fits beside ours at 32.
PARTS = (
    ("G/14", OURS, 64),
    ("B/16", BOTH, 512),
    ("G/14", OURS, 128),
    ("S/16", BOTH, 1024),
    ("L/16", BOTH, 256),
    ("g/14", BOTH, 64),
    ("G/14", BOTH, 32),
)


def part(model: str, among: tuple[str, ...], batch: int, rounds: int) -> dict[str, object]:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch._dynamo.reset()
    found = models.measure((model,), ("bf16",), ("train",), among, "adafactor", batch, rounds, 1)
    print(models.table(found), flush=True)
    peak = torch.cuda.max_memory_allocated() / GIB
    print(f"\nmost memory at once: {peak:.1f} GiB\n", *found["missing"].items(), flush=True)
    return found | {"peak_gib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--only", metavar="MODEL:BATCH", help="one part, such as G/14:64")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("needs a GPU")
    parts = [part for part in PARTS if args.only in (None, f"{part[0]}:{part[2]}")]
    if not parts:
        known = ", ".join(f"{model}:{batch}" for model, _, batch in PARTS)
        raise SystemExit(f"--only knows no {args.only!r}; known: {known}")
    began, done, failed = time.perf_counter(), [], False
    for model, among, batch in parts:
        if time.perf_counter() - began > args.seconds:
            print(f"no time for {model} at {batch}", flush=True)
            continue
        try:
            done.append(part(model, among, batch, args.rounds))
        except Exception:
            failed = True
            print(f"{model} at {batch} failed:\n{traceback.format_exc()}", flush=True)
        name = f"models-{args.only.replace('/', '-').replace(':', '-')}" if args.only else "models"
        (args.out / f"{name}.json").write_text(json.dumps(done))
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
