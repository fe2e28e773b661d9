"""Time and memory of the ridge probe at ImageNet's size: python benchmarks/probe.py [--classes 1000 …]"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from scalevit.evals.probes import L2_GRID, ridge_probe


def features(labels: np.ndarray, centres: np.ndarray, mix: np.ndarray, seed: int) -> np.ndarray:
    """Noisy class centres with a spectrum of three decades, as features of real networks have."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((len(labels), centres.shape[1]), dtype=np.float32)
    return (centres[labels] + 4 * noise) @ mix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in {"classes": 1000, "shots": 10, "width": 1664, "tests": 50_000}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((args.classes, args.width), dtype=np.float32)
    mix = rng.standard_normal((args.width, args.width), dtype=np.float32)
    mix *= np.logspace(-3, 0, args.width, dtype=np.float32)
    y, truth = np.repeat(np.arange(args.classes), args.shots), rng.integers(0, args.classes, args.tests)
    x, z = features(y, centres, mix, 1), features(truth, centres, mix, 2)
    start = time.perf_counter()
    accuracy = ridge_probe(x, y, z, truth, l2=L2_GRID)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**vars(args), "seconds": seconds, "peak_bytes": peak, "accuracy": list(accuracy)}))


if __name__ == "__main__":
    main()
