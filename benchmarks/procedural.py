"""How many procedural images a second does one core render?

    OMP_NUM_THREADS=1 python benchmarks/procedural.py [seconds]

Process time, one thread, batches of 256, median of five; prints a table in Markdown."""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import torch

from scalevit.data.procedural.dataset import FAMILIES, Procedural

SIDES = (16, 28, 64, 224)
BATCH = 256


def rate(store: Procedural, seconds: float) -> float:
    """Images a second of process time."""
    done, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        store.images(np.arange(done, done + BATCH))
        done += BATCH
    return done / (time.process_time() - began)


def main() -> None:
    torch.set_num_threads(1)
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.4
    print(f"torch {torch.__version__}, one thread, images/s\n")
    print("| family |", " | ".join(f"{side} px" for side in SIDES), "|")
    print("|---|" + "---|" * len(SIDES))
    for family in FAMILIES:
        rates = []
        for side in SIDES:
            store = Procedural(family, 512, side, 0)
            rate(store, 0.01)
            rates.append(statistics.median(rate(store, seconds / 5) for _ in range(5)))
        print(f"| {family} |", " | ".join(f"{r:.0f}" for r in rates), "|", flush=True)


if __name__ == "__main__":
    main()
