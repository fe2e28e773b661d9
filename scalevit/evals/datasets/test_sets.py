"""Test sets of classifiers in their usual layouts, and which of the head's classes each label means.

- Anything that data/listing.py lists: its test split, or its val split if that has no labels, or all.
- ImageNet val, Sketch, A, R: one folder a class, named by its WordNet id; A and R have 200 of the 1000.
- V2: folders named 0 … 999. ObjectNet: objectnet.py. Any other names, with a map.
- val flat, with a file of labels (label_file.py); ReaL: a list of classes for each of its images.
- C: CORRUPTION/SEVERITY/CLASS/image: one test set for each corruption and severity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scalevit.data.class_names import listed, order_class_names
from scalevit.data.options import DEFAULTS, ListingOptions
from scalevit.evals.datasets import objectnet
from scalevit.evals.datasets.builtin import BUILTIN
from scalevit.evals.datasets.label_file import classes_in, read_json, read_labels
from scalevit.evals.datasets.open import arrays_at, open_probe_set, query_split
from scalevit.evals.datasets.probe_set import DatasetImages, ImageFiles, Images, ProbeSet
from scalevit.evals.datasets.wordnet import (
    HEADS,
    IMAGENET,
    WORDNET,
    map_imagenet_classes,
    output_of_synset,
    real_labels,
)
from scalevit.evals.metrics import Truth

if TYPE_CHECKING:
    from scalevit.data.dataset import ImageDataset


@dataclass(frozen=True)
class TestSet:
    """Images and the right classes of each (none: the image does not count). whole: see ProbeSet. names: of
    classes, where the data tell them. corruption: the kind, in ImageNet-C's layout. notes: lines for the
    user on the split that is used and what was left out."""

    __test__ = False  # a name that pytest would take for a test

    name: str
    images: Images
    truth: Truth
    whole: bool = False
    names: Mapping[int, str] = field(default_factory=dict)
    corruption: str = ""
    notes: tuple[str, ...] = ()


def open_test_sets(
    target: str,
    outputs: int,
    *,
    labels: Path | None = None,
    real: bool = False,
    label_map: Path | None = None,
    halved: bool = False,
    class_names: Sequence[str] = (),
    options: ListingOptions = DEFAULTS,
) -> list[TestSet]:
    """The test sets at `target` for a head of `outputs` classes; several for ImageNet-C's layout.

    labels: a text or JSON file with the labels of the images in the order of their names; real: ReaL's.
    label_map: JSON from class names of the data to a class or several. halved: only the query half counts, as
    the model was trained on the other one. class_names: of the model's outputs; classes are found by name.
    Raises ValueError for labels that cannot be told, and for a class that the model does not know."""
    path = Path(target)
    head = Head(outputs, tuple(class_names), None if label_map is None else _read_map(label_map, outputs))
    if halved or target in BUILTIN:
        return [_of_probe_set(open_probe_set(target, options), head)]
    if path.is_dir() and (real or labels is not None):
        images = _all_images(path)
        truth = read_labels(labels or real_labels(), images, outputs, class_names)
        truth = [map_imagenet_classes(row, outputs) for row in truth] if real else truth
        return [TestSet(path.name, ImageFiles(images), truth)]
    known = objectnet.mappings_at(path) if head.mapping is None else None
    if known:
        return [_objectnet(path, known, head)]
    parts = _corruptions(path) if path.is_dir() else []
    if parts:
        return [replace(_corruption(part, head, options), corruption=part.parent.name) for part in parts]
    arrays = arrays_at(path)
    if arrays and not any(part.split is not None for part in arrays.values()) and "" in arrays:
        x, y, _ = arrays[""]
        images = x[..., 0] if x.shape[3:] == (1,) else x
        return [_labelled(path.stem, images, y, head, str(path), whole=True)]
    if arrays:
        return [_of_probe_set(open_probe_set(target, options), head)]
    return [_of_splits(target, head, options)]


@dataclass(frozen=True)
class Head:
    """A classifier's outputs. names: of its classes, () where it knows none. mapping: the user's own, from a
    class's name in the data to classes."""

    outputs: int
    names: tuple[str, ...] = ()
    mapping: Mapping[str, tuple[int, ...]] | None = None


def _of_probe_set(found: ProbeSet, head: Head) -> TestSet:
    """The query half. A head without names that has as many classes as the set was trained on them in their
    order; for any other, labels that are numbers are the numbers of its classes."""
    labels = found.query_labels
    if labels.dtype.kind in "iu" and not found.class_names:
        classes = np.unique(found.support_labels)
        numbers = np.searchsorted(classes, labels) if len(classes) == head.outputs else labels
        return _labelled(found.name, found.query, numbers, head, found.name, whole=found.whole)
    every = found.class_names or order_class_names(map(str, found.support_labels))
    return _named(
        found.name, found.query, [(str(label),) for label in labels], every, head, found.name,
        whole=found.whole,
    )  # fmt: skip


def _of_splits(target: str, head: Head, options: ListingOptions) -> TestSet:
    """The test split of a source, or its val split, or all of it."""
    from scalevit.data.dataset import open_splits

    splits = open_splits(target, options)
    dataset = splits.get(query_split(splits)) or splits.get("") or next(iter(splits.values()))
    every = splits["train"].class_names if "train" in splits else dataset.class_names
    name = Path(target).name if Path(target).is_dir() else Path(target).stem
    return replace(_of_dataset(dataset, every, head), name=name)


def _corruption(folder: Path, head: Head, options: ListingOptions) -> TestSet:
    from scalevit.data.dataset import open_dataset

    dataset = open_dataset(str(folder), options)
    return replace(
        _of_dataset(dataset, dataset.class_names, head), name=f"{folder.parent.name} {folder.name}"
    )


def _of_dataset(dataset: ImageDataset, every: Sequence[str], head: Head) -> TestSet:
    """A whole dataset; every: names of all classes that it may have."""
    images, where = DatasetImages(dataset, np.arange(dataset.samples)), dataset.source
    if dataset.unlabelled == dataset.samples:
        raise ValueError(f"{where}: no image has a label{dataset.hint()}")
    labels = [dataset.labels(number) for number in range(dataset.samples)]
    notes = tuple(dataset.notes())
    if dataset.class_names:
        names = [tuple(dataset.class_names[k] for k in some) for some in labels]
        return replace(_named(where, images, names, every, head, where), notes=notes)
    if head.mapping is not None:
        names = [tuple(str(k) for k in some) for some in labels]
        return replace(_named(where, images, names, sorted({n for some in names for n in some}), head, where))
    truth = [tuple(some.tolist()) for some in labels]
    _check_range(truth, head, where)
    return TestSet(where, images, truth, notes=notes)


def _named(
    name: str, images: Images, labels: Sequence[tuple[str, ...]], every: Sequence[str], head: Head,
    where: str, *, whole: bool = False,
) -> TestSet:  # fmt: skip
    """A test set of labels that are names, out of `every` name that there may be."""
    known = classes_of(every, head, where)
    unknown = next((one for some in labels for one in some if one not in known), None)
    if unknown is not None:
        raise ValueError(f"{where}: {unknown} is no class of its train split ({listed(every)})")
    names = {found[0]: one for one, found in known.items() if len(found) == 1}
    truth = [tuple(k for one in some for k in known[one]) for some in labels]
    return TestSet(name, images, truth, whole, names)


def _labelled(
    name: str, images: Images, labels: np.ndarray, head: Head, where: str, *, whole: bool = False
) -> TestSet:
    """A test set of an array of labels: numbers of classes, or names."""
    if labels.dtype.kind not in "iu" or head.mapping is not None:
        words = [(str(label),) for label in labels]
        return _named(name, images, words, order_class_names(w for (w,) in words), head, where, whole=whole)
    truth = [(int(label),) for label in labels]
    _check_range(truth, head, where)
    return TestSet(name, images, truth, whole)


def _check_range(truth: Truth, head: Head, where: str) -> None:
    largest = max((label for some in truth for label in some), default=0)
    if largest >= head.outputs:
        raise ValueError(f"{where}: label {largest}: the head has classes 0 to {head.outputs - 1}")


def _all_images(path: Path) -> list[Path]:
    from scalevit.data.formats.folder import images_of
    from scalevit.data.left_out import LeftOut

    found = list(images_of(path, LeftOut()))
    if not found:
        raise ValueError(f"{path}: no images")
    return sorted(found, key=lambda p: (p.name, p))


def _corruptions(path: Path) -> list[Path]:
    """CORRUPTION/SEVERITY folders, severities 1 to 5."""
    severities = [p for p in sorted(path.glob("*/*")) if p.is_dir() and not p.name.startswith(".")]
    layout = severities and all(
        p.name in "12345" and any(q.is_dir() for q in p.iterdir()) for p in severities
    )
    return severities if layout else []


def _objectnet(path: Path, mappings: Path, head: Head) -> TestSet:
    from scalevit.data.dataset import open_dataset

    of_1000 = objectnet.read_mappings(mappings)
    known = {folder: map_imagenet_classes(classes, head.outputs) for folder, classes in of_1000.items()}
    dataset = open_dataset(str(objectnet.images_at(path)))
    found = _of_dataset(dataset, dataset.class_names, replace(head, mapping=known))
    return replace(found, name="objectnet", images=objectnet.Inside(found.images))


# --------------------------------------------------------------------------- which class a label means


def classes_of(names: Sequence[str], head: Head, where: str) -> dict[str, tuple[int, ...]]:
    """The classes that each name means: by the user's map; by the model's own names; WordNet ids among the
    classes of ImageNet's usual heads; the order of names, when there are as many as the head has classes;
    numbers from 0 as they are. A name that the map leaves out means no class, and its images do not count.
    Raises ValueError where that cannot be told."""
    mapping, outputs = head.mapping, head.outputs
    if mapping is not None:
        if not set(names) & set(mapping):
            raise ValueError(f"{where}: the map knows none of its folders, such as {names[0]!r}")
        return {name: mapping.get(name, ()) for name in names}
    unknown = [name for name in names if name not in head.names]
    if head.names and not unknown:
        return {name: (head.names.index(name),) for name in names}
    synsets = outputs in HEADS and all(WORDNET.fullmatch(name) for name in names)
    if synsets and (len(names) != outputs or not head.names):
        if len(names) == outputs and outputs != IMAGENET:
            return {name: (number,) for number, name in enumerate(order_class_names(names))}
        return {name: (output_of_synset(name, outputs, where),) for name in names}
    numbers = all(name.isascii() and name.isdigit() for name in names)
    if numbers and len(names) == IMAGENET and max(map(int, names)) < IMAGENET and outputs in HEADS:
        return {name: map_imagenet_classes((int(name),), outputs) for name in names}
    if head.names:
        raise ValueError(
            f"{where}: class {unknown[0]!r} is none of the model's {len(head.names)} "
            f"({listed(head.names)}); say which is which (--map)"
        )
    if len(names) == outputs:
        return {name: (i,) for i, name in enumerate(order_class_names(names))}
    if numbers and min(map(int, names)) == 0:
        return {name: (int(name),) for name in names}
    raise ValueError(
        f"{where}: {len(names)} folders for a head of {outputs} classes; say which is which (--map)"
    )


def _read_map(path: Path, outputs: int) -> Mapping[str, tuple[int, ...]]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object from folder names to classes")
    return {name: classes_in(value, outputs, path) for name, value in found.items()}
