"""Listing of a source: which splits it has, and which files hold the images of each.

The only place that decides what a path is, for training, probing, fine-tuning and evaluation alike. The rules
are stated in docs/data.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from scalevit.artifacts.remote import expand_glob, is_remote
from scalevit.data.formats.idx import idx_files
from scalevit.data.formats.image_files import SUFFIXES, is_system_name
from scalevit.data.formats.image_list import SUFFIXES as LIST_SUFFIXES
from scalevit.data.formats.image_list import ImageNames, images_below, list_columns, names_images, read_list
from scalevit.data.left_out import LeftOut
from scalevit.data.options import DEFAULTS, ListingOptions
from scalevit.data.splits import SPLIT_WORDS, named_splits, split_of_file, split_of_word

#: The format of a shard by its ending.
FORMAT_BY_SUFFIX = {".tar": "tar", ".parquet": "parquet", ".arrow": "arrow", ".npz": "npz"}
#: Endings of shards that lie beside each other in a folder.
_SHARDS = (".tar", ".parquet", ".arrow")
#: Folders that hold all images of a data set and are no class.
_IMAGE_FOLDERS = ("images", "imgs", "img", "image", "jpegimages", "jpegs", "jpg", "pictures", "photos")
BESIDE_SPLITS, BESIDE_SHARDS = "beside the split folders", "beside the shards"
OTHER_FOLDER, OTHER_LIST, EMPTY = "another folder of the same split", "another list", "an empty split folder"


class ShardPaths(NamedTuple):
    """Shards of one format. folder: the path or pattern that they were found by."""

    form: str
    paths: list[str]
    folder: str


@dataclass(frozen=True)
class Listing:
    """splits: the shards of each split, "" where nothing names one. boundary: the folder that no link may
    leave, "" where there is none. left_out: what lies beside them."""

    source: str
    splits: dict[str, ShardPaths]
    boundary: str = ""
    left_out: LeftOut = field(default_factory=LeftOut)


class _Entries(NamedTuple):
    """What is visible in a folder: names of subfolders, and of files."""

    folders: list[str]
    files: list[str]

    @property
    def images(self) -> list[str]:
        return [name for name in self.files if name.lower().endswith(SUFFIXES)]

    def ending(self, suffixes: Iterable[str]) -> list[str]:
        return [name for name in self.files if name.lower().endswith(tuple(suffixes))]


def list_source(source: str, options: ListingOptions = DEFAULTS) -> Listing:
    """The listing of a path, pattern or address. Raises ValueError where it is none of ours."""
    if not is_remote(source) and Path(source).is_dir():
        folder = source.rstrip("/") or "/"
        left_out = LeftOut()
        splits = _of_folder(folder, options, left_out)
        return Listing(source, splits, os.path.realpath(folder), left_out)
    path = Path(source)
    if not is_remote(source) and path.is_file():
        return Listing(source, {"": _of_file(path)}, os.path.realpath(path.parent))
    paths = expand_glob(source)
    form = FORMAT_BY_SUFFIX.get(Path(paths[0].split("?")[0]).suffix)
    if form is None:
        there = is_remote(source) or path.exists()
        known = f"no folder, and not one of {', '.join(FORMAT_BY_SUFFIX)}"
        raise ValueError(f"{source}: {known if there else 'there is no such file or folder'}")
    return Listing(source, {"": ShardPaths(form, paths, source)})


def _of_file(path: Path) -> ShardPaths:
    form = FORMAT_BY_SUFFIX.get(path.suffix.lower())
    if form is None and path.suffix.lower() in LIST_SUFFIXES:
        form = "list"
    if form is None and any(path in pair for pair in idx_files(path.parent).values()):
        form = "idx"
    if form is None:
        known = ", ".join((*FORMAT_BY_SUFFIX, *LIST_SUFFIXES))
        raise ValueError(f"{path}: no folder, and not one of {known}")
    return ShardPaths(form, [str(path)], str(path))


def is_source(path: Path) -> bool:
    """Whether a file, or what lies in a folder, is a shard or a list, rather than a folder of weights."""
    if path.is_dir():
        entries = visible(str(path))
        data = path / "data"
        shards = entries.ending(_SHARDS) or (data.is_dir() and visible(str(data)).ending(_SHARDS))
        return bool(shards or idx_files(path))
    of_weights = path.name.lower().endswith((".pth.tar", ".pt.tar", ".ckpt.tar"))
    return path.is_file() and path.suffix.lower() in (*FORMAT_BY_SUFFIX, *LIST_SUFFIXES) and not of_weights


def visible(folder: str) -> _Entries:
    """Names in a folder that a user put there, in their order."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not is_system_name(entry.name):
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise ValueError(f"{folder}: {error.strerror}") from None
    return _Entries(folders, files)


def _of_folder(
    folder: str, options: ListingOptions, left_out: LeftOut, *, nested: bool = False
) -> dict[str, ShardPaths]:
    """The splits of a folder; nested: in a split folder, which has no splits of its own."""
    entries = visible(folder)
    shards = _shards_in(folder, entries, left_out, nested)
    if shards:
        return shards
    if pairs := idx_files(Path(folder)):
        return {split: ShardPaths("idx", [str(images)], str(images)) for split, (images, _) in pairs.items()}
    splits = {} if nested else _split_folders(entries)
    if splits and any(_is_structured(f"{folder}/{name}") for name in splits.values()):
        return _of_split_folders(folder, entries, splits, options, left_out)
    lists = _lists_in(folder, entries, options, left_out)
    if lists:
        return {"": next(iter(lists.values()))} if nested else lists
    if splits:
        return _of_split_folders(folder, entries, splits, options, left_out)
    if len(entries.folders) == 1 and not entries.images:
        inner = entries.folders[0]
        if inner.lower() in _IMAGE_FOLDERS or (inner.lower() == "data" and not nested):
            return _of_folder(f"{folder}/{inner}", options, left_out, nested=nested)
    return {"": ShardPaths("folder", [folder], folder)}


# --------------------------------------------------------------------------- shards


def _shards_in(folder: str, entries: _Entries, left_out: LeftOut, nested: bool) -> dict[str, ShardPaths]:
    """Shards of a folder, or of its folder data/, by the splits that their names begin with."""
    for suffix in _SHARDS:
        names = entries.ending((suffix,))
        if names:
            for name in entries.images:
                left_out.add(BESIDE_SHARDS, f"{folder}/{name}")
            return _by_split(folder, FORMAT_BY_SUFFIX[suffix], names, nested)
    if "data" in entries.folders and visible(f"{folder}/data").ending(_SHARDS):
        return _shards_in(f"{folder}/data", visible(f"{folder}/data"), left_out, nested)
    return {}


def _by_split(folder: str, form: str, names: list[str], nested: bool) -> dict[str, ShardPaths]:
    split_of = {name: split_of_file(name) for name in names}
    splits = named_splits(split_of.values())
    if nested or not all(split_of.values()) or not splits:
        named = sorted(n for n in names if split_of[n])
        if named and len(splits) > 1 and not nested:
            odd = next(name for name in names if not split_of[name])
            raise ValueError(
                f"{folder}: {named[0]} is named for a split, {odd} is not; give them as a pattern such as "
                f"'{folder}/{odd[:1]}*'"
            )
        return {"": ShardPaths(form, [f"{folder}/{name}" for name in names], folder)}
    return {
        split: ShardPaths(form, [f"{folder}/{n}" for n in names if split_of[n] == split], folder)
        for split in splits
    }


# --------------------------------------------------------------------------- split folders


def _split_folders(entries: _Entries) -> dict[str, str]:
    """The folder of each split; {} where folders are classes: one may be called "train" among others."""
    named = {name: split for name in entries.folders if (split := split_of_word(name))}
    splits = named_splits(named.values())
    if not named or (len(named) < len(entries.folders) and len(splits) < 2):
        return {}
    order = {word: number for words in SPLIT_WORDS.values() for number, word in enumerate(words)}
    first = sorted(named, key=lambda name: (order[name.lower()], name))
    return {split: next(name for name in first if named[name] == split) for split in splits}


def _is_structured(folder: str) -> bool:
    """Whether a split folder has labels of its own: class folders, shards, or a list."""
    entries = visible(folder)
    return bool(
        [name for name in entries.folders if name.lower() not in _IMAGE_FOLDERS]
        or entries.ending(_SHARDS)
        or [name for name in entries.ending(LIST_SUFFIXES) if name.lower().startswith("metadata.")]
    )


def _of_split_folders(
    folder: str, entries: _Entries, splits: dict[str, str], options: ListingOptions, left_out: LeftOut
) -> dict[str, ShardPaths]:
    found = {}
    for split, name in splits.items():
        inner = visible(f"{folder}/{name}")
        if inner.folders or inner.files:
            found[split] = _of_folder(f"{folder}/{name}", options, left_out, nested=True)[""]
        else:
            left_out.add(EMPTY, f"{folder}/{name}")
    for name in entries.folders:
        if name not in splits.values():
            left_out.add(OTHER_FOLDER if split_of_word(name) else BESIDE_SPLITS, f"{folder}/{name}")
    for name in entries.images:
        left_out.add(BESIDE_SPLITS, f"{folder}/{name}")
    if not found:
        raise ValueError(f"{folder}: its folders {', '.join(splits.values())} are empty")
    return found


# --------------------------------------------------------------------------- lists


def _lists_in(
    folder: str, entries: _Entries, options: ListingOptions, left_out: LeftOut
) -> dict[str, ShardPaths]:
    """Lists of images in a folder, by split; {} where there are class folders, or no list of images."""
    names = [name for name in entries.ending(LIST_SUFFIXES) if not _is_sidecar(name, entries)]
    metadata = [name for name in names if name.lower().startswith("metadata.")]
    has_classes = len([n for n in entries.folders if not split_of_word(n)]) > 1 and not entries.images
    names = metadata or ([] if has_classes else names)
    if not names:
        return {}
    images = images_below(folder, os.path.realpath(folder), LeftOut(), options.follow_links)
    names = [name for name in names if names_images(Path(folder, name), images)]
    if has_classes:
        names = [name for name in names if _has_labels(Path(folder, name), images, options)]
    if not names:
        return {}
    return _lists_by_split(folder, names, metadata, left_out)


def _lists_by_split(
    folder: str, names: Sequence[str], metadata: Sequence[str], left_out: LeftOut
) -> dict[str, ShardPaths]:
    split_of = {name: _split_of_list(name) for name in names if name not in metadata}
    chosen: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (name not in metadata, len(name), name)):
        split = split_of.get(name, "")
        if split_of and not split and any(split_of.values()):
            left_out.add(OTHER_LIST, f"{folder}/{name}")
        elif split in chosen:
            if not metadata and not split:
                two = f"{chosen[split]} and {name}"
                raise ValueError(f"{folder}: {two} both list its images; give one of them as the source")
            left_out.add(OTHER_LIST, f"{folder}/{name}")
        else:
            chosen[split] = name
    return {split: _list_shard(folder, name) for split, name in chosen.items()}


def _list_shard(folder: str, name: str) -> ShardPaths:
    return ShardPaths("list", [f"{folder}/{name}"], f"{folder}/{name}")


def _split_of_list(name: str) -> str:
    """The split in a list's name, as in train.csv, train_labels.csv or labels-val.txt; "" for none."""
    words = name.rpartition(".")[0].replace("-", "_").replace(".", "_").split("_")
    return next(filter(None, map(split_of_word, words)), "")


def _is_sidecar(name: str, entries: _Entries) -> bool:
    """Whether a text file is the label file of an image beside it."""
    stem = name.rpartition(".")[0]
    return name.lower().endswith(".txt") and any(image.rpartition(".")[0] == stem for image in entries.images)


def _has_labels(path: Path, images: ImageNames, options: ListingOptions) -> bool:
    return list_columns(read_list(path, images), images, path, options).label is not None
