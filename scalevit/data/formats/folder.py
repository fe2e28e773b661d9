"""Images in a folder for each class: FOLDER/cat/1.jpg. Classes are numbered in the order of their names.

Without such folders, images lie beside their labels as in a tar: FOLDER/1.jpg and 1.cls, .json, .txt.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from scalevit.data.decode import ENDINGS, BrokenImage
from scalevit.data.formats.labels import LABELS, Labels, labels_from
from scalevit.data.index.cache import UNCACHED, CachedReader
from scalevit.data.index.read import Builder, Header, ShardIndex, shard_stamp


def scan(path: str) -> ShardIndex:
    """An index of a folder's images from its listing, and label files if there are any. Raises ValueError
    when it holds none."""
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"{path}: there is no such folder")
    classes = sorted(item.name for item in root.iterdir() if item.is_dir() and not item.name.startswith("."))
    builder = Builder(Header("folder", path, *shard_stamp(path, "folder"), names=tuple(classes)))
    for label, name in enumerate(classes):
        for file, length in _images(root / name):
            builder.add(0, length, (label,), name=file)
    if not classes:
        for file, length in _images(root):
            builder.add(0, length, _labels(root / file), name=file)
    if not builder.rows and not classes:
        raise ValueError(
            f"{path} holds no folder for each class, and no image; expected {path}/CLASS/IMAGE.jpg"
        )
    if not builder.rows:
        raise ValueError(f"{path} holds {len(classes)} folders but no image ({', '.join(ENDINGS)})")
    return builder.done()


def _images(folder: Path) -> Iterator[tuple[str, int]]:
    """(name below the folder, bytes) of every image, in a fixed order; follows no link."""
    for here, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            if file.lower().endswith(ENDINGS) and not file.startswith("."):
                full = os.path.join(here, file)  # noqa: PTH118  (Path costs more than the listing)
                try:
                    length = os.stat(full).st_size  # noqa: PTH116
                except OSError:
                    length = 0  # a dangling link: reading it will say so
                yield os.path.relpath(full, folder), min(length, 2**32 - 1)


def _labels(image: Path) -> Labels:
    """What the label file beside an image says; None when there is none."""
    for ending in LABELS:
        file = image.with_suffix(f".{ending}")
        if file.is_file():
            return labels_from(file.read_bytes(), str(file))
    return None


def name(index: ShardIndex, number: int) -> str:
    """The path of one image."""
    header = index.header
    folder = f"{header.names[int(index.records[number]['label'])]}/" if header.names else ""
    return f"{header.path}/{folder}{index.text_of(number)}"


def encoded(index: ShardIndex, number: int, reader: CachedReader = UNCACHED) -> bytes:
    """The bytes of one image; each is a file of its own, whatever the reader."""
    path = Path(name(index, number))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BrokenImage(f"{path}: {error.strerror}") from None
    if len(data) != int(index.records[number]["length"]):
        raise BrokenImage(f"{path} changed after the folder was indexed or listed")
    return data
