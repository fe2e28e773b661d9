"""The error that a run should end with, by a joint law of the paper's own tables (arXiv 2106.04560)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from scalevit.shapes import shape
from scalevit.study.joint import JointLaw, fit_joint
from scalevit.study.published import BATCH, FEWSHOT, FEWSHOT_COLUMNS, FINETUNE, IMAGES, table

#: File of tables 4-13 or 14-22, column of the accuracy, column of the steps.
TABLES = {
    "imagenet_10shot": (FEWSHOT, FEWSHOT_COLUMNS["imagenet_10shot"], "steps_at_bs4096"),
    "imagenet_finetune": (FINETUNE, "ImageNet", "steps"),
}


@dataclass(frozen=True)
class Runs:
    """Finished runs, one entry each: model's name, forward FLOPs, images seen, unique images, error."""

    model: np.ndarray
    flops: np.ndarray
    seen: np.ndarray
    unique: np.ndarray
    error: np.ndarray


def published(task: str) -> Runs:
    """The paper's tables 4-13 (few-shot) or 14-22 (fine-tuned) as runs."""
    file, column, steps = TABLES[task]
    rows = [row for row in table(file) if row[column]]
    return Runs(
        np.array([row["model"] for row in rows]),
        np.array([shape(row["model"]).flops() for row in rows]),
        np.array([float(row[steps]) * BATCH for row in rows]),
        np.array([IMAGES[row["data_size"]] for row in rows]),
        np.array([1 - float(row[column]) / 100 for row in rows]),
    )


@cache
def paper_law(task: str) -> JointLaw:
    """The joint law of the paper's own table, models left out in turn."""
    runs = published(task)
    return fit_joint(runs.flops, runs.seen, runs.unique, runs.error, groups=runs.model)
