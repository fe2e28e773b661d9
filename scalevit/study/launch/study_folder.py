"""The folder of a study: study.yaml, nodes.json, forecast.json, runs/, logs/, the lock of its launcher.

A run is found by its settings, not by its name: a node whose run lies in the folder under another name goes
on there.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from scalevit import config
from scalevit.artifacts import records, run_folder
from scalevit.artifacts.atomic_write import atomic_write_text
from scalevit.study.design import downstream, grid
from scalevit.study.design.spec import Spec, dump_spec
from scalevit.study.launch import attempt

FORECAST, NODES, SPEC, RUNS, LOGS = "forecast.json", "nodes.json", "study.yaml", "runs", "logs"
#: Largest nodes.json or forecast.json that is read, in bytes.
LARGEST_JSON = 64 << 20


def study_nodes(spec: Spec, folder: Path) -> list[grid.Node]:
    """The nodes of a study in `folder`, those of finished or begun runs under the names of their folders."""
    return adopt_runs(grid.expand(spec, folder.absolute() / RUNS), folder)


def adopt_runs(nodes: Sequence[grid.Node], folder: Path) -> list[grid.Node]:
    """The nodes with the names of the folders that hold their runs already. A folder is taken for a node with
    the same settings when no node has the folder's own name."""
    runs, names = folder.absolute() / RUNS, {node.name for node in nodes}
    free = {run_identity(home): home.name for home in _homes(runs) if home.name not in names}
    adopted: dict[str, str] = {}
    for node in grid.pretraining_nodes(nodes):
        if free and not (runs / node.name).exists():
            name = free.pop(config.run_id(node.run), None)
            adopted |= {node.name: name} if name else {}
    return [_renamed(node, adopted, runs) for node in nodes] if adopted else [*nodes]


def _homes(runs: Path) -> list[Path]:
    return sorted(path.parent for path in runs.glob(f"*/{run_folder.CONFIG}"))


def _renamed(node: grid.Node, names: Mapping[str, str], runs: Path) -> grid.Node:
    after = names.get(node.after, node.after) if node.after else None
    if node.job is not None:
        assert after is not None
        return replace(node, name=downstream.job_name(after, node.job), after=after)
    name = names.get(node.name, node.name)
    branch = replace(node.run.branch, trunk=str(runs / after)) if after else node.run.branch
    return replace(node, name=name, after=after, run=replace(node.run, name=name, branch=branch))


def run_identity(home: Path) -> str:
    """The id of the run whose run.yaml lies in a folder; empty where it cannot be read."""
    path = home / run_folder.CONFIG
    try:
        stat = path.stat()
        return _identity(path, stat.st_mtime_ns, stat.st_size)
    except OSError:
        return ""


@lru_cache(maxsize=4096)
def _identity(path: Path, changed: int, size: int) -> str:
    try:
        run = config.load(str(path))
        return config.run_id(replace(run, data=replace(run.data, content="", accepted=())))
    except (OSError, ValueError):
        return ""


def write_study(folder: Path, spec: Spec, nodes: Sequence[grid.Node]) -> None:
    """Write study.yaml and nodes.json. Raises ValueError as `check_study_folder` does."""
    check_study_folder(folder, nodes)
    folder.mkdir(parents=True, exist_ok=True)
    known = read_nodes(folder) | {node.name: grid.node_row(node) for node in nodes}
    atomic_write_text(folder / NODES, json.dumps(known, indent=1))
    atomic_write_text(folder / SPEC, dump_spec(spec))


def check_study_folder(folder: Path, nodes: Sequence[grid.Node]) -> None:
    """Raises ValueError when the study cannot be in `folder`: the folder cannot be written, holds something
    else, or holds a run that would change its meaning."""
    parent = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    if not parent.is_dir():
        raise ValueError(f"--out {folder}: {parent} is a file, not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"--out {folder}: no permission to write into {parent}")
    if folder.exists() and any(folder.iterdir()) and not (folder / SPEC).exists():
        raise ValueError(f"--out {folder}: holds something that is no study; choose an empty or new folder")
    if len(bytes(folder.absolute())) > 3000 or any(c in str(folder.absolute()) for c in "\n\r\0"):
        raise ValueError(f"--out {str(folder)!r}: a path without line breaks is needed")
    read_nodes(folder)
    refuse_changed_runs(nodes, folder)
    refuse_missing_runs(nodes, folder)


#: Columns of a node in nodes.json that readers rely on, and their types.
_TEXTS, _COUNTS, _FLOPS = (
    ("kind", "model", "recipe"),
    ("images", "seed", "steps", "duration"),
    ("flops", "scratch"),
)


def read_nodes(folder: Path) -> dict[str, dict[str, Any]]:
    """The nodes of nodes.json by name; none when there is no such file. Raises ValueError for a file that is
    no list of nodes."""
    nodes = read_json(folder / NODES)
    if not isinstance(nodes, dict) or not all(_is_node(node) for node in nodes.values()):
        raise ValueError(f"{folder / NODES}: is not what scalevit writes; remove it, then resume the study")
    return nodes


def _is_node(node: Any) -> bool:
    if not isinstance(node, dict) or not isinstance(node.get("after"), str | None):
        return False
    return (
        all(isinstance(node.get(key), str) for key in _TEXTS)
        and all(type(node.get(key)) is int for key in _COUNTS)
        and all(is_finite(node.get(key)) for key in _FLOPS)
    )


def is_finite(value: Any) -> bool:
    """Whether a value read from JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_forecast(path: Path) -> dict[str, Any]:
    """The forecast in forecast.json; {} when there is none or it is not what scalevit writes."""
    try:
        told = read_json(path)
    except ValueError:
        return {}
    return told if isinstance(told, dict) and _is_forecast(told) else {}


def _is_forecast(told: Mapping[str, Any]) -> bool:
    if not all(isinstance(told.get(key), str) for key in ("made", "run", "dataset", "why_not")):
        return False
    if type(told.get("shots")) is not int or not is_finite(told.get("compute")):
        return False
    made = told.get("mean") is not None
    return not made or all(is_finite(told.get(key)) for key in ("mean", "low", "high", "reach", "level"))


def read_json(path: Path) -> Any:
    """What a JSON file of a study's folder holds, {} when there is none. Raises ValueError for a link, a file
    that is too large, and text that is no JSON."""
    if path.is_symlink():
        raise ValueError(f"{path}: is a link, which a study's folder must not have here")
    if not path.is_file():
        return {}
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{path}: larger than {LARGEST_JSON >> 20} MiB")
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: no JSON") from None


@contextlib.contextmanager
def lock_study(folder: Path) -> Iterator[None]:
    """The lock of a study's launcher. Raises ValueError naming the process that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / attempt.LOCK
    with attempt.open_lock(path) as file:
        if not attempt.try_lock(file):
            raise ValueError(_is_busy(folder))
        attempt.write_owner(file, os.getpid())
        yield


def refuse_locked(folder: Path) -> None:
    """Raises ValueError when a launcher works on the study now."""
    if attempt.is_locked(folder):
        raise ValueError(_is_busy(folder))


def _is_busy(folder: Path) -> str:
    owner = attempt.lock_owner(folder / attempt.LOCK)
    who = f"process {owner.pid} on {owner.host}" if owner else "process unknown"
    return f"{folder}: another launcher ({who}) works on this study; wait, or: scalevit study stop {folder}"


def refuse_changed_runs(nodes: Sequence[grid.Node], folder: Path) -> None:
    """Raises ValueError when a node's folder already holds another run: what is done keeps its meaning."""
    changed = [node.name for node in nodes if _holds_other_run(folder / RUNS / node.name, node)]
    if changed:
        raise ValueError(
            f"{folder}: the study now means something else by {len(changed)} of its runs ({_some(changed)}); "
            "choose another --out, or undo the change"
        )


def refuse_missing_runs(nodes: Sequence[grid.Node], folder: Path) -> None:
    """Raises ValueError when the folder holds records of runs that are none of the nodes."""
    kept = {node.name for node in nodes}
    lost = [home.parent.name for home in sorted((folder / RUNS).glob(f"*/{records.FILE}"))]
    lost = [name for name in lost if name not in kept]
    if lost:
        raise ValueError(
            f"{folder}: {len(lost)} of its runs are not in this study ({_some(lost)}); "
            "choose another --out, or keep them in the study"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def write_node_folders(nodes: Sequence[grid.Node], folder: Path) -> None:
    """Write down what every node is to do, unless one of the folders holds something else."""
    refuse_changed_runs(nodes, folder)
    for node in nodes:
        home = folder / RUNS / node.name
        home.mkdir(parents=True, exist_ok=True)
        path, text = home / run_folder.CONFIG, config.dump(config.with_explicit_shape(node.run))
        if node.job is not None:
            path, text = home / JOB_FILE, json.dumps(_job_description(node))
        if not path.exists() or path.read_text() != text:
            atomic_write_text(path, text)


#: What a node that follows a run does, in its folder; a fine-tune writes its own run.yaml beside it.
JOB_FILE = "follow.json"


def _job_description(node: grid.Node) -> dict[str, Any]:
    assert node.job is not None
    return json.loads(json.dumps({"kind": node.kind, "after": node.after, **asdict(node.job)}))


def _holds_other_run(home: Path, node: grid.Node) -> bool:
    if node.job is not None:
        path = home / JOB_FILE
        return path.exists() and read_json(path) != _job_description(node)
    path = home / run_folder.CONFIG
    if not path.exists():
        return False
    return not run_identity(home) or not config.same_run(config.load(str(path)), node.run)
