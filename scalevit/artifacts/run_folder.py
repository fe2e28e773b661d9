"""The folder of one run: who may use it, what it holds, and what would be wrong with using it.

run.yaml · records.jsonl · log.txt · checkpoints/step_N/ · model/ · .lock
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from scalevit import config
from scalevit.artifacts import checkpoint, records
from scalevit.artifacts.atomic_write import atomic_write_text
from scalevit.artifacts.printable import printable
from scalevit.artifacts.redact import redact
from scalevit.artifacts.remote import Folder, RemotePath, path_or_remote

CONFIG, LOG, LOCK, CHECKPOINTS, MODEL = "run.yaml", "log.txt", ".lock", "checkpoints", "model"


def checkpoint_folder(run: config.Run, out: Path) -> Folder:
    """Where the checkpoints of a run in `out` lie."""
    where = run.train.checkpoints
    return path_or_remote(where) / config.run_id(run) if where else out / CHECKPOINTS


def checkpoint_folder_in(out: Path) -> Folder:
    """The same, of whatever run the folder holds."""
    return (
        checkpoint_folder(config.load(str(out / CONFIG)), out)
        if (out / CONFIG).exists()
        else out / CHECKPOINTS
    )


def folder_errors(run: config.Run, out: Path) -> list[str]:
    """Why `out` cannot be this run's folder, one line each; creates nothing."""
    with_address = checkpoint_folder(run, out)
    if isinstance(with_address, RemotePath):
        try:
            with_address.size()
        except (OSError, ValueError) as error:
            return [f"train.checkpoints={run.train.checkpoints}: {error}"]
    parent = next(path for path in [out, *out.absolute().parents] if path.exists())
    if not parent.is_dir():
        return [f"--out {out}: {parent} is a file, not a folder"]
    if not os.access(parent, os.W_OK | os.X_OK):
        return [f"--out {out}: no permission to write into {parent}"]
    if (out / CONFIG).exists():
        return _other_run_errors(run, out)
    if records.read_records(out) or checkpoint.list_checkpoints(out / CHECKPOINTS):
        return [f"--out {out}: holds records or checkpoints, but no {CONFIG} says of which run"]
    return []


def _other_run_errors(run: config.Run, out: Path) -> list[str]:
    try:
        there = config.load(str(out / CONFIG))
    except ValueError as error:
        return [f"--out {out}: its {CONFIG} cannot be read: {error}"]
    if config.run_id(there) == config.run_id(run):
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
            if there != here:
                found.append(f"{section}.{key} ({there} there, {here} here)")
    return found


def is_complete(out: Path) -> bool:
    """Whether the run has come to its end: the row that it writes last, about itself, is there."""
    return any(row["kind"] == "run" for row in records.read_records(out))


@contextlib.contextmanager
def lock(run: config.Run, out: Path) -> Iterator[None]:
    """Create the folder with the complete run.yaml and hold its lock. Raises ValueError when another
    process is training into it; the lock goes with the process that holds it, however that ends."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{out}: another process is training into this folder") from None
        text = config.dump(config.with_explicit_shape(run))
        if not (out / CONFIG).exists() or (out / CONFIG).read_text() != text:
            atomic_write_text(out / CONFIG, text)
        yield


def is_locked(out: Path) -> bool:
    """Whether a process is training into the folder now."""
    try:
        with (out / LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class LogFile:
    """log.txt: one line an event with the time, without secrets and control characters."""

    def __init__(self, out: Path) -> None:
        self.path = out / LOG

    def __call__(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(redact(text))}\n")
