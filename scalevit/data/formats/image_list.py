"""Lists of images: a folder of images, and a file that says which class each has.

CSV, TSV or text with `;` (with a head line or without), lines of `path label`, or JSON lines: `metadata.csv`
and `metadata.jsonl` as Hugging Face has them, Kaggle's `train.csv`, `train.txt`. Images are looked up among
those that lie in the list's folder, so that no name leads out of it.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from scalevit.artifacts.remote import file_version
from scalevit.config.dataclass_io import nearest_names
from scalevit.data.class_names import listed
from scalevit.data.formats.folder import encoded_file
from scalevit.data.formats.image_files import image_files, read_regular
from scalevit.data.formats.labels import key_of, label_values
from scalevit.data.index.cache import UNCACHED, CachedReader
from scalevit.data.index.read import Builder, Header, ShardIndex
from scalevit.data.left_out import LeftOut
from scalevit.data.options import DEFAULTS, ListingOptions
from scalevit.data.splits import split_value

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl")
#: Names of columns of files' names, in lower case.
_FILE_NAMES = (
    "file_name", "filename", "file", "path", "filepath", "file_path", "image", "img", "image_path",
    "img_path", "image_id", "image_name", "id", "name", "imageid", "image_file", "fname",
)  # fmt: skip
_NUMBER = re.compile(r"\d+(\.0+)?")
#: A list above this many bytes is refused.
_MOST = 1 << 28
NOT_THERE, NOT_LISTED = "listed, but not there", "an image that the list leaves out"
TWO = "listed, but several images have that name"


class ImageNames:
    """Images of a folder by what a list may call them: the path below it, the end of a path, the name with
    or without its ending. sizes: bytes by path below the folder."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        bases = Counter(path.rpartition("/")[2] for path in sizes)
        stems = Counter(_stem(path) for path in sizes)
        self._by_base = {p.rpartition("/")[2]: p for p in sizes if bases[p.rpartition("/")[2]] == 1}
        self._by_stem = {_stem(p): p for p in sizes if stems[_stem(p)] == 1}
        self._stems_of_path = {p.rpartition(".")[0]: p for p in sizes}
        self._several = {base for base, n in bases.items() if n > 1} | {s for s, n in stems.items() if n > 1}

    def find(self, name: str) -> str | None:
        """The path of the image that a list calls so; None where there is none, or several may be it."""
        path = str(PurePosixPath(name.strip().replace("\\", "/")))
        if path in self.sizes:
            return path
        base = path.rpartition("/")[2]
        return (
            self._stems_of_path.get(path)
            or self._by_base.get(base)
            or self._by_stem.get(base)
            or self._by_stem.get(_stem(base))
        )

    def is_ambiguous(self, name: str) -> bool:
        """Whether several images have this name in different folders."""
        return name.replace("\\", "/").rpartition("/")[2] in self._several


def _stem(path: str) -> str:
    base = path.rpartition("/")[2]
    return base.rpartition(".")[0] or base


@dataclass(frozen=True)
class ListTable:
    """Rows of a list, and the names of its columns ("" for none)."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]


def read_list(path: Path, names: ImageNames) -> ListTable:
    """The rows of a list file; its first line is a head when no cell of it names an image. Raises ValueError
    where it is no text, too large, or bad JSON."""
    try:
        data = read_regular(str(path), _MOST + 1)
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if len(data) > _MOST:
        raise ValueError(f"{path} is too large for a list of images")
    if path.suffix.lower() == ".jsonl":
        return _json_rows(path, text)
    rows = _text_rows(path, text)
    if rows and not any(names.find(cell) for cell in rows[0] if cell.strip()):
        return ListTable(tuple(cell.strip() for cell in rows[0]), rows[1:])
    width = max(map(len, rows), default=0)
    return ListTable(("",) * width, rows)


def _text_rows(path: Path, text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    first = lines[0] if lines else ""
    delimiter = next((mark for mark in "\t;," if mark in first), "")
    if not delimiter:
        return [line.rsplit(maxsplit=1) for line in lines]
    try:
        return [row for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True) if row]
    except csv.Error as error:
        raise ValueError(f"{path}: {error}") from None


def _json_rows(path: Path, text: str) -> ListTable:
    rows = list[dict[str, Any]]()
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise ValueError(f"{path} line {number} is no JSON") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path} line {number} is no JSON object")
            rows.append(row)
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return ListTable(columns, [[row.get(key) for key in columns] for row in rows])


@dataclass(frozen=True)
class ListColumns:
    """Numbers of a list's columns; label and split: None where there is none."""

    image: int
    label: int | None
    split: int | None


def list_columns(table: ListTable, names: ImageNames, path: Path, options: ListingOptions) -> ListColumns:
    """The columns of images, labels and splits, chosen by `options`, else by name, else by what resolves.
    Raises ValueError with the list of columns where the image's or the label's cannot be told."""
    columns = table.columns
    image = _chosen(columns, options.image, path) if options.image else _image_column(table, names, path)
    split = _chosen(columns, options.split or "split", path) if options.split or "split" in columns else None
    others = [n for n in range(len(columns)) if n not in (image, split)]
    if not any(columns):
        return ListColumns(image, others[0] if len(others) == 1 else None, split)
    key = key_of([columns[n] for n in others], options.label, str(path))
    return ListColumns(image, columns.index(key) if key is not None else None, split)


def _chosen(columns: Sequence[str], name: str, path: Path) -> int:
    if name not in columns:
        near = ", ".join(nearest_names(name, list(columns)))
        raise ValueError(f"{path} has no column {name!r}; nearest: {near}")
    return columns.index(name)


def _image_column(table: ListTable, names: ImageNames, path: Path) -> int:
    """The column whose cells name images: of those, one that is called so, else the only one."""
    found = [n for n in range(len(table.columns)) if _share_found(table.rows, n, names) > 0]
    if not found:
        raise ValueError(
            f"{path}: no column names images that lie beside it; its columns: {listed(table.columns)}"
        )
    by_name = [n for word in _FILE_NAMES for n in found if table.columns[n].lower() == word]
    return by_name[0] if by_name else max(found, key=lambda n: _share_found(table.rows, n, names))


def _share_found(rows: Sequence[Sequence[Any]], column: int, names: ImageNames) -> float:
    cells = [row[column] for row in rows[:200] if len(row) > column]
    hits = sum(names.find(cell) is not None for cell in cells if isinstance(cell, str) and cell.strip())
    return hits / max(1, len(cells))


def images_below(folder: str, boundary: str, left_out: LeftOut, follow_links: bool = False) -> ImageNames:
    """The images that a list in this folder may name."""
    return ImageNames(dict(image_files(folder, boundary, left_out, follow_links=follow_links, sidecars=True)))


def names_images(path: Path, images: ImageNames) -> bool:
    """Whether some column of a file names images of a folder."""
    try:
        table = read_list(path, images)
        _image_column(table, images, path)
    except ValueError:
        return False
    return True


def scan(path: str, options: ListingOptions = DEFAULTS, boundary: str = "") -> ShardIndex:
    """Index of the images that a list names, in the order of its rows. Raises ValueError where none of them
    is there, or the columns cannot be told."""
    file, left_out = Path(path), LeftOut()
    folder = str(file.parent)
    boundary = os.path.realpath(boundary or folder)
    names = images_below(folder, boundary, LeftOut(), options.follow_links)
    table = read_list(file, names)
    chosen = list_columns(table, names, file, options)
    header = Header("list", path, *file_version(path), columns=table.columns, options=options.as_dict())
    builder, used = Builder(header, left_out=left_out), set[str]()
    as_number = _is_number_column(table, chosen.label)
    for row in table.rows:
        cell = row[chosen.image] if len(row) > chosen.image else None
        image = names.find(cell) if isinstance(cell, str) else None
        if image is None:
            ambiguous = isinstance(cell, str) and names.is_ambiguous(cell)
            left_out.add(TWO if ambiguous else NOT_THERE, str(cell))
            continue
        used.add(image)
        label = _cell(row, chosen.label)
        labels = label_values(label.partition(".")[0] if as_number and label else label, path)
        builder.add(0, names.sizes[image], labels, name=image, split=split_value(_cell(row, chosen.split)))
    _count_unlisted(left_out, names, used, file)
    if not builder.rows:
        raise ValueError(f"{path}: none of the images that it lists is there")
    return builder.done()


def _is_number_column(table: ListTable, column: int | None) -> bool:
    """Whether a column of text holds whole numbers only, some of them written as 3.0."""
    cells = [cell for row in table.rows if (cell := _cell(row, column)) not in (None, "")]
    return bool(cells) and all(isinstance(cell, str) and _NUMBER.fullmatch(cell) for cell in cells)


def _cell(row: Sequence[Any], column: int | None) -> Any:
    value = row[column] if column is not None and len(row) > column else None
    return value.strip() if isinstance(value, str) else value


def _count_unlisted(left_out: LeftOut, names: ImageNames, used: Iterable[str], file: Path) -> None:
    """Count images in no row; where a folder has several lists, each is of some of the images."""
    lists = [other for other in file.parent.iterdir() if other.suffix.lower() in (".csv", ".jsonl", ".tsv")]
    for image in sorted(names.sizes.keys() - set(used)) if len(lists) < 2 else ():
        left_out.add(NOT_LISTED, image)


def name(index: ShardIndex, number: int) -> str:
    """The path of one image."""
    return f"{os.path.dirname(index.header.path)}/{index.text_of(number)}"  # noqa: PTH120


def encoded(index: ShardIndex, number: int, reader: CachedReader = UNCACHED) -> bytes:
    """The bytes of one image."""
    folder = index.boundary or str(Path(index.header.path).parent)
    return encoded_file(index, number, name(index, number), folder)
