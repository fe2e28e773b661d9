"""Schema checks of foreign JSON: every value read from a configuration file has a type and a range.

A file of configuration is data: whatever has the wrong type, is out of range or nests too deeply is a
ValueError of one line that names the key, and no key is passed on to a library unchecked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Bounds of what a configuration can ask for, far beyond any model that exists.
LARGEST = {"depth": 1000, "width": 1 << 17, "hidden": 1 << 20, "image": 1 << 14, "classes": 1 << 22}
#: Longest class name, and the most characters that a message quotes of a value.
LONGEST_NAME, QUOTED = 1000, 60


@dataclass(frozen=True)
class JsonObject:
    """A JSON object and its place in a file, for messages. Every getter raises ValueError for a value of the
    wrong type or out of range; a missing or null value gives `default`, and is an error without one."""

    values: Mapping[str, Any]
    where: str = ""

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = 1 << 31) -> int:
        """An integer in [low, high]; 16.0 is one, true is none."""
        value = self._value(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(key, value, f"an integer from {low} to {high}")
        return value

    def number(self, key: str, default: float | None = None, *, low: float, high: float) -> float:
        """A finite number in [low, high]."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self._wrong(key, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def mapping(self, key: str) -> JsonObject:
        """An object, empty where there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self._wrong(key, value, "an object")
        return JsonObject(value or {}, self._name(key))

    def numbers(self, key: str, default: Sequence[float], *, low: float, high: float) -> tuple[float, ...]:
        """A tuple as long as `default`; a single number stands for that many equal ones."""
        value = self._value(key, tuple(default))
        values = list(value) if isinstance(value, list | tuple) else [value] * len(default)
        right = len(values) == len(default) and all(
            isinstance(x, int | float) and not isinstance(x, bool) and low <= x <= high for x in values
        )
        if not right:
            raise self._wrong(key, value, f"{len(default)} numbers from {low:g} to {high:g}")
        return tuple(map(float, values))

    def size(self, key: str, default: int, *, high: int = LARGEST["image"]) -> tuple[int, int]:
        """Height and width in pixels: one integer, or a list of two."""
        value = self._value(key, default)
        values = list(value) if isinstance(value, list | tuple) else [value, value]
        if len(values) != 2 or any(
            isinstance(x, bool) or not isinstance(x, int) or not 1 <= x <= high for x in values
        ):
            raise self._wrong(key, value, f"one or two integers from 1 to {high}")
        return values[0], values[1]

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            if default is None:
                raise ValueError(f"{self._name(key)} is missing")
            return default
        return value

    def _name(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def _wrong(self, key: str, value: Any, expected: str) -> ValueError:
        return ValueError(f"{self._name(key)}: expected {expected}, found {quoted(value)}")


def quoted(value: Any) -> str:
    """A value as a message shows it: on one line, shortened, without control characters."""
    text = repr(value)
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}…"


def class_names(found: Any, classes: int) -> tuple[str, ...]:
    """Ordered class names from a list, or from an object of numbers to names (Hugging Face's id2label); ()
    when they are missing, do not cover `classes` outputs, or are the placeholders LABEL_0, LABEL_1, …"""
    if isinstance(found, Mapping):
        found = [found.get(str(i), found.get(i)) for i in range(classes)]
    if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != classes:
        return ()
    names = tuple(name for name in found if isinstance(name, str) and 0 < len(name) <= LONGEST_NAME)
    placeholders = all(name == f"LABEL_{i}" for i, name in enumerate(names))
    return () if len(names) != classes or placeholders or len(set(names)) != classes else names


def depth(value: Any) -> int:
    """Nesting depth of a JSON value."""
    deepest, stack = 0, [(value, 1)]
    while stack:
        item, level = stack.pop()
        deepest = max(deepest, level)
        stack += [(inner, level + 1) for inner in _items(item)]
    return deepest


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def require_model_ranges(config: Any) -> None:
    """Raise ValueError for a model that no file of weights can hold, before anything is built."""
    shape = config.resolve()
    sizes = {
        "width": (shape.width, LARGEST["width"]), "depth": (shape.depth, LARGEST["depth"]),
        "mlp": (shape.mlp, LARGEST["hidden"]), "heads": (shape.heads, LARGEST["width"]),
        "patch": (shape.patch, LARGEST["image"]), "image": (config.image, LARGEST["image"]),
        "channels": (config.channels, LARGEST["hidden"]),
    }  # fmt: skip
    for name, (value, most) in sizes.items():
        if not 1 <= value <= most:
            raise ValueError(f"model.{name}: expected an integer from 1 to {most}, found {quoted(value)}")
    optional = {
        "classes": (config.classes, LARGEST["classes"]), "registers": (config.registers, LARGEST["image"]),
        "image_width": (config.image_width, LARGEST["image"]),
    }  # fmt: skip
    for name, (value, most) in optional.items():
        if not 0 <= value <= most:
            raise ValueError(f"model.{name}: expected an integer from 0 to {most}, found {quoted(value)}")
    if not (math.isfinite(config.norm_eps) and 0 < config.norm_eps < 1 and math.isfinite(config.head_bias)):
        raise ValueError(f"model.norm_eps: expected a number between 0 and 1, found {config.norm_eps}")
