"""Run folder: its files, its lock, whether it is complete, and what prevents a run from using it.

run.yaml · records.jsonl · log.txt · checkpoints/step_N/ · model/ · .lock
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scalevit import config
from scalevit.artifacts import checkpoint, records
from scalevit.artifacts import lock as file_lock
from scalevit.artifacts.atomic_write import atomic_write_text
from scalevit.artifacts.printable import printable
from scalevit.artifacts.redact import redact
from scalevit.artifacts.remote import Folder, RemotePath, StoreUnavailable, path_or_remote

CONFIG, LOG, LOCK, CHECKPOINTS, MODEL = "run.yaml", "log.txt", ".lock", "checkpoints", "model"


#: Bytes of a safetensors header that are read.
_LARGEST_HEADER = 1 << 27


def checkpoint_folder(run: config.Run, out: Path) -> Folder:
    """Where the checkpoints of a run in `out` lie."""
    where = run.train.checkpoints
    return path_or_remote(where) / config.run_id(run) if where else out / CHECKPOINTS


def checkpoint_folder_in(out: Path) -> Folder:
    """Where the checkpoints of the run lie that the folder `out` holds."""
    if not (out / CONFIG).exists():
        return out / CHECKPOINTS
    return checkpoint_folder(config.load(str(out / CONFIG)), out)


def folder_errors(run: config.Run, out: Path) -> list[str]:
    """Why `out` cannot be this run's folder, one line each; creates nothing. Raises StoreUnavailable."""
    folder = checkpoint_folder(run, out)
    if isinstance(folder, RemotePath):
        try:
            folder.size()
        except StoreUnavailable:
            raise
        except (OSError, ValueError) as error:
            return [f"train.checkpoints={run.train.checkpoints}: {error}"]
    parent = _existing_parent(out)
    if not parent.is_dir():
        return [f"--out {out}: {parent} is a file, not a folder"]
    if not os.access(parent, os.W_OK | os.X_OK):
        return [f"--out {out}: no permission to write into {parent}"]
    errors = _space_errors(run, out, folder)
    if (out / CONFIG).exists():
        return errors + (_other_run_errors(run, out) or _lost_weights_errors(out))
    if (out / records.FILE).exists() or checkpoint.list_checkpoints(out / CHECKPOINTS):
        return [f"--out {out}: holds records or checkpoints, but no {CONFIG} says of which run"]
    return errors


def _lost_weights_errors(out: Path) -> list[str]:
    """A run that has ended, whose weights are damaged and cannot be exported again."""
    ended = any(row["kind"] == "run" for row in records.read_records(out))
    if not ended or not (out / MODEL).exists() or weights_are_whole(out / MODEL) or has_checkpoints(out):
        return []
    return [f"--out {out}: {MODEL}/ is damaged and no checkpoint is left; remove the folder to train anew"]


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in [path, *path.absolute().parents] if parent.exists())


def _space_errors(run: config.Run, out: Path, folder: Folder) -> list[str]:
    """A disk that cannot hold the checkpoints of a run at their least size: the fp32 weights, and their
    average where one is kept, as often as checkpoints are kept and once more for the one being written."""
    if isinstance(folder, RemotePath) or checkpoint.list_checkpoints(folder):
        return []
    shape, model = run.model.resolve(), run.model
    weights = 4 * shape.parameters(model.image, model.pool, model.classes)
    saves = run.schedule.steps // run.train.save_every if run.train.save_every else 1
    count = min(run.train.keep_last + 1, max(1, saves))
    needed = count * weights * (2 if run.train.averages else 1)
    place = _existing_parent(folder)
    free = shutil.disk_usage(place).free
    if needed <= free:
        return []
    gib, text = 1 << 30, "checkpoints need at least"
    return [f"--out {out}: {text} {needed / gib:.1f} GiB; {place} has {free / gib:.1f} GiB free"]


def _other_run_errors(run: config.Run, out: Path) -> list[str]:
    try:
        there = config.load(str(out / CONFIG))
    except ValueError as error:
        return [f"--out {out}: its {CONFIG} cannot be read: {error}"]
    if config.same_run(there, run):
        return []
    differ = ", ".join(config_differences(there, run)[:5])
    return [f"--out {out}: holds another run ({there.name}); different: {differ}"]


def config_differences(one: config.Run, other: config.Run) -> list[str]:
    """Keys in which two runs differ, e.g. "schedule.lr (0.1 there, 0.2 here)"."""
    a, b = config.to_dict(config.with_explicit_shape(one)), config.to_dict(config.with_explicit_shape(other))
    found = []
    for section in a:
        if not isinstance(a[section], dict):
            continue
        for key in a[section]:
            there, here = a[section][key], b[section][key]
            if there != here and key not in config.NOT_IDENTITY.get(section, ()):
                found.append(f"{section}.{key} ({there} there, {here} here)")
    return found


def is_complete(out: Path) -> bool:
    """Whether the run has ended, and its weights are whole: the row that a run writes last, about itself, is
    there, and so is model/, unless nothing is left to export it from."""
    if not any(row["kind"] == "run" for row in records.read_records(out)):
        return False
    return weights_are_whole(out / MODEL) or (not (out / MODEL).exists() and not has_checkpoints(out))


def has_checkpoints(out: Path, run: config.Run | None = None) -> bool:
    """Whether there is a checkpoint of `run`, or of the run whose run.yaml is in `out`; no when the store
    cannot be asked."""
    try:
        folder = checkpoint_folder_in(out) if run is None else checkpoint_folder(run, out)
        return bool(checkpoint.list_checkpoints(folder))
    except (OSError, ValueError):
        return False


def weights_are_whole(model: Path) -> bool:
    """Whether a model folder holds a config.json and a model.safetensors as long as its header says."""
    weights = model / "model.safetensors"
    try:
        size = weights.stat().st_size
        with weights.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: Any = json.loads(file.read(length)) if 0 < length < min(size, _LARGEST_HEADER) else {}
        end = max(about["data_offsets"][1] for name, about in header.items() if name != "__metadata__")
        return size == 8 + length + end and isinstance(json.loads((model / "config.json").read_bytes()), dict)
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return False


def _print_warning(text: str) -> None:
    print(f"scalevit: {printable(text)}", file=sys.stderr)


@contextlib.contextmanager
def lock(run: config.Run, out: Path, warn: Callable[[str], None] = _print_warning) -> Iterator[None]:
    """Create the folder with the complete run.yaml and hold its lock, and that of its checkpoints where they
    lie elsewhere. The lock goes with the process that holds it, however that ends. warn: is told when a file
    system has no locks. Raises ValueError when another process is training into one of the folders."""
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(file_lock.lock(out / LOCK, warn))
        text = config.dump(config.with_explicit_shape(run))
        if not (out / CONFIG).exists() or (out / CONFIG).read_text() != text:
            atomic_write_text(out / CONFIG, text)
        folder = checkpoint_folder(run, out)
        if isinstance(folder, Path) and folder != out / CHECKPOINTS:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock.lock(folder / LOCK, warn))
        yield


def is_locked(out: Path) -> bool:
    """Whether a process is training into the folder now; takes no lock and creates no file."""
    return file_lock.is_locked(out / LOCK)


class LogFile:
    """log.txt: one line an event with the time, without secrets and control characters."""

    def __init__(self, out: Path) -> None:
        self.path = out / LOG

    def __call__(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(redact(text))}\n")
