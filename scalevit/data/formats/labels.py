"""Class numbers as they are written in small files beside images."""

from __future__ import annotations

import json
from typing import Any

#: Endings of such files; the first that is there counts.
LABELS = ("cls", "json", "txt")
#: Keys of a JSON object that hold the label or labels.
JSON_KEYS = ("label", "labels", "cls", "class")

Labels = tuple[int, ...] | None


def labels_from(data: bytes, name: str) -> Labels:
    """The classes that a file says: one, several, `[]` for none of them, and None where it says nothing: an
    empty file, an object without a label. Raises ValueError with the file's name for anything else."""
    words = data.replace(b",", b" ").split()
    if all(word.isdigit() and len(word) <= 9 for word in words):
        return tuple(int(word) for word in words) or None
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise _no_class(data, name) from None
    if isinstance(found, dict):
        found = next((found[key] for key in JSON_KEYS if key in found), None)
    if found is None:
        return None
    found = found if isinstance(found, list) else [found]
    if any(type(label) is not int or not 0 <= label < 2**31 for label in found):
        raise _no_class(data, name)
    return tuple(found)


def _no_class(data: bytes, name: str) -> ValueError:
    return ValueError(f"{name} holds no class number: {data[:40]!r}")
