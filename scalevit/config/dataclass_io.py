"""Dataclasses from plain dictionaries, as YAML and JSON give them: all errors at once, each with the nearest
right name.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal


def from_dict(
    kind: type,
    tree: Mapping[str, Any],
    errors: list[str],
    where: str = "",
    leaves: dict[str, Any] | None = None,
) -> Any:
    """An instance of the dataclass `kind`; appends to `errors` and gives None when something is wrong. Values
    that have the right type are put into `leaves` by their full key."""
    hints = typing.get_type_hints(kind)
    before, values = len(errors), {}
    for key, value in tree.items():
        if key not in hints:
            near = ", ".join(f"{where}{name}" for name in nearest_names(str(key), [*hints]))
            errors.append(f"{where}{_brief(key, plain=True)}: no such key; nearest: {near}")
        elif dataclasses.is_dataclass(hints[key]):
            inner = value if isinstance(value, Mapping) else {}
            if inner is not value:
                errors.append(f"{where}{key}: expected keys and values, found {_brief(value)}")
            values[key] = from_dict(typing.cast(type, hints[key]), inner, errors, f"{where}{key}.", leaves)
        else:
            sound = len(errors)
            values[key] = _value(hints[key], value, f"{where}{key}", errors)
            if leaves is not None and len(errors) == sound:
                leaves[f"{where}{key}"] = values[key]
    return kind(**values) if len(errors) == before else None


def _value(hint: Any, value: Any, where: str, errors: list[str]) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in options:
            errors.append(f"{where}: {_brief(value)} is none of {', '.join(map(str, options))}")
        return value
    if origin is types.UnionType:
        return None if value is None else _value(options[0], value, where, errors)
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_value(options[0], item, where, errors) for item in items)
    return _scalar(hint, value, where, errors)


def _scalar(hint: type, value: Any, where: str, errors: list[str]) -> Any:
    """YAML reads 8e-4 as text and 1 as an int where a float is meant: both are what the user meant."""
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    if hint is int and isinstance(value, float | str):
        try:
            if float(value) == int(float(value)):
                return int(float(value))
        except (ValueError, OverflowError):
            pass
    if type(value) is not hint:
        errors.append(f"{where}: expected {hint.__name__}, found {_brief(value)}")
    return value


def nearest_names(name: str, known: Sequence[str]) -> list[str]:
    """Up to three of the known names nearest to `name`; the first eight when none is near."""
    lower = {one.lower(): one for one in known}
    if name.lower() in lower:
        return [lower[name.lower()]]
    close = difflib.get_close_matches(name[:100], known, n=3, cutoff=0.5)
    return close or list(known[:8])


def _brief(value: Any, plain: bool = False) -> str:
    """A value as text of at most 60 characters without control characters."""
    try:
        text = str(value) if plain and str(value).isprintable() else repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python prints
        text = f"a large {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
