"""The folder of a study: study.yaml, nodes.json, forecast.json, runs/, logs/, the lock of its launcher."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scalevit import config
from scalevit.artifacts import records
from scalevit.artifacts.atomic_write import atomic_write_text
from scalevit.study.design import grid
from scalevit.study.design.spec import Spec, dump_spec
from scalevit.study.launch import attempt

FORECAST, NODES, SPEC = "forecast.json", "nodes.json", "study.yaml"


def write_study(folder: Path, spec: Spec, nodes: Sequence[grid.Node]) -> None:
    """Write the study down in its folder, unless `require_claimable` refuses it."""
    check_study_folder(folder, nodes)
    folder.mkdir(parents=True, exist_ok=True)
    known = read_nodes(folder) | {node.name: grid.node_row(node) for node in nodes}
    atomic_write_text(folder / NODES, json.dumps(known, indent=1))
    atomic_write_text(folder / SPEC, dump_spec(spec))


def check_study_folder(folder: Path, nodes: Sequence[grid.Node]) -> None:
    """Raises ValueError when the folder holds something else, or a run in it would change its meaning."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder}: a file, not a folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / SPEC).exists():
        raise ValueError(f"--out {folder}: holds something that is no study; choose an empty or new folder")
    refuse_changed_runs(nodes, folder)
    refuse_missing_runs(nodes, folder)


def read_nodes(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / NODES
    return json.loads(path.read_text()) if path.exists() else {}


@contextlib.contextmanager
def lock_study(folder: Path) -> Iterator[None]:
    """One launcher a study. Raises ValueError naming the process that already works on it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / attempt.LOCK
    with path.open("a+") as file:
        if not attempt.try_lock(file):
            number, machine = attempt.lock_owner(path) or ("unknown", "unknown machine")
            raise ValueError(
                f"{folder}: another launcher (process {number} on {machine}) works on this study; wait, or: "
                f"scalevit study stop {folder}"
            )
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}")
        file.flush()
        yield


def refuse_changed_runs(nodes: Sequence[grid.Node], folder: Path) -> None:
    """Raises ValueError when a node's folder already holds another run: what is done keeps its meaning."""
    changed = [node.name for node in nodes if _holds_other_run(folder / "runs" / node.name, node)]
    if changed:
        raise ValueError(
            f"{folder}: the study now means something else by {len(changed)} of its runs ({_some(changed)}); "
            "choose another --out, or undo the change"
        )


def refuse_missing_runs(nodes: Sequence[grid.Node], folder: Path) -> None:
    """Raises ValueError when the folder holds records of runs that are none of the nodes."""
    kept = {node.name for node in nodes}
    lost = [home.parent.name for home in sorted((folder / "runs").glob(f"*/{records.FILE}"))]
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
        home = folder / "runs" / node.name
        home.mkdir(parents=True, exist_ok=True)
        path, text = home / "run.yaml", config.dump(config.with_explicit_shape(node.run))
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
        return path.exists() and json.loads(path.read_text()) != _job_description(node)
    path = home / "run.yaml"
    return path.exists() and config.run_id(config.load(str(path))) != config.run_id(node.run)
