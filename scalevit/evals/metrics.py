"""Classification metrics from logits: top-1, top-5, mean per-class accuracy, likelihood, calibration,
confusions.

Arrays in, numbers out; no torch. Truth is a set of right classes for each image, so that a single label,
ReaL's several labels (Beyer et al. 2020, arXiv 2006.07159) and classes that a map joins are one case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalevit.evals.probes import interval

#: Bins of the calibration error (Guo et al. 2017, arXiv 1706.04599).
BINS = 15

Truth = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class PerClass:
    """Accuracy of one class over the images whose only label it is, and the class most often predicted
    instead (-1: none)."""

    label: int
    images: int
    accuracy: float
    mistaken_for: int


@dataclass(frozen=True)
class Metrics:
    """images: those with at least one label; the others count nowhere, as ReaL defines it. nll: mean of -log
    of the probability of the right classes together, in nats. calibration: expected error, 15 bins. low,
    high: Wilson's 95 % interval of top1. mean_per_class: unweighted mean of the classes' accuracies
    ("balanced accuracy"), over images of a single label. confusion (k, 3): a label, a class, and for how many
    images of that single label that class was named; pairs that never occur are left out."""

    images: int
    unlabelled: int
    top1: float
    mean_per_class: float
    low: float
    high: float
    top5: float
    nll: float
    calibration: float
    per_class: tuple[PerClass, ...]
    confusion: np.ndarray


def classification_metrics(logits: np.ndarray, truth: Truth, *, restrict: bool = False) -> Metrics:
    """Metrics of logits (n, c) against the right classes of each image. restrict: choose only among classes
    that occur in `truth`, as ImageNet-A and -R are defined (200 of 1000 classes).

    Raises ValueError for logits that are not finite, sizes that disagree, labels that the head has not."""
    labels = np.array(sorted({label for right in truth for label in right}), np.int64)
    _check(logits, truth, labels)
    counted = np.array([len(right) > 0 for right in truth])
    classes = labels if restrict else np.arange(logits.shape[1])
    z = logits[counted][:, classes].astype(np.float64)
    right = _membership([r for r in truth if r], classes)
    logp = z - _log_sum(z)[:, None]
    named = z.argmax(axis=1)
    hit = right[np.arange(len(z)), named]
    top = np.argpartition(-z, min(5, z.shape[1]) - 1, axis=1)[:, :5]
    confusion = _confusion(right, named, classes)
    per_class = tuple(_per_class(confusion))
    low, high = interval(float(hit.mean()), 0.0, 1, len(z))
    return Metrics(
        images=len(z), unlabelled=int((~counted).sum()), top1=float(hit.mean()), low=low, high=high,
        mean_per_class=mean_over_classes(per_class),
        top5=float(np.take_along_axis(right, top, axis=1).any(axis=1).mean()),
        nll=float(-_log_sum(np.where(right, logp, -np.inf)).mean()),
        calibration=calibration_error(np.exp(logp.max(axis=1)), hit),
        per_class=per_class, confusion=confusion,
    )  # fmt: skip


def calibration_error(confidence: np.ndarray, hit: np.ndarray) -> float:
    """Expected calibration error (Guo et al. 2017): Σ over equal bins of confidence: share of images ×
    |accuracy − mean confidence|."""
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs((hit[which == b] - confidence[which == b]).sum()) for b in range(BINS)]
    return float(sum(gaps) / len(hit))


def mean_over_classes(per_class: Sequence[PerClass]) -> float:
    """Unweighted mean of the classes' accuracies; NaN where no image has a single label."""
    return float(np.mean([row.accuracy for row in per_class])) if per_class else float("nan")


def _check(logits: np.ndarray, truth: Truth, labels: np.ndarray) -> None:
    if logits.ndim != 2 or len(logits) != len(truth):
        raise ValueError(f"expected logits (n, c) and n = {len(truth)} truths, found {logits.shape}")
    if not len(labels):
        raise ValueError("no image has a label")
    if labels[0] < 0 or labels[-1] >= logits.shape[1]:
        odd = labels[0] if labels[0] < 0 else labels[-1]
        raise ValueError(
            f"label {odd}: the head has classes 0 to {logits.shape[1] - 1}; is a label map missing?"
        )
    if not np.isfinite(logits).all():
        raise ValueError(f"logits of image {np.argwhere(~np.isfinite(logits))[0][0]} are not finite")


def _membership(truth: Truth, classes: np.ndarray) -> np.ndarray:
    """Membership (n, c) bool: which classes are right."""
    right = np.zeros((len(truth), len(classes)), bool)
    rows = np.repeat(np.arange(len(truth)), [len(r) for r in truth])
    right[rows, np.searchsorted(classes, [label for r in truth for label in r])] = True
    return right


def _log_sum(z: np.ndarray) -> np.ndarray:
    top = z.max(axis=1)
    return top + np.log(np.exp(z - top[:, None]).sum(axis=1))


def _confusion(right: np.ndarray, named: np.ndarray, classes: np.ndarray) -> np.ndarray:
    single = right.sum(axis=1) == 1
    pairs = np.stack([classes[right[single].argmax(axis=1)], classes[named[single]]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return np.column_stack([found, counts])


def _per_class(confusion: np.ndarray) -> list[PerClass]:
    found = []
    for label in np.unique(confusion[:, 0]):
        _, named, images = confusion[confusion[:, 0] == label].T
        wrong = np.where(named == label, 0, images)
        other = int(named[wrong.argmax()]) if wrong.any() else -1
        total = int(images.sum())
        found.append(PerClass(int(label), total, float((total - wrong.sum()) / total), other))
    return found
