"""Names of splits: which half of a data set a folder, a file or a row belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

#: The words of each split, in lower case; a word stands alone or begins a file's name (train-00000.tar).
SPLIT_WORDS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training", "support"),
    "val": ("val", "valid", "validation", "dev", "eval", "query"),
    "test": ("test", "testing", "t10k"),
}
SPLITS = tuple(SPLIT_WORDS)
_OF_WORD = {word: split for split, words in SPLIT_WORDS.items() for word in words}
_FIRST_WORD = re.compile(r"[A-Za-z]+(?:10k)?")


def split_of_word(word: str) -> str:
    """The split that a word names, in any case; "" for any other word."""
    return _OF_WORD.get(word.strip().lower(), "")


def split_of_file(name: str) -> str:
    """The split that a file's name begins with, as in train-00000-of-00002.parquet; "" for none."""
    first = _FIRST_WORD.match(name)
    rest = name[first.end() :] if first else ""
    return split_of_word(first.group()) if first and not rest[:1].isalpha() else ""


def named_splits(found: Iterable[str]) -> tuple[str, ...]:
    """Distinct splits in their usual order: train, val, test."""
    there = set(found)
    return tuple(split for split in SPLITS if split in there)


def split_value(value: Any) -> str:
    """The split that a cell names; 0 and 1, False and True are train and test; "" for anything else."""
    if isinstance(value, bool | int) and value in (0, 1):
        return ("train", "test")[int(value)]
    return split_of_word(value) if isinstance(value, str) else ""
