"""Exact checkpoints: `step_N/` appears whole or not at all, and damage is noticed before anything is read.

A checkpoint is written into a hidden folder beside its place, file by file to the disk, then a manifest with
every file's size and SHA-256, and only then renamed. What a process that died left behind is removed by
the next one. `scalevit.artifacts.dcp` has the format of the tensors.

A store behind an address renames nothing: there the files are put in their place, the manifest last, and
removed, the manifest first; what has no manifest is no checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from scalevit.artifacts.atomic_write import atomic_write_text, fsync_folder
from scalevit.artifacts.remote import Folder, RemotePath

if TYPE_CHECKING:
    from scalevit.artifacts import dcp

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that is in place: its step and its folder."""

    step: int
    folder: Folder


def list_checkpoints(folder: Folder) -> list[SavedCheckpoint]:
    """The checkpoints below `folder`, whole or damaged, by step."""
    if isinstance(folder, RemotePath):
        paths = [path for path in _remote_steps(folder) if (path / MANIFEST).size() is not None]
    else:
        paths = [path for path in folder.glob("step_*") if path.is_dir()]
    found = [(re.fullmatch(r"step_(\d+)", path.name), path) for path in paths]
    return sorted((SavedCheckpoint(int(m[1]), path) for m, path in found if m), key=lambda s: s.step)


def _remote_steps(folder: RemotePath) -> list[RemotePath]:
    """Whole checkpoints and drafts, which at a store look alike but for the manifest."""
    return [path for path in folder.iterdir() if path.name.startswith("step_")]


def step_folder(folder: Folder, step: int) -> Folder:
    return folder / f"step_{step}"


# --------------------------------------------------------------------------- writing


def create_staging(folder: Folder, step: int) -> Folder:
    """An empty folder to write the checkpoint of `step` into, before `commit`; hidden where it can be."""
    if isinstance(folder, RemotePath):
        _remove(folder / f"step_{step}")
        return folder / f"step_{step}"
    path = folder / f".step_{step}.draft"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def commit(
    path: Folder, step: int, places: Sequence[dcp.ShardLocation], files: Iterable[dcp.WrittenFile], facts: Any
) -> Folder:
    """Add index and manifest to a draft that holds all ranks' pieces, and give it its name.

    facts: whatever JSON the owner wants back with the tensors."""
    from scalevit.artifacts import dcp  # needs torch; looking at checkpoints does not

    every = [*files, dcp.write_index(path, places)]
    listed = {w.file: {"bytes": w.bytes, "sha256": w.sha256} for w in every}
    body = {"format": FORMAT, "step": step, "facts": facts, "files": listed}
    text = json.dumps({**body, "sha256": _digest(body)}, indent=1)
    if isinstance(path, RemotePath):
        (path / MANIFEST).write_text(text)
        return path
    atomic_write_text(path / MANIFEST, text)
    final = path.parent / f"step_{step}"
    if final.exists():
        shutil.rmtree(final)
    path.rename(final)
    fsync_folder(path.parent)
    return final


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the last ones, those of multiples of `every` (0: none), and of steps `at`."""

    last: int
    every: int = 0
    at: tuple[int, ...] = ()

    def keeps(self, step: int) -> bool:
        return step in self.at or (self.every > 0 and step % self.every == 0)


def remove_staging(folder: Folder) -> None:
    """Remove drafts that were never committed."""
    if isinstance(folder, RemotePath):
        for path in _remote_steps(folder):
            if (path / MANIFEST).size() is None:
                path.remove()
        return
    for path in folder.glob(".step_*.draft"):
        shutil.rmtree(path, ignore_errors=True)


def collect_garbage(folder: Folder, keep: Retention) -> None:
    """Remove drafts, and checkpoints that need not be kept."""
    remove_staging(folder)
    for old in list_checkpoints(folder)[: -keep.last]:
        if not keep.keeps(old.step):
            _remove(old.folder)


def _remove(path: Folder) -> None:
    """Remove a checkpoint: nobody may find one of which half is gone, so first it is no checkpoint."""
    if isinstance(path, RemotePath):
        (path / MANIFEST).remove()
        path.remove()
        return
    hidden = path.rename(path.with_name(f".{path.name}.draft"))
    shutil.rmtree(hidden, ignore_errors=True)


# --------------------------------------------------------------------------- reading


def read_manifest(path: Folder) -> Mapping[str, Any]:
    """The manifest of a checkpoint. Raises ValueError when it is missing or damaged."""
    try:
        body = json.loads((path / MANIFEST).read_text())
        digest = body.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError):
        raise ValueError(f"{path}: the manifest is missing or no JSON") from None
    if digest != _digest(body):
        raise ValueError(f"{path}: the manifest does not match its own checksum")
    if body["format"] != FORMAT:
        raise ValueError(f"{path}: written by another version (format {body['format']}, here {FORMAT})")
    return body


def find_damage(path: Folder, contents: bool = True) -> list[str]:
    """What is wrong with a checkpoint, one line each; empty when it is whole.

    contents: read every byte and compare checksums; otherwise only look for files and their sizes."""
    try:
        files = read_manifest(path)["files"]
    except ValueError as error:
        return [str(error)]
    wrong = []
    for name, expected in files.items():
        file = path / name
        size = _size(file)
        if size is None:
            wrong.append(f"{file}: missing")
        elif size != expected["bytes"]:
            wrong.append(f"{file}: {size} bytes instead of {expected['bytes']}")
        elif contents and _file_digest(file) != expected["sha256"]:
            wrong.append(f"{file}: its bytes have changed since it was written")
    return wrong


def latest(folder: Folder, warn: Callable[[str], None]) -> SavedCheckpoint | None:
    """The newest checkpoint that is whole; says through `warn` what is wrong with newer ones.

    Raises ValueError when there are checkpoints and all are damaged: starting anew would hide a loss."""
    everything = list_checkpoints(folder)
    for candidate in reversed(everything):
        wrong = find_damage(candidate.folder)
        if not wrong:
            return candidate
        warn("; ".join(wrong))
        warn(f"step {candidate.step} is damaged and not used")
    if everything:
        raise ValueError(f"{folder}: every checkpoint is damaged; remove the folder to start the run anew")
    return None


def read_extra_state(path: Folder) -> Any:
    """What the owner stored beside the tensors."""
    return read_manifest(path)["facts"]


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Folder) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def _size(path: Folder) -> int | None:
    """Bytes of a file, None where there is none."""
    if isinstance(path, RemotePath):
        return path.size()
    return path.stat().st_size if path.is_file() else None


def summary(entry: SavedCheckpoint) -> dict[str, Any]:
    """A checkpoint as a row of a table: step, folder, bytes, files, and what sizes tell of damage."""
    sizes = [_size(file) or 0 for file in entry.folder.iterdir()]
    row = asdict(entry) | {"folder": str(entry.folder), "bytes": sum(sizes), "files": len(sizes)}
    return row | {"damage": find_damage(entry.folder, contents=False)}
