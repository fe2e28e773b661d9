"""What pretraining on procedural images is worth for fine-tuning: python benchmarks/transfer.py RUN --out DIR

Fine-tunes the finished run RUN, and the same network untrained, on 2 000 training images of Fashion-MNIST
(Debian's dataset-fashion-mnist) with the same budget, and measures both on 2 000 test images. Optimizer and
learning rate are chosen for each of the two on 500 of the 2 000 images, by its first seed; the test images
decide nothing. Called again it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from scalevit import config
from scalevit.artifacts import run_folder
from scalevit.evals.datasets.open import open_probe_set
from scalevit.evals.fewshot_sampling import balanced_sample
from scalevit.model import weights
from scalevit.model.vit import ViT
from scalevit.train.finetune import finetune, plan, reached

TRAIN, HELD, TESTS = 200, 50, 200  # images a class: train; of these, to choose by; of the test half
#: The paper's optimizer and rate for fine-tuning, and what usually trains ViTs from scratch.
CHOICES = (("sgd", 0.03), ("adam", 1e-3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a pretrained run's folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    choice, final = subsets(args.out)
    found = {start: measured(args, start, choice, final) for start in args.starts}
    print(json.dumps({"steps": args.steps, "batch": args.batch, "train": 10 * TRAIN, "results": found}))


def subsets(out: Path) -> tuple[Path, Path]:
    """(1 500 and 500 training images to choose with, 2 000 training and 2 000 test images)."""
    fashion = open_probe_set("fashion")
    taken = balanced_sample(fashion.support_labels, TRAIN, seed=0)
    x, y = np.stack([fashion.support[int(i)] for i in taken]), fashion.support_labels[taken]
    held = np.isin(np.arange(len(y)), balanced_sample(y, HELD, seed=1))
    asked = balanced_sample(fashion.query_labels, TESTS, seed=0)
    tests, right = np.stack([fashion.query[int(i)] for i in asked]), fashion.query_labels[asked]
    halves = np.repeat([0, 1], [len(y), len(right)])
    choice, final = out / "choice.npz", out / "final.npz"
    np.savez(choice, x=x, y=y, split=held.astype(np.int64))
    np.savez(final, x=np.concatenate([x, tests]), y=np.concatenate([y, right]), split=halves)
    return choice, final


def pretrained(run: Path, out: Path, seed: int) -> Path:
    return run


def untrained(run: Path, out: Path, seed: int) -> Path:
    """A folder with the run's network and fresh weights of this seed."""
    folder = out / f"untrained-{seed}"
    if not folder.exists():
        network = config.load(str(run / run_folder.CONFIG)).model
        weights.save(ViT(replace(network, classes=0), seed=seed), folder)
    return folder


STARTS = {"untrained": untrained, "pretrained": pretrained}


def measured(args: argparse.Namespace, start: str, choice: Path, final: Path) -> dict[str, object]:
    """The choice, and the accuracy of every seed with it."""
    held = {one: accuracy(args, start, choice, 0, *one) for one in CHOICES}
    best = max(CHOICES, key=lambda one: held[one])
    tests = [accuracy(args, start, final, seed, *best) for seed in range(args.seeds)]
    return {
        "held_out": {f"{name} {rate:g}": value for (name, rate), value in held.items()},
        "chosen": f"{best[0]} {best[1]:g}",
        "accuracy": tests,
        "mean": float(np.mean(tests)),
        "sd": float(np.std(tests, ddof=1)) if len(tests) > 1 else 0.0,
    }


def accuracy(
    args: argparse.Namespace, start: str, data: Path, seed: int, optimizer: str, rate: float
) -> float:
    model = STARTS[start](args.run, args.out, seed)
    budget = (f"schedule.steps={args.steps}", f"train.batch={args.batch}")
    overrides = (*budget, f"optimizer.name={optimizer}", f"train.seed={seed}", f"data.seed={seed}")
    folder = args.out / f"{start}-{data.stem}-{optimizer}-{rate:g}-{seed}"
    outcome = finetune(plan(str(model), str(data), overrides, rates=(rate,)), folder)
    return reached(outcome.folder, "accuracy")


if __name__ == "__main__":
    main()
