"""scalevit config: every configuration key, its values, default and meaning."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

from scalevit.config.dataclass_io import nearest_names
from scalevit.config.keys import Key, keys
from scalevit.config.result import CommandResult

SUMMARY = "every configuration key: its values, default and meaning"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="WORD", help="only keys with one of these words [all]")
    parser.add_argument("--preset", default="", help="show this preset's values instead of the defaults")


def main(args: argparse.Namespace) -> CommandResult:
    wanted = [key for key in keys() if not args.words or any(_matches(key, word) for word in args.words)]
    if not wanted:
        near = nearest_names(args.words[0], [key.name for key in keys()])
        raise ValueError(f"no key with {args.words[0]!r}; nearest: {', '.join(near)}")
    values = _preset_values(args.preset) if args.preset else {key.name: key.default for key in wanted}
    rows = [(key.name, key.values, _shown(values[key.name]), key.meaning) for key in wanted]
    data = {
        key.name: {"values": key.values, "value": values[key.name], "meaning": key.meaning} for key in wanted
    }
    return CommandResult("\n".join(_aligned(rows)), data)


def _matches(key: Key, word: str) -> bool:
    return word.lower() in f"{key.name} {key.meaning}".lower()


def _preset_values(name: str) -> dict[str, Any]:
    from scalevit.config.load import load, to_dict

    def flat(tree: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(flat(to_dict(load(name))))


def _shown(value: Any) -> str:
    """A value as it is written after the key's equals sign."""
    if isinstance(value, str):
        return value or '""'
    return "none" if value is None else json.dumps(value).replace('"', "")


def _aligned(rows: list[tuple[str, str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines, section = [], ""
    for name, values, default, meaning in rows:
        if (name.split(".")[0] if "." in name else "") != section and lines:
            lines.append("")
        section = name.split(".")[0] if "." in name else ""
        lines.append(f"{name}={default}".ljust(widths[0] + 14) + f"  {meaning}  ({values})")
    return lines
