"""Test sets of classifiers in their usual layouts, and which of the head's classes each label means.

- ImageNet val, Sketch, A, R: one folder a class, named by its WordNet id; A and R have 200 of the 1000.
- V2: folders named 0 … 999, in numerical order. ObjectNet: objectnet.py. Any other names, with a map.
- val flat, with a file of labels (labelfiles.py); ReaL: a list of classes for each of its images.
- C: CORRUPTION/SEVERITY/CLASS/image: one test set for each corruption and severity.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from scalevit.evals.datasets import objectnet
from scalevit.evals.datasets.idx import idx_files
from scalevit.evals.datasets.open import open_probe_set
from scalevit.evals.datasets.probe_set import SUFFIXES, ImageFiles, Images, ProbeSet, split_folders
from scalevit.evals.datasets.shards import shards_at
from scalevit.evals.datasets.wordnet import (
    HEADS,
    IMAGENET,
    WORDNET,
    map_imagenet_classes,
    output_of_synset,
    real_labels,
)
from scalevit.evals.metrics import Truth

_VAL = re.compile(r"val_(\d{8})")


@dataclass(frozen=True)
class TestSet:
    """Images and the right classes of each (none: the image does not count). whole: see ProbeSet. names: of
    classes, where the data tell them. corruption: the kind, in ImageNet-C's layout."""

    __test__ = False  # a name that pytest would take for a test

    name: str
    images: Images
    truth: Truth
    whole: bool = False
    names: Mapping[int, str] = field(default_factory=dict)
    corruption: str = ""


def open_test_sets(
    target: str,
    outputs: int,
    *,
    labels: Path | None = None,
    real: bool = False,
    label_map: Path | None = None,
    halved: bool = False,
) -> list[TestSet]:
    """The test sets at `target` for a head of `outputs` classes; several for ImageNet-C's layout.

    labels: a text or JSON file with the labels of the images in the order of their names; real: ReaL's.
    label_map: JSON from folder names to a class or several. halved: only the query half counts, as the model
    was trained on the other one. Raises ValueError for labels that cannot be told."""
    path = Path(target)
    if halved or not path.is_dir() or shards_at(path) or idx_files(path):
        return [_of_probe_set(open_probe_set(target), outputs)]
    if real or labels is not None:
        images = _all_images(path)
        truth = read_labels(labels or real_labels(), images, outputs)
        truth = [map_imagenet_classes(row, outputs) for row in truth] if real else truth
        return [TestSet(path.name, ImageFiles(images), truth)]
    mapping = None if label_map is None else _read_map(label_map, outputs)
    known = objectnet.mappings_at(path) if mapping is None else None
    if known:
        return [_objectnet(path, known, outputs)]
    parts = _corruptions(path)
    if parts:
        return [_folders(part, outputs, mapping, corruption=part.parent.name) for part in parts]
    train, test = split_folders(path) or (path, path)
    return [replace(_folders(test, outputs, mapping, classes=train), name=path.name)]


def _of_probe_set(found: ProbeSet, outputs: int) -> TestSet:
    """The query half. A head with as many classes as the set was trained on them in their order; for any
    other the labels are the numbers of its classes."""
    names, labels = np.unique(found.support_labels), found.query_labels
    if len(names) == outputs or labels.dtype.kind not in "iu":
        labels = np.searchsorted(names, labels)
    if labels.max() >= outputs:
        raise ValueError(f"label {labels.max()}: the head has classes 0 to {outputs - 1}")
    said = dict(enumerate(map(str, names))) if names.dtype.kind in "US" else {}
    return TestSet(found.name, found.query, [(int(label),) for label in labels], found.whole, said)


def _all_images(path: Path) -> list[Path]:
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"{path}: no images")
    return sorted(found, key=lambda p: p.name)


def _corruptions(path: Path) -> list[Path]:
    """CORRUPTION/SEVERITY folders, severities 1 to 5."""
    severities = [p for p in sorted(path.glob("*/*")) if p.is_dir()]
    layout = severities and all(
        p.name in "12345" and any(q.is_dir() for q in p.iterdir()) for p in severities
    )
    return severities if layout else []


def _folders(
    path: Path,
    outputs: int,
    mapping: Mapping[str, tuple[int, ...]] | None,
    *,
    classes: Path | None = None,
    corruption: str = "",
) -> TestSet:
    """classes: another folder whose folders are all the classes, where some may be missing at `path`."""
    folders = sorted(p for p in path.iterdir() if p.is_dir())
    images = [(p, f.name) for f in folders for p in sorted(f.rglob("*")) if p.suffix.lower() in SUFFIXES]
    if not images:
        raise ValueError(f"{path}: no images in folders of classes (CLASS/image.jpg)")
    every = sorted(p.name for p in (classes or path).iterdir() if p.is_dir())
    known = classes_of(every, outputs, mapping, str(path))
    unknown = [folder for _, folder in images if folder not in known]
    if unknown:
        raise ValueError(f"{path}: {unknown[0]} is no class of {classes}")
    names = {found[0]: name for name, found in known.items() if len(found) == 1}
    name = f"{corruption} {path.name}".lstrip()
    truth = [known[folder] for _, folder in images]
    return TestSet(name, ImageFiles([p for p, _ in images]), truth, names=names, corruption=corruption)


def _objectnet(path: Path, mappings: Path, outputs: int) -> TestSet:
    of_1000 = objectnet.read_mappings(mappings)
    known = {folder: map_imagenet_classes(classes, outputs) for folder, classes in of_1000.items()}
    found = _folders(objectnet.images_at(path), outputs, known)
    return TestSet("objectnet", objectnet.Inside(found.images), found.truth, names=found.names)


# --------------------------------------------------------------------------- which class a label means


def classes_of(
    names: Sequence[str], outputs: int, mapping: Mapping[str, tuple[int, ...]] | None, where: str
) -> dict[str, tuple[int, ...]]:
    """What each folder's name means: by the map; a number is itself; the order of names, when there are as
    many as the head has classes; WordNet ids among the classes of ImageNet's usual heads. A name that the map
    leaves out means no class, and its images do not count."""
    if mapping is not None:
        if not set(names) & set(mapping):
            raise ValueError(f"{where}: the map knows none of its folders, such as {names[0]!r}")
        return {name: mapping.get(name, ()) for name in names}
    if all(name.isdigit() for name in names):
        numbers = {name: (int(name),) for name in names}
        v2 = len(names) == IMAGENET and max(numbers.values()) < (IMAGENET,)
        return {name: map_imagenet_classes(one, outputs) for name, one in numbers.items()} if v2 else numbers
    if len(names) == outputs:
        return {name: (i,) for i, name in enumerate(sorted(names))}
    if outputs in HEADS and all(WORDNET.fullmatch(name) for name in names):
        return {name: (output_of_synset(name, outputs, where),) for name in names}
    raise ValueError(
        f"{where}: {len(names)} folders for a head of {outputs} classes; say which is which (--map)"
    )


def _read_map(path: Path, outputs: int) -> Mapping[str, tuple[int, ...]]:
    found = _read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object from folder names to classes")
    return {name: _several(value, outputs, path) for name, value in found.items()}


def read_labels(path: Path, images: Sequence[Path], outputs: int) -> Truth:
    """Labels of images in the order of their names: JSON, a list of classes or of lists of them, or an object
    from file names to such; or text, a line a class, or a file's name and a class, as `val.txt` and Kaggle's
    `LOC_val_solution.csv` have them. A class is a number or a WordNet id. ReaL's 50 000 serve for a part of
    ImageNet's validation images, too, by their numbers."""
    found = _read_json(path) if path.suffix == ".json" else _read_lines(path)
    if isinstance(found, dict):
        missing = [p.name for p in images if p.name not in found and p.stem not in found]
        if missing:
            raise ValueError(f"{path}: no label for {missing[0]}")
        return [_several(found.get(p.name, found.get(p.stem)), outputs, path) for p in images]
    rows = [_several(row, outputs, path) for row in found]
    numbers = [_VAL.search(p.name) for p in images]
    if len(rows) == 50_000 and all(numbers):
        return [rows[int(n[1]) - 1] for n in numbers if n]
    if len(rows) != len(images):
        raise ValueError(f"{path}: {len(rows)} labels for {len(images)} images")
    return rows


def _read_lines(path: Path) -> dict[str, str] | list[str]:
    lines = [re.split(r"[\s,]+", line.strip()) for line in path.read_text().splitlines() if line.strip()]
    if lines and not (lines[0][-1].isdigit() or any(map(WORDNET.fullmatch, lines[0]))):
        lines = lines[1:]  # what the columns are called
    if any(len(line) > 1 for line in lines):
        return {line[0]: line[1] for line in lines if len(line) > 1}
    return [line[0] for line in lines]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise ValueError(f"{path}: no JSON") from None


def _several(value: Any, outputs: int, where: Path) -> tuple[int, ...]:
    """One class or several, each a number or a WordNet id."""
    values = value if isinstance(value, list | tuple) else [value]
    found = []
    for one in values:
        if isinstance(one, str) and WORDNET.fullmatch(one):
            found.append(output_of_synset(one, outputs, str(where)))
        elif isinstance(one, bool) or not re.fullmatch(r"-?\d+", str(one)):
            raise ValueError(f"{where}: a class must be a number or a WordNet id, found {one!r:.60}")
        else:
            found.append(int(one))
    return tuple(found)
