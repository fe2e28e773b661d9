"""Test sets of classifiers in their usual layouts, and which of the head's classes each label means.

- ImageNet val, Sketch, A, R: one folder a class, named by its WordNet id; A and R have 200 of the 1000.
- V2: folders named 0 … 999, in numerical order. ObjectNet and others: any names, with a map.
- val flat, with a file of labels; ReaL: a JSON list of lists, one a val image in the order of file names.
- C: CORRUPTION/SEVERITY/CLASS/image: one test set for each corruption and severity.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalevit.evals.datasets import is_set, open_set
from scalevit.evals.metrics import Truth
from scalevit.evals.probeset import SUFFIXES, Files, Images, ProbeSet

WORDNET = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class TestSet:
    """Images and the right classes of each (none: the image does not count). whole: see ProbeSet."""

    __test__ = False  # a name that pytest would take for a test

    name: str
    images: Images
    truth: Truth
    whole: bool = False


def open_tests(
    target: str, outputs: int, *, labels: Path | None = None, label_map: Path | None = None
) -> list[TestSet]:
    """The test sets at `target` for a head of `outputs` classes; several for ImageNet-C's layout.

    labels: a text or JSON file with the labels of the images in the order of their names. label_map: JSON
    from folder names to a class or several. Raises ValueError for labels that cannot be told."""
    path = Path(target)
    if not path.is_dir():
        found = open_set(target)
        return [TestSet(found.name, found.query, _numbers(found.query_labels, outputs), found.whole)]
    if labels is not None:
        images = _all_images(path)
        return [TestSet(path.name, Files(images), read_labels(labels, images, path))]
    mapping = None if label_map is None else _read_map(label_map)
    parts = _corruptions(path)
    if parts:
        return [_folders(part, f"{part.parent.name} {part.name}", outputs, mapping) for part in parts]
    if is_set(target) and not any(p.is_dir() for p in path.iterdir()):
        found: ProbeSet = open_set(target)
        return [TestSet(found.name, found.query, _numbers(found.query_labels, outputs), found.whole)]
    return [_folders(path, path.name, outputs, mapping)]


def _numbers(labels: np.ndarray, outputs: int) -> Truth:
    if labels.dtype.kind not in "iu":
        labels = np.unique(labels, return_inverse=True)[1]
    if labels.max() >= outputs:
        raise ValueError(f"label {labels.max()}: the head has classes 0 to {outputs - 1}")
    return [(int(label),) for label in labels]


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


def _folders(path: Path, name: str, outputs: int, mapping: Mapping[str, Any] | None) -> TestSet:
    folders = sorted(p for p in path.iterdir() if p.is_dir())
    images = [(p, f.name) for f in folders for p in sorted(f.rglob("*")) if p.suffix.lower() in SUFFIXES]
    if not images:
        raise ValueError(f"{path}: no images in folders of classes (CLASS/image.jpg)")
    known = classes_of([f.name for f in folders], outputs, mapping, str(path))
    return TestSet(name, Files([p for p, _ in images]), [known[folder] for _, folder in images])


def classes_of(
    names: Sequence[str], outputs: int, mapping: Mapping[str, Any] | None, where: str
) -> dict[str, tuple[int, ...]]:
    """What each folder's name means: by the map; a number is itself; the order of names, when there are as
    many as the head has classes; WordNet ids among the 1000 of ImageNet. A name that the map leaves out means
    no class, and its images do not count."""
    if mapping is not None:
        if not set(names) & set(mapping):
            raise ValueError(f"{where}: the map knows none of its folders, such as {names[0]!r}")
        return {name: _several(mapping.get(name, ())) for name in names}
    if all(name.isdigit() for name in names):
        return {name: (int(name),) for name in names}
    if len(names) == outputs:
        return {name: (i,) for i, name in enumerate(sorted(names))}
    if outputs == 1000 and all(WORDNET.fullmatch(name) for name in names):
        order = {synset: i for i, synset in enumerate(synsets())}
        unknown = [name for name in names if name not in order]
        if unknown:
            raise ValueError(f"{where}: {unknown[0]} is none of ImageNet's 1000 classes")
        return {name: (order[name],) for name in names}
    raise ValueError(
        f"{where}: {len(names)} folders for a head of {outputs} classes; say which is which (--map)"
    )


def synsets() -> list[str]:
    """WordNet ids of ImageNet's 1000 classes in the usual order."""
    return (_timm_file("imagenet_synsets.txt")).read_text().split()


def real_labels() -> Path:
    """ReaL's labels of ImageNet's 50 000 validation images."""
    return _timm_file("imagenet_real_labels.json")


def _timm_file(name: str) -> Path:
    from importlib.util import find_spec

    found = find_spec("timm")
    path = Path(str(found.origin)).parent / "data" / "_info" / name if found else None
    if path is None or not path.is_file():
        raise ValueError(f'{name} comes with timm: pip install "scalevit[timm]"')
    return path


def read_labels(path: Path, images: Sequence[Path], where: Path) -> Truth:
    """Labels from JSON (a list of numbers or of lists of numbers) or text (a number, or a file's name and a
    number, a line). ReaL's 50 000 serve for a part of ImageNet's validation images, too, by their numbers."""
    if path.suffix == ".json":
        rows = [_several(row) for row in json.loads(path.read_text())]
    else:
        lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
        named = {line[0]: (int(line[1]),) for line in lines if len(line) == 2}
        if named:
            missing = [p.name for p in images if p.name not in named]
            if missing:
                raise ValueError(f"{path}: no label for {missing[0]}")
            return [named[p.name] for p in images]
        rows = [(int(line[0]),) for line in lines]
    if len(rows) == 50_000:
        numbers = [re.search(r"val_(\d{8})", p.name) for p in images]
        if all(numbers):
            return [rows[int(n[1]) - 1] for n in numbers if n]
    if len(rows) != len(images):
        raise ValueError(f"{path}: {len(rows)} labels for {len(images)} images of {where}")
    return rows


def _read_map(path: Path) -> Mapping[str, Any]:
    found = json.loads(path.read_text())
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object from folder names to classes")
    return found


def _several(value: Any) -> tuple[int, ...]:
    return tuple(map(int, value)) if isinstance(value, list | tuple) else (int(value),)
