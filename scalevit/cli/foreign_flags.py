"""Flags of other training programs, and the argument of this one that does the same."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_OUT = "--out DIR"
_STEPS = "schedule.steps=N (epochs × images ÷ train.batch)"

#: By flag, without dashes before it and with - for _.
EQUIVALENTS = {
    "resume": "the same command with the same --out: it continues from the last checkpoint by itself",
    "resume-from": "the same command with the same --out: it continues from the last checkpoint by itself",
    "config": "the configuration is the first argument: scalevit pretrain run.yaml",
    "cfg": "the configuration is the first argument: scalevit pretrain run.yaml",
    "output-dir": _OUT, "out-dir": _OUT, "output": _OUT, "save-dir": _OUT, "workdir": _OUT,
    "seed": "train.seed=N (weights) and data.seed=N (order of the images)",
    "lr": "schedule.lr=RATE", "learning-rate": "schedule.lr=RATE",
    "epochs": _STEPS, "num-epochs": _STEPS,
    "steps": "schedule.steps=N", "max-steps": "schedule.steps=N", "num-steps": "schedule.steps=N",
    "batch-size": "train.batch=N", "batch": "train.batch=N",
    "warmup-steps": "schedule.warmup=N", "warmup": "schedule.warmup=N",
    "warmup-epochs": "schedule.warmup=N, in steps",
    "weight-decay": "optimizer.body_decay=X and optimizer.head_decay=X",
    "opt": "optimizer.name=NAME", "optimizer": "optimizer.name=NAME",
    "model": "model.shape=S/16", "arch": "model.shape=S/16",
    "img-size": "model.image=PIXELS", "image-size": "model.image=PIXELS", "input-size": "model.image=PIXELS",
    "num-classes": "model.classes=N", "classes": "model.classes=N",
    "data": "data.source=PATH", "data-dir": "data.source=PATH", "data-path": "data.source=PATH",
    "dataset": "data.source=PATH", "train-dir": "data.source=PATH",
    "workers": "data.workers=N", "num-workers": "data.workers=N",
    "amp": "train.precision=bf16", "bf16": "train.precision=bf16", "fp16": "train.precision=bf16",
    "precision": "train.precision=bf16",
    "compile": "train.compile=true", "ema": "train.ema=0.9999", "clip-grad": "optimizer.clip=NORM",
    "grad-accum-steps": "train.micro_batch=N (images at once on one device)",
    "gradient-checkpointing": "parallel.recompute=full", "grad-checkpointing": "parallel.recompute=full",
    "gpus": "torchrun --nproc-per-node N -m scalevit pretrain …",
    "wandb": "train.trackers=[wandb]", "mixup": "data.mixup=X", "name": "name=TEXT",
    "save-every": "train.save_every=STEPS", "log-every": "train.log_every=STEPS",
}  # fmt: skip


def advice(arguments: Iterable[str], own: Iterable[str]) -> str:
    """What to write instead of unknown flags, empty when nothing is known. own: the command's flags."""
    lines = []
    for flag in (word.partition("=")[0] for word in arguments if word.startswith("-")):
        name = flag.lstrip("-").replace("_", "-").lower()
        near = difflib.get_close_matches(flag, own, n=1, cutoff=0.75)
        if near:
            lines.append(f"{flag}: nearest is {near[0]}")
        elif name in EQUIVALENTS:
            lines.append(f"{flag} here is {EQUIVALENTS[name]}")
    return "; ".join(lines)
