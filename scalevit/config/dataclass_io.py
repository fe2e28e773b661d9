"""Plain dictionaries, as YAML and JSON give them, to frozen dataclasses: every mistake at once, each with the
nearest right name.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal


def from_dict(kind: type, tree: Mapping[str, Any], mistakes: list[str], where: str = "") -> Any:
    """An instance of the dataclass `kind`; appends to `mistakes` and gives None when something is wrong."""
    hints = typing.get_type_hints(kind)
    before, values = len(mistakes), {}
    for key, value in tree.items():
        if key not in hints:
            near = ", ".join(f"{where}{name}" for name in nearest_names(str(key), [*hints]))
            mistakes.append(f"{where}{key}: no such key; nearest: {near}")
        elif dataclasses.is_dataclass(hints[key]):
            inner = value if isinstance(value, Mapping) else {}
            if inner is not value:
                mistakes.append(f"{where}{key}: expected keys and values, found {value!r}")
            values[key] = from_dict(typing.cast(type, hints[key]), inner, mistakes, f"{where}{key}.")
        else:
            values[key] = _value(hints[key], value, f"{where}{key}", mistakes)
    return kind(**values) if len(mistakes) == before else None


def _value(hint: Any, value: Any, where: str, mistakes: list[str]) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in options:
            mistakes.append(f"{where}: {value!r} is none of {', '.join(map(str, options))}")
        return value
    if origin is types.UnionType:
        return None if value is None else _value(options[0], value, where, mistakes)
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_value(options[0], item, where, mistakes) for item in items)
    return _scalar(hint, value, where, mistakes)


def _scalar(hint: type, value: Any, where: str, mistakes: list[str]) -> Any:
    """YAML reads 8e-4 as text and 1 as an int where a float is meant: both are what the user meant."""
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if hint is int and isinstance(value, float | str):
        try:
            if float(value) == int(float(value)):
                return int(float(value))
        except (ValueError, OverflowError):
            pass
    if type(value) is not hint:
        mistakes.append(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def nearest_names(name: str, known: Sequence[str]) -> list[str]:
    """Up to three known names closest to `name`, or all when none is close and they are few."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return close or list(known[:8])
