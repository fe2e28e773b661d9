"""Class folders: FOLDER/cat/1.jpg. Classes are numbered in the order of their names.

Without such folders, images lie beside their labels as in a tar: FOLDER/1.jpg and 1.cls, .json, .txt.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from scalevit.data.class_names import order_class_names
from scalevit.data.decode import BrokenImage
from scalevit.data.formats.image_files import (
    LEAVES,
    SUFFIXES,
    image_files,
    is_inside,
    is_system_name,
    read_inside,
)
from scalevit.data.formats.labels import LABEL_SUFFIXES, Labels, labels_from
from scalevit.data.index.cache import UNCACHED, CachedReader
from scalevit.data.index.read import Builder, Header, ShardIndex, shard_stamp
from scalevit.data.left_out import LeftOut, printable
from scalevit.data.options import DEFAULTS, ListingOptions

#: Label files above this many bytes are refused.
_MOST_LABEL = 1 << 20
BESIDE = "an image beside the class folders"


def scan(path: str, options: ListingOptions = DEFAULTS, boundary: str = "") -> ShardIndex:
    """Index of a folder's images from its listing, and label files if there are any. boundary: the folder
    that links may not leave (the folder itself). Raises ValueError when it holds no image."""
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"{path}: there is no such folder")
    boundary = os.path.realpath(boundary or path)
    header = Header("folder", path, *shard_stamp(path, "folder"), options=options.as_dict())
    builder = Builder(header)
    links = options.follow_links
    classes = class_folders(root, boundary, builder.left_out, follow_links=links)
    if classes:
        builder.header = Header(**{**vars(header), "names": tuple(classes)})
        for label, name in enumerate(classes):
            folder = f"{path}/{name}"
            for file, length in image_files(folder, boundary, builder.left_out, follow_links=links):
                builder.add(0, length, (label,), name=file)
    else:
        for file, length in image_files(path, boundary, builder.left_out, follow_links=links, sidecars=True):
            labels = _labels(root / file, options.label, boundary, links)
            builder.add(0, length, labels, name=file)
    if not builder.rows:
        raise ValueError(_nothing(path, classes, builder.left_out))
    return builder.done()


def _nothing(path: str, classes: list[str], left_out: LeftOut) -> str:
    """Why a folder is no data set."""
    more = f"; {left_out.lines()[0]}" if left_out.total else ""
    if classes:
        return f"{path} holds {len(classes)} folders but no image ({', '.join(SUFFIXES[:6])}, …){more}"
    return f"{path} holds no folder for each class, and no image; expected {path}/CLASS/IMAGE.jpg{more}"


def class_folders(root: Path, boundary: str, left_out: LeftOut, *, follow_links: bool = False) -> list[str]:
    """Names of the class folders of a data set, in the order of their class numbers; images that lie beside
    class folders are left out."""
    folders, beside = [], list[str]()
    with os.scandir(root) as entries:
        for entry in entries:
            if is_system_name(entry.name):
                continue
            if entry.is_dir():
                if entry.is_symlink() and not (
                    follow_links or is_inside(os.path.realpath(entry.path), boundary)
                ):
                    left_out.add(LEAVES, entry.path)
                else:
                    folders.append(entry.name)
            elif entry.name.lower().endswith(SUFFIXES):
                beside.append(entry.path)
    if folders:
        for name in sorted(beside):
            left_out.add(BESIDE, name)
    return list(order_class_names(folders))


def _labels(image: Path, key: str, boundary: str, follow_links: bool) -> Labels:
    """Labels in the label file beside an image; None when there is none."""
    for suffix in LABEL_SUFFIXES:
        file = image.with_suffix(f".{suffix}")
        if file.is_file():
            try:
                data = read_inside(boundary, str(file), follow_links)
            except OSError as error:
                raise ValueError(f"{file}: {error.strerror}") from None
            if len(data) > _MOST_LABEL:
                raise ValueError(f"{file} has {len(data)} bytes, more than a label can have")
            return labels_from(data, str(file), key)
    return None


def name(index: ShardIndex, number: int) -> str:
    """The path of one image."""
    header = index.header
    label = int(index.records[number]["label"])
    if header.names and label >= len(header.names):
        raise ValueError(f"the index of {header.path} is damaged; remove it")
    folder = f"{header.names[label]}/" if header.names else ""
    return f"{header.path}/{folder}{index.text_of(number)}"


def encoded(index: ShardIndex, number: int, reader: CachedReader = UNCACHED) -> bytes:
    """The bytes of one image; each is a file of its own, whatever the reader."""
    return encoded_file(index, number, name(index, number), index.boundary or index.header.path)


def encoded_file(index: ShardIndex, number: int, path: str, boundary: str) -> bytes:
    """The bytes of a sample that is a file in the folder `boundary`; BrokenImage when it cannot be read."""
    try:
        data = read_inside(boundary, path, bool(index.header.options.get("follow_links")))
    except OSError as error:
        raise BrokenImage(f"{printable(path)}: {error.strerror}") from None
    if len(data) != int(index.records[number]["length"]):
        raise BrokenImage(f"{printable(path)} changed after the folder was indexed or listed")
    return data


def images_of(folder: Path, left_out: LeftOut, *, follow_links: bool = False) -> Iterator[Path]:
    """Paths of all images below a folder, by the rules of the listing."""
    boundary = os.path.realpath(folder)
    for file, _ in image_files(str(folder), boundary, left_out, follow_links=follow_links):
        yield folder / file
