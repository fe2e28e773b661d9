"""Label files: the classes of a folder's images in text or JSON, for `scalevit evaluate --labels`.

A line a class, in the order of the images' names; or a table of names of files and classes in either
order, with commas, semicolons, TABs or spaces, quoted or not, with a head line or without. A class is a
number (65 or 65.0), a WordNet id, or one of the model's class names.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalevit.data.formats.labels import LABEL_NAMES
from scalevit.evals.datasets.wordnet import WORDNET, output_of_synset
from scalevit.evals.metrics import Truth

_VAL = re.compile(r"val_(\d{8})")
_NUMBER = re.compile(r"-?\d+(\.0*)?")
#: ImageNet's validation images, which files of labels are often of.
_IMAGENET_VAL = 50_000
#: A file above this many bytes is refused.
_MOST = 1 << 28


def read_labels(path: Path, images: Sequence[Path], outputs: int, class_names: Sequence[str] = ()) -> Truth:
    """Classes of images in the order given, each one or several of `outputs`. Labels of ImageNet's 50 000
    validation images serve for a part of them, too, by their numbers. Raises ValueError in one line where a
    label is none, or none is there for an image."""
    rows = read_json(path) if path.suffix == ".json" else _read_text(path, images, class_names)
    if isinstance(rows, dict):
        found = _of_names(rows, images)
        missing = next((image for image, value in zip(images, found) if value is None), None)
        if missing is not None:
            raise ValueError(f"{path}: no label for {missing.name}")
        return [classes_in(value, outputs, path, class_names) for value in found]
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a list of classes, or an object from names of files to classes")
    values = [classes_in(row, outputs, path, class_names) for row in rows]
    numbers = [_VAL.search(image.name) for image in images]
    if len(values) == _IMAGENET_VAL and all(numbers):
        return [values[int(number[1]) - 1] for number in numbers if number]
    if len(values) != len(images):
        raise ValueError(f"{path}: {len(values)} labels for {len(images)} images")
    return values


def _of_names(rows: dict[str, Any], images: Sequence[Path]) -> list[Any]:
    """The row of each image, by the end of its path, its name, or its name without ending; None for none."""
    by_key = {_key(name): value for name, value in rows.items()}
    bases = Counter(_key(name).rpartition("/")[2] for name in rows)
    by_base = {
        _key(n).rpartition("/")[2]: v for n, v in rows.items() if bases[_key(n).rpartition("/")[2]] == 1
    }
    found = []
    for image in images:
        parts = image.as_posix().split("/")
        ends = ["/".join(parts[-n:]) for n in range(min(4, len(parts)), 0, -1)]
        keys = [key for end in ends for key in (end, end.rpartition(".")[0])]
        values = [by_key[key] for key in keys if key in by_key]
        values += [by_base[key] for key in (image.name, image.stem) if key in by_base]
        found.append(values[0] if values else None)
    return found


def _key(name: str) -> str:
    return name.strip().replace("\\", "/").removeprefix("./")


def _read_text(path: Path, images: Sequence[Path], class_names: Sequence[str]) -> dict[str, Any] | list[Any]:
    rows = _rows(path)
    names = {image.name for image in images} | {image.stem for image in images}
    width = Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
    if width < 2:
        cells = [row[0] for row in rows]
        return cells[1:] if cells and not _is_label(cells[0], class_names) else cells
    hits = [
        sum(_key(row[n]).rpartition("/")[2] in names for row in rows if len(row) > n) for n in range(width)
    ]
    distinct = [len({row[n] for row in rows if len(row) > n}) for n in range(width)]
    file = max(range(width), key=lambda n: (hits[n], distinct[n], -n))
    if not hits[file]:  # none of the images: the label may be the last cell of a table without names
        raise ValueError(f"{path}: no column names the images; its first line: {', '.join(rows[0])[:80]}")
    head = (
        rows[0]
        if _key(rows[0][file]).rpartition("/")[2] not in names and not _has_label(rows[0], file, class_names)
        else None
    )
    label = _label_column(path, head, width, file)
    return {row[file]: row[label] for row in rows[head is not None :] if len(row) > max(file, label)}


def _rows(path: Path) -> list[list[str]]:
    """The cells of a text file's lines."""
    if path.stat().st_size > _MOST:
        raise ValueError(f"{path} is too large for a list of labels")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: no text in UTF-8") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return []
    delimiter = next((mark for mark in "\t;," if mark in lines[0]), " ")
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"{path}: {error}") from None
    cells = [[cell.strip() for cell in row if cell.strip() or delimiter != " "] for row in rows]
    return [row for row in cells if any(row)]


def _label_column(path: Path, head: list[str] | None, width: int, file: int) -> int:
    others = [n for n in range(width) if n != file]
    if len(others) == 1:
        return others[0]
    named = [n for word in LABEL_NAMES for n in others if head and n < len(head) and head[n].lower() == word]
    if named:
        return named[0]
    raise ValueError(f"{path}: several columns may hold the label: {', '.join(head or ['?'] * width)}")


def _has_label(row: list[str], file: int, class_names: Sequence[str]) -> bool:
    return any(_is_label(cell, class_names) for n, cell in enumerate(row) if n != file)


def _is_label(cell: str, class_names: Sequence[str]) -> bool:
    first = cell.split()[0] if cell.split() else ""
    return bool(_NUMBER.fullmatch(cell) or WORDNET.fullmatch(first) or cell in class_names)


def read_json(path: Path) -> Any:
    """A JSON file. Raises ValueError where it is none."""
    try:
        if path.stat().st_size > _MOST:
            raise ValueError
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: no JSON") from None


def classes_in(value: Any, outputs: int, where: Path, class_names: Sequence[str] = ()) -> tuple[int, ...]:
    """One class or several: numbers, WordNet ids, or class names; what follows a WordNet id in a cell is a
    box, as in Kaggle's LOC_val_solution.csv. Raises ValueError for anything else, and for a number that the
    head lacks."""
    values = value if isinstance(value, list | tuple) else [value]
    found = []
    for one in values:
        text = str(one).strip()
        first = text.split()[0] if isinstance(one, str) and text else ""
        if isinstance(one, str) and text in class_names:
            found.append(list(class_names).index(text))
        elif WORDNET.fullmatch(first):
            found.append(output_of_synset(first, outputs, str(where)))
        elif isinstance(one, bool) or not _NUMBER.fullmatch(text):
            raise ValueError(f"{where}: a class must be a number or a WordNet id, found {one!r:.60}")
        else:
            found.append(int(float(text)))
    return tuple(found)
