"""Labelled images to probe with: a support set to learn from, a query set, and what tells one from another.

Images stay as they are found (uint8, any size, grey or colour); features.py fits them to a model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from scalevit.data.dataset import ImageDataset

#: Files of so many bytes together are told apart by all their bytes; of more, by names, sizes, times of
#: change and the bytes of this many of their images, evenly spread.
ALL_BYTES, SAMPLED = 1 << 28, 64


@runtime_checkable
class Images(Protocol):
    """uint8 images by index, (h, w) or (h, w, 3); an array (n, h, w[, 3]) is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class ProbeSet:
    """support and query images with a label each (numbers or names). whole: centred objects that fill the
    frame, so that a model's central crop would cut them; fingerprint: of pixels and labels. class_names: in
    the order of class numbers, () where labels are numbers."""

    name: str
    support: Images
    support_labels: np.ndarray
    query: Images
    query_labels: np.ndarray
    whole: bool
    fingerprint: str
    class_names: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        return len(np.unique(self.support_labels))


class ImageFiles:
    """Image files, decoded when asked for."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        from scalevit.data.decode import decode
        from scalevit.data.formats.image_files import read_regular

        return decode(read_regular(str(self.paths[index])), str(self.paths[index]))


class DatasetImages:
    """Some images of a dataset, by their numbers there."""

    def __init__(self, dataset: ImageDataset, numbers: np.ndarray) -> None:
        self.dataset, self.numbers = dataset, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> np.ndarray:
        from scalevit.data.decode import decode

        number = int(self.numbers[index])
        return decode(self.dataset.encoded(number), self.dataset.name(number))


class ImageSubset:
    """Some images of others, by their numbers there."""

    def __init__(self, images: Images, numbers: np.ndarray) -> None:
        self.images, self.numbers = images, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[int(self.numbers[index])]


def select(images: Images, numbers: np.ndarray) -> Images:
    """The images of these numbers (n,)."""
    return images[numbers] if isinstance(images, np.ndarray) else ImageSubset(images, numbers)


def from_arrays(
    name: str, x: np.ndarray, y: np.ndarray, split: np.ndarray | None = None, *, where: str = ""
) -> ProbeSet:
    """A probe set of arrays in memory: x (n, h, w[, 1 or 3]) uint8, y (n,), split (n,) 0 support, 1 query."""
    where = where or name
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or x.shape[3:] not in ((), (1,), (3,)) or 0 in x.shape:
        raise ValueError(f"{where}: x must be uint8 (n, h, w) or (n, h, w, 3), found {x.dtype} {x.shape}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"{where}: y must hold one label for each of {len(x)} images, found shape {y.shape}")
    support = split_by_class(y) if split is None else split == 0
    if split is not None and (split.shape != y.shape or not np.isin(split, (0, 1)).all()):
        raise ValueError(f"{where}: split must hold a 0 (support) or 1 (query) for each of {len(x)} images")
    x = x[..., 0] if x.shape[3:] == (1,) else x
    fingerprint = digest([x.tobytes(), str(x.shape).encode(), label_bytes(y), support.tobytes()])
    return validate_probe_set(
        ProbeSet(name, x[support], y[support], x[~support], y[~support], True, fingerprint), where
    )


def split_by_class(labels: np.ndarray) -> np.ndarray:
    """bool (n,): True for the first half of each class in the order of seed 0."""
    from scalevit.evals.fewshot_sampling import class_permutations

    support = np.zeros(len(labels), bool)
    for order in class_permutations(labels, 0):
        support[order[: (len(order) + 1) // 2]] = True
    return support


def validate_probe_set(found: ProbeSet, where: str) -> ProbeSet:
    """The set; ValueError where a half is empty, has classes of its own, or there is one class only."""
    for half, labels in (("support", found.support_labels), ("query", found.query_labels)):
        if not len(labels):
            raise ValueError(f"{where}: the {half} set is empty")
    unknown = np.setdiff1d(found.query_labels, found.support_labels)
    if len(unknown):
        some = ", ".join(map(str, unknown[:5])) + (", …" if len(unknown) > 5 else "")
        raise ValueError(f"{where}: classes of the query set without a support image: {some}")
    if found.classes < 2:
        raise ValueError(f"{where}: one class only ({found.support_labels[0]}); a probe needs two")
    return found


def label_bytes(labels: np.ndarray) -> bytes:
    """Labels of any kind, for a fingerprint."""
    return str(labels.dtype.kind).encode() + (
        labels.astype(np.int64).tobytes()
        if labels.dtype.kind in "iub"
        else "\0".join(map(str, labels)).encode()
    )


def digest(parts: Iterable[bytes]) -> str:
    """SHA-256 of byte strings and of where each ends."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def digest_of_files(files: Sequence[Path], encoded: Callable[[int], bytes], count: int, labels: bytes) -> str:
    """The fingerprint of `count` images kept in `files`: see `ALL_BYTES`. encoded: an image's bytes by its
    number. A big set that was copied or touched counts as another: its features are computed anew."""
    states = [file.stat() for file in files]
    if sum(state.st_size for state in states) <= ALL_BYTES:
        return digest([*map(encoded, range(count)), labels])
    told = [f"{f.name} {s.st_size} {s.st_mtime_ns}".encode() for f, s in zip(files, states)]
    looked_at = np.unique(np.linspace(0, count - 1, SAMPLED).astype(int)).tolist()
    return digest([*told, *map(encoded, looked_at), labels])
