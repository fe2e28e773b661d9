"""Fine-tuning: train and test split of a labelled set, start weights, and accuracy of a run.

A run whose `data.part` is not "all" trains on the train half of a labelled set as `scalevit probe` reads it
and is measured on the other half; or, to choose a learning rate, on 2 % of the train half that it left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from scalevit.artifacts.records import Row
from scalevit.config.run import Data, Start
from scalevit.data.procedural.hashing import key
from scalevit.evals.backbones import LOGITS, fingerprint, of_vit
from scalevit.evals.class_order import class_numbers, ordered_labels
from scalevit.evals.datasets.probe_set import Images, ProbeSet
from scalevit.evals.features import SINGLE_PROCESS, WorkShare, extract
from scalevit.evals.in_training import open_set_cached
from scalevit.evals.metrics import classification_metrics
from scalevit.model import weights
from scalevit.model.vit import ViT

#: The share of the train half that is held out to choose a learning rate (paper.md §2), and the fewest images
#: that can tell two rates apart at all.
HELD_OUT_SHARE, FEWEST = 0.02, 10
_HELD_OUT_STREAM = 9


@dataclass(frozen=True)
class FinetunePart:
    """Part of a labelled set: images by their numbers there, each with a class from 0 on."""

    images: Images
    numbers: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[int(self.numbers[index])]


def finetune_split(data: ProbeSet, part: str) -> tuple[FinetunePart, FinetunePart]:
    """Split of a labelled set: the images that "train" or "most" trains on, and those it is measured on.
    Classes are numbered in the order of their names. Raises ValueError when too few images would be held
    out."""
    order = ordered_labels(data)
    labels = class_numbers(data.support_labels, order)
    everything = np.arange(len(labels))
    if part == "train":
        others = class_numbers(data.query_labels, order)
        return FinetunePart(data.support, everything, labels), FinetunePart(
            data.query, np.arange(len(others)), others
        )
    held = int(HELD_OUT_SHARE * len(labels))
    if held < FEWEST:
        raise ValueError(
            f"{data.name}: 2 % of {len(labels)} train images are {held}, too few to choose a learning rate "
            "by; give one with --lr"
        )
    shuffled = np.argsort(key(_HELD_OUT_STREAM, everything), kind="stable")
    left, out = np.sort(shuffled[held:]), np.sort(shuffled[:held])
    return FinetunePart(data.support, left, labels[left]), FinetunePart(data.support, out, labels[out])


# --------------------------------------------------------------------------- start weights


def weights_hash(model: ViT) -> str:
    """Weights hash: SHA-256 of all weights but the head's, before any resampling of positions."""
    return fingerprint(model.state_dict(), "")


def start_values(start: Start, image: int) -> Iterator[tuple[str, Tensor]]:
    """Start weights of a run without the head's, for images of `image` pixels.

    Raises ValueError when other weights are there now than those the run was planned with."""
    model = weights.load(start.weights)
    if weights_hash(model) != start.content:
        raise ValueError(f"start.weights={start.weights}: other weights than this run was begun with")
    if image != model.config.image:
        model = weights.resized(model, image)
    return ((name, value) for name, value in model.state_dict().items() if not name.startswith("head."))


# --------------------------------------------------------------------------- accuracy


def accuracy_rows(model: ViT, data: Data, share: WorkShare = SINGLE_PROCESS) -> list[Row]:
    """Rows of kind "finetune": "accuracy", "nll" and "mean_per_class" on the test half, or
    "held_out_accuracy" and "held_out_nll" on the 2 %. Where training squeezed whole images into the square,
    so does this."""
    found = open_set_cached(data.source)
    _, test = finetune_split(found, data.part)
    whole = found.whole or data.transform == "none"
    logits = extract(of_vit(model, "the model"), test, whole=whole, layers=(LOGITS,), share=share)[LOGITS]
    result = classification_metrics(logits, [(int(label),) for label in test.labels])
    prefix = METRICS[data.part]
    return [
        {"kind": "finetune", "metric": f"{prefix}accuracy", "value": result.top1},
        {"kind": "finetune", "metric": f"{prefix}nll", "value": result.nll},
        {"kind": "finetune", "metric": f"{prefix}mean_per_class", "value": result.mean_per_class},
    ]


METRICS: Mapping[str, str] = {"train": "", "most": "held_out_"}
