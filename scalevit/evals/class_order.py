"""Order of classes: the number of each class of a labelled set, and the names of a model's outputs."""

from __future__ import annotations

import numpy as np

from scalevit.data.class_names import order_class_names
from scalevit.evals.datasets.probe_set import ProbeSet


def ordered_labels(data: ProbeSet) -> np.ndarray:
    """The labels of the support set (c,), class 0 first: as the set names its classes; otherwise ascending,
    with names that are numbers ordered as numbers."""
    labels = np.unique(data.support_labels)
    if data.class_names and set(data.class_names) == set(labels.tolist()):
        return np.array(data.class_names)
    return np.array(order_class_names(labels.tolist())) if labels.dtype.kind == "U" else labels


def class_names(data: ProbeSet) -> tuple[str, ...]:
    """Names of the classes in the order of their numbers; () where labels are plain numbers without names."""
    labels = ordered_labels(data)
    if labels.dtype.kind == "U":
        return tuple(labels.tolist())
    return data.class_names if len(data.class_names) == len(labels) else ()


def class_numbers(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The number (n,) of each label's class. Raises KeyError for a label that is not in `order`."""
    numbers = {label: number for number, label in enumerate(order.tolist())}
    return np.array([numbers[label] for label in labels.tolist()], np.int64)
