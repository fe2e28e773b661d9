"""Class names: their order, and the class number of each name.

One rule everywhere: names that are all whole numbers are ordered as numbers, any others as text. Class k is
the k-th name of that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

#: Class numbers from here on are refused: a count for each class below must fit in memory.
MAX_CLASSES = 1 << 20


def order_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct class names in their order: "2" before "10" where all are whole numbers, else as text."""
    distinct = set(names)
    if all(name.isascii() and name.isdigit() for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    return tuple(sorted(distinct))


def class_map(names: Sequence[str], targets: Sequence[str], where: str) -> np.ndarray:
    """(len(names),) each name's number in `targets`; ValueError naming the first that is none of them."""
    numbers = {name: number for number, name in enumerate(targets)}
    unknown = [name for name in names if name not in numbers]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ValueError(f"{where}: unknown class {unknown[0]!r}{more}; known: {listed(targets)}")
    return np.array([numbers[name] for name in names], np.int64)


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first few names, for a message."""
    return ", ".join(map(str, names[:most])) + (f", … ({len(names)})" if len(names) > most else "")
