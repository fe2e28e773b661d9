"""scalevit config: every configuration key, its range, default and meaning."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from scalevit.config.dataclass_io import nearest_names
from scalevit.config.key_ranges import KeyInfo, describe_keys
from scalevit.config.result import CommandResult

SUMMARY = "every configuration key: its range, default and meaning"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="WORD", help="only keys with one of these words [all]")
    parser.add_argument("--preset", default="", help="show this preset's values instead of the defaults")


def main(args: argparse.Namespace) -> CommandResult:
    every = describe_keys()
    wanted = [info for info in every if not args.words or any(_matches(info, word) for word in args.words)]
    if not wanted:
        near = nearest_names(args.words[0], [info.key for info in every])
        raise ValueError(f"no key with {args.words[0]!r}; nearest: {', '.join(near)}")
    values = {info.key: info.default for info in every} | (_preset_values(args.preset) if args.preset else {})
    data = {info.key: asdict(info) | {"value": values[info.key]} for info in wanted}
    return CommandResult("\n".join(_lines(wanted, values)), data)


def _matches(info: KeyInfo, word: str) -> bool:
    return word.lower() in f"{info.key} {info.meaning}".lower()


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


def _lines(wanted: list[KeyInfo], values: dict[str, Any]) -> list[str]:
    settings = [f"{info.key}={_shown(values[info.key])}" for info in wanted]
    width = min(36, max(map(len, settings)))
    lines, section = [], ""
    for info, setting in zip(wanted, settings):
        if lines and section != info.key.rpartition(".")[0]:
            lines.append("")
        section = info.key.rpartition(".")[0]
        lines.append(
            f"{setting:<{width}}  {info.meaning}  ({', '.join(filter(None, (info.type, info.range)))})"
        )
    return lines
