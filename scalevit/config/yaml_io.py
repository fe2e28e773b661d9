"""YAML and JSON from outside as plain data: bounded length, depth and size, and no key twice.

An alias may stand for a node, but a document whose aliases expand to more than `MAX_NODES` nodes is refused
before it is built, as is one that is nested deeper than `MAX_DEPTH`.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

MAX_BYTES, MAX_NODES, MAX_DEPTH = 8 * 2**20, 200_000, 50


def read_document(path: Path) -> Any:
    """The YAML or JSON document in a file. Raises ValueError with one line that names the file."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: longer than {MAX_BYTES // 2**20} MiB, which no configuration is")
    try:
        return parse_document(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is no YAML and no JSON: {error}") from None


def parse_document(text: str) -> Any:
    """The YAML or JSON document in a text. Raises ValueError with one line."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"longer than {MAX_BYTES // 2**20} MiB")
    # YAML takes JSON, but reads numbers such as 1e-06 as text
    return _parse_json(text) if text.lstrip().startswith("{") else _parse_yaml(text)


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from None
    except ValueError:
        return _parse_yaml(text)  # YAML's own {a: 1}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ValueError(f"{key[:60]!r} stands there twice")
        out[key] = value
    return out


def _parse_yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Safe YAML without duplicate keys."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for index, key in enumerate(keys):
                if key in keys[:index]:
                    raise ValueError(f"{str(key)[:60]!r} stands there twice")
            return super().construct_mapping(node, deep=deep)

    try:
        _check_size(yaml.parse(text, Loader=yaml.SafeLoader))
        return yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, TypeError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None


def _check_size(events: Any) -> None:
    """Count the nodes of a document with its aliases expanded, from parser events, without building it."""
    import yaml

    sizes: dict[str, int] = {}  # by anchor: nodes below it
    open_nodes: list[tuple[str | None, int]] = []  # anchors of open collections, and the count at their start
    total = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"the alias *{event.anchor} stands for nothing, or for itself")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            total += 1
            open_nodes.append((event.anchor, total))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = total - before + 1
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if total > MAX_NODES:
            raise ValueError(f"more than {MAX_NODES} values, aliases included")
        if len(open_nodes) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
