"""Labels as people write them: small files beside images, cells of tables, values of JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from scalevit.config.dataclass_io import nearest_names
from scalevit.data.class_names import listed
from scalevit.data.left_out import printable

#: Endings of label files; the first that is there counts.
LABEL_SUFFIXES = ("cls", "json", "txt")
#: Names of columns and keys that hold the labels, in lower case; the first two come before any other.
LABEL_NAMES = (
    "label", "labels", "cls", "class", "class_id", "class_name", "class_label", "target", "targets", "y",
    "category", "category_id", "fine_label", "label_id", "target_id", "species",
)  # fmt: skip
_NEGATIVE = re.compile(r"-\d+")
#: A class's name is at most so long.
_LONGEST_NAME = 1000

#: Numbers or names of a sample's classes; None where they are not known.
Labels = tuple[int | str, ...] | None


def labels_from(data: bytes, name: str, key: str = "") -> Labels:
    """The classes that a label file holds: numbers in text; one word or line in a .cls file; JSON, in an
    object the value of `key` or of one of LABEL_NAMES. `[]` means none of the classes, None that the file
    does not say: it is empty, a caption, or an object without a label. Raises ValueError naming the file
    otherwise."""
    text = data.decode("utf-8-sig", "surrogateescape").strip()
    words = text.replace(",", " ").split()
    if all(word.isascii() and word.isdigit() and len(word) <= 18 for word in words):
        return tuple(int(word) for word in words) or None
    if not text.startswith(("{", "[", '"')) and not name.endswith(".json"):
        if name.endswith(".txt"):
            return None  # a caption
        if "\n" in text or _NEGATIVE.fullmatch(text) or len(text) > _LONGEST_NAME:
            raise _no_class(text, name)
        return (text,)
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise _no_class(text, name) from None
    if isinstance(value, dict):
        value = value[key_of(value, key, name)] if _has_key(value, key, name) else None
    try:
        return label_values(value, name)
    except ValueError:
        raise _no_class(text, name) from None


def _has_key(value: dict[str, Any], key: str, name: str) -> bool:
    return key_of(value, key, name) is not None


def key_of(names: Sequence[str] | dict[str, Any], chosen: str, where: str) -> Any:
    """The column or key that holds the label: `chosen`, or the one of LABEL_NAMES; None where there is none.
    Raises ValueError with the list where the choice is not there, or several may be it."""
    if chosen:
        if chosen not in names:
            near = ", ".join(nearest_names(chosen, list(names)))
            raise ValueError(f"{where} has no column or key {chosen!r}; nearest: {near}")
        return chosen
    candidates = [name for name in names if isinstance(name, str) and name.lower() in LABEL_NAMES]
    first = [name for word in LABEL_NAMES[:2] for name in candidates if name.lower() == word]
    if len(candidates) > 1 and not first:
        raise ValueError(
            f"{where}: several columns may hold the label: {listed(candidates)}; choose one with data.label="
        )
    return next(iter([*first, *candidates]), None)


def label_values(value: Any, where: str) -> Labels:
    """Classes from a cell or JSON value: numbers (whole floats and bools are numbers), names, lists of them;
    None, NaN, -1 and "" mean that the class is not known. Raises ValueError for anything else."""
    if isinstance(value, list | tuple):
        several = [label_values(one, where) for one in value]
        if several == [None]:
            return None
        if any(one is None or len(one) != 1 for one in several):
            raise ValueError(f"{where}: labels must be numbers, names or lists of them, found {value!r:.60}")
        return tuple(one[0] for one in several if one)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        value = int(value) if value.is_integer() else value
    if value is None or value in (-1, ""):
        return None
    if isinstance(value, bool | int):
        return (int(value),)
    if isinstance(value, str) and len(value) <= _LONGEST_NAME:
        return (value,)
    raise ValueError(f"{where}: labels must be numbers, names or lists of them, found {value!r:.60}")


def _no_class(text: str, name: str) -> ValueError:
    return ValueError(f"{name} holds no class: {printable(text[:40])!r}")
