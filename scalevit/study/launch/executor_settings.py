"""Executor settings in a study's folder (executor.json): which executor, and the size of its jobs.

The folder may come from somebody else, so the file is data: only settings that ask for machines and time are
stored and read. Settings that run commands or connect somewhere (setup, srun_args, python, address, …) are
given on the command line each time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalevit.artifacts.atomic_write import atomic_write_text
from scalevit.study.launch.study_folder import read_json

FILE = "executor.json"

#: Settings that are stored, by executor: numbers, or words that name something.
STORED: Mapping[str, frozenset[str]] = {
    "local": frozenset(),
    "slurm": frozenset(
        (
            "account", "array_parallelism", "constraint", "cpus_per_gpu", "cpus_per_task", "exclude",
            "exclusive", "gpus_per_node", "gpus_per_task", "gres", "mem", "mem_gb", "mem_per_cpu",
            "mem_per_gpu", "nodes", "ntasks_per_node", "num_gpus", "partition", "qos", "reservation",
            "signal_delay_s", "time",
        )
    ),
    "ray": frozenset(("num_cpus", "num_gpus", "memory")),
}  # fmt: skip
_WORD = re.compile(r"[A-Za-z0-9_.,:&|+@%/*()\[\]-]{1,200}")


@dataclass(frozen=True)
class ExecutorSettings:
    """executor: local, slurm or ray. options: KEY=VALUE as --cluster takes them. left_out: keys that the
    study began with and that are not stored."""

    executor: str = "local"
    options: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def write_settings(folder: Path, executor: str, options: Sequence[str]) -> None:
    """Write down with which executor a study began, for `study resume`, `stop` and `add`."""
    stored = [pair for pair in options if _is_stored(executor, pair)]
    left_out = sorted({pair.partition("=")[0] for pair in options if pair not in stored})
    text = json.dumps({"executor": executor, "cluster": stored, "left_out": left_out})
    atomic_write_text(folder / FILE, text)


def read_settings(folder: Path) -> ExecutorSettings:
    """The settings that a study began with. Raises ValueError for a file with anything else in it."""
    tree = read_json(folder / FILE)
    if not tree:
        return ExecutorSettings()
    executor, options, left_out = (tree.get(key, []) for key in ("executor", "cluster", "left_out"))
    if executor not in STORED or not _are_texts(options) or not _are_texts(left_out):
        raise ValueError(f"{folder / FILE}: is not what scalevit writes; say --executor on the command line")
    refused = [pair.partition("=")[0][:40] for pair in options if not _is_stored(executor, pair)]
    if refused:
        raise ValueError(
            f"{folder / FILE}: {', '.join(map(repr, refused[:3]))} is not read from a study's folder; say "
            f"--executor {executor} --cluster KEY=VALUE … on the command line"
        )
    return ExecutorSettings(executor, tuple(options), tuple(left_out))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) < 100 and all(isinstance(item, str) for item in value)


def _is_stored(executor: str, pair: str) -> bool:
    """Whether KEY=VALUE is a setting that only asks for machines or time."""
    key, equals, value = pair.partition("=")
    return bool(equals) and key in STORED[executor] and _WORD.fullmatch(value) is not None
