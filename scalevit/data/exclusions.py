"""Exclusion lists: samples that a run leaves out (`data.exclude`), as `scalevit data dedup` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scalevit.artifacts.atomic_write import atomic_path
from scalevit.data.dataset import ImageDataset

if TYPE_CHECKING:
    from scalevit.data.dedup.search import Match

#: Numbers of samples where none are excluded.
NO_EXCLUSIONS = np.empty(0, np.int64)


#: Lines of a list of exclusions whose names are compared.
_LOOKED_AT = 1000


_TITLE = "# scalevit exclusions; samples:"


def write_exclusions(target: Path, train: ImageDataset, matches: list[tuple[Match, str]]) -> None:
    """One line a sample: its number, its name, the evaluation image that it copies, bits of difference."""
    lines = [f"{_TITLE} {train.samples}"]
    lines += [f"{m.train}\t{train.name(m.train)}\t{name}\t{m.bits}" for m, name in sorted(matches)]
    with atomic_path(target) as part:
        part.write_text("\n".join(lines) + "\n", errors="surrogateescape")


def read_exclusions(path: str, store: ImageDataset) -> np.ndarray:
    """Sorted numbers of the samples to leave out; ValueError when the list is of another store, or of all."""
    try:
        title, *lines = Path(path).read_text(errors="surrogateescape").splitlines()
        rows = [line.split("\t") for line in lines]
        numbers = [int(row[0]) for row in rows]
    except OSError as error:
        raise ValueError(f"{path}: cannot read the exclusions ({error.strerror})") from None
    except ValueError:
        raise ValueError(f"{path} is no list of exclusions as scalevit data dedup writes it") from None
    looked_at = range(0, len(rows), len(rows) // _LOOKED_AT + 1)
    if title != f"{_TITLE} {store.samples}" or any(
        not 0 <= numbers[n] < store.samples or _last(rows[n][1]) != _last(store.name(numbers[n]))
        for n in looked_at
    ):
        raise ValueError(f"{path} excludes samples of another source, or in another order; dedup again")
    found = np.unique(np.array(numbers, np.int64))
    if len(found) == store.samples:
        raise ValueError(f"{path} excludes all {store.samples} samples")
    return found


def _last(name: str) -> str:
    """A sample's name without the folders that it lies in: they may be moved."""
    return name.rpartition("/")[2]


def skip_excluded(numbers: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """The numbers-th samples that are not excluded (sorted), in a store that has these left out."""
    return numbers + np.searchsorted(excluded - np.arange(len(excluded)), numbers, side="right")
