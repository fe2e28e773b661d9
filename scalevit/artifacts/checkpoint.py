"""Exact checkpoints: `step_N/` is there whole or not at all, and damage is noticed before anything is read.

A checkpoint is written into a hidden staging folder beside its place, file by file to the disk, then a
manifest with every file's size and SHA-256, and only then renamed. A checkpoint of the same step is renamed
aside before and removed after, so that at any moment one of both is whole; `remove_staging` puts it back when
the process died in between, and removes what was never committed. `scalevit.artifacts.dcp` has the format of
the tensors.

A remote store renames nothing: there the files are written in their place and the manifest last, and removed
manifest first; a folder without a manifest is no checkpoint. A step that is saved again gets a folder of its
own, `step_N.2`, before the earlier one is removed.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scalevit.artifacts.atomic_write import atomic_write_text, fsync_folder
from scalevit.artifacts.hashing_writer import no_progress
from scalevit.artifacts.remote import Folder, RemotePath

if TYPE_CHECKING:
    from scalevit.artifacts import dcp

MANIFEST = "manifest.json"
FORMAT = 1
#: Bytes of a manifest that are read, and of a file that are hashed at a time.
_LARGEST_MANIFEST, _CHUNK = 1 << 26, 1 << 22
_STEP = re.compile(r"step_(\d{1,18})(?:\.(\d{1,6}))?")
_ASIDE = re.compile(r"\.(step_\d+)\.[0-9a-f]+\.old")


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that is in place: its step and its folder. revision: of several folders of one step at a
    store, the highest counts."""

    step: int
    folder: Folder
    revision: int = 1


def list_checkpoints(folder: Folder) -> list[SavedCheckpoint]:
    """The checkpoints below `folder`, whole or damaged, by step."""
    newest = {entry.step: entry for entry in _all_revisions(folder)}
    return sorted(newest.values(), key=lambda entry: entry.step)


def _all_revisions(folder: Folder) -> list[SavedCheckpoint]:
    """The same with every revision, the later ones of a step after the earlier ones."""
    if isinstance(folder, RemotePath):
        paths = [path for path in _remote_steps(folder) if (path / MANIFEST).size() is not None]
    else:
        paths = [path for path in folder.glob("step_*") if path.is_dir()]
    named = [(_STEP.fullmatch(path.name), path) for path in paths]
    entries = [SavedCheckpoint(int(m[1]), path, int(m[2] or 1)) for m, path in named if m]
    return sorted(entries, key=lambda entry: (entry.step, entry.revision))


def _remote_steps(folder: RemotePath) -> list[RemotePath]:
    """Committed checkpoints and uncommitted ones, which at a store look alike but for the manifest."""
    return [path for path in folder.iterdir() if path.name.startswith("step_")]


def step_folder(folder: Folder, step: int) -> Folder:
    """The folder of the checkpoint of `step`."""
    found = [entry.folder for entry in list_checkpoints(folder) if entry.step == step]
    return found[0] if found else folder / f"step_{step}"


# --------------------------------------------------------------------------- writing


def create_staging(folder: Folder, step: int) -> Folder:
    """An empty folder to write the checkpoint of `step` into before `commit`: hidden and with an
    unpredictable name on a disk, the final one at a store. Raises OSError."""
    if isinstance(folder, RemotePath):
        revision = max((e.revision for e in _all_revisions(folder) if e.step == step), default=0) + 1
        path = folder / (f"step_{step}" if revision == 1 else f"step_{step}.{revision}")
        path.remove()
        return path
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".step_{step}.{secrets.token_hex(8)}.staging"
    path.mkdir()
    return path


def commit(
    path: Folder,
    step: int,
    locations: Sequence[dcp.ShardLocation],
    files: Iterable[dcp.WrittenFile],
    extra_state: Any,
) -> Folder:
    """Add index and manifest to a staging folder that holds the shards of all ranks, and give it its name.

    extra_state: JSON that the owner wants back with the tensors. Raises OSError."""
    from scalevit.artifacts import dcp  # needs torch; looking at checkpoints does not

    written = [*files, dcp.write_index(path, locations)]
    listed = {w.file: {"bytes": w.bytes, "sha256": w.sha256} for w in written}
    body = {"format": FORMAT, "step": step, "facts": extra_state, "files": listed}
    text = json.dumps({**body, "sha256": _digest(body)}, indent=1)
    if isinstance(path, RemotePath):
        (path / MANIFEST).write_text(text)
        return path
    atomic_write_text(path / MANIFEST, text)
    final, aside = path.parent / f"step_{step}", None
    if final.exists():
        aside = final.rename(final.with_name(f".{final.name}.{secrets.token_hex(8)}.old"))
    path.rename(final)
    fsync_folder(path.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)
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
    """Remove what was never committed; put back a checkpoint that was renamed aside in vain."""
    if isinstance(folder, RemotePath):
        for path in _remote_steps(folder):
            if (path / MANIFEST).size() is None:
                path.remove()
        return
    for path in sorted(folder.glob(".step_*.old")):
        named = _ASIDE.fullmatch(path.name)
        if named and not (folder / named[1]).exists():
            path.rename(folder / named[1])
            fsync_folder(folder)
    for pattern in (".step_*.old", ".step_*.staging", ".step_*.draft"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def collect_garbage(folder: Folder, keep: Retention, current: int | None = None) -> None:
    """Remove staging folders, and checkpoints that need not be kept.

    current: the step just saved, which stays. Of the last ones only those count whose files have the right
    sizes, so that the last good one is never removed for the sake of a damaged one."""
    remove_staging(folder)
    entries = list_checkpoints(folder)
    for superseded in set(_all_revisions(folder)) - set(entries):
        _remove(superseded.folder)
    good = [entry.step for entry in entries if not find_damage(entry.folder, contents=False)]
    if current in good:
        good = [step for step in good if step <= current]  # later ones are of a past that was left
    kept = {*good[-keep.last :], current}
    for entry in entries:
        if good and entry.step not in kept and not keep.keeps(entry.step):
            _remove(entry.folder)


def _remove(path: Folder) -> None:
    """Remove a checkpoint: first it stops being one, so that nobody finds half of it."""
    if isinstance(path, RemotePath):
        (path / MANIFEST).remove()
        path.remove()
        return
    hidden = path.rename(path.with_name(f".{path.name}.{secrets.token_hex(8)}.staging"))
    shutil.rmtree(hidden, ignore_errors=True)


# --------------------------------------------------------------------------- reading


def read_manifest(path: Folder) -> Mapping[str, Any]:
    """The manifest of a checkpoint. Raises ValueError when it is missing, damaged, or of another step than
    the folder's name says."""
    try:
        if (_size(path / MANIFEST) or 0) > _LARGEST_MANIFEST:
            raise ValueError
        body = json.loads((path / MANIFEST).read_text())
        digest = body.pop("sha256")
        computed = _digest(body)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise ValueError(f"{path}: the manifest is missing or no JSON") from None
    if digest != computed:
        raise ValueError(f"{path}: the manifest does not match its own checksum")
    if body.get("format") != FORMAT:
        raise ValueError(f"{path}: written by another version (format {body.get('format')}, here {FORMAT})")
    if not _files_are_listed(body.get("files")):
        raise ValueError(f"{path}: the manifest's list of files is damaged, or names files elsewhere")
    named = _STEP.fullmatch(path.name)
    if named and int(named[1]) != body.get("step"):
        raise ValueError(f"{path}: holds the checkpoint of step {body.get('step')}; its folder was renamed")
    return body


def _files_are_listed(files: Any) -> bool:
    """Whether this maps plain names of files to their sizes and checksums."""
    return isinstance(files, dict) and all(
        isinstance(about, dict)
        and isinstance(about.get("bytes"), int)
        and isinstance(about.get("sha256"), str)
        and name not in ("", ".", "..")
        and not set("/\\\0") & set(name)
        for name, about in files.items()
    )


def find_damage(path: Folder, contents: bool = True, progress: Callable[[], None] = no_progress) -> list[str]:
    """Damage of a checkpoint, one line each; empty when it is whole.

    contents: read every byte and compare checksums; otherwise only look for files and their sizes. progress:
    is called at each chunk that was hashed."""
    try:
        files = read_manifest(path)["files"]
    except ValueError as error:
        return [str(error)]
    damage = []
    for name, expected in files.items():
        file = path / name
        size = _size(file)
        if size is None:
            damage.append(f"{file}: missing, or not a plain file")
        elif size != expected["bytes"]:
            damage.append(f"{file}: {size} bytes instead of {expected['bytes']}")
        elif contents and _file_digest(file, progress) != expected["sha256"]:
            damage.append(f"{file}: its bytes have changed since it was written")
    return damage


def latest(
    folder: Folder, warn: Callable[[str], None], progress: Callable[[], None] = no_progress
) -> SavedCheckpoint | None:
    """The newest checkpoint that is whole; newer damaged ones are reported through `warn`.

    Raises ValueError when there are checkpoints and all are damaged: starting anew would hide a loss."""
    entries = list_checkpoints(folder)
    for entry in reversed(entries):
        damage = find_damage(entry.folder, progress=progress)
        if not damage:
            return entry
        warn("; ".join(damage))
        warn(f"step {entry.step} is damaged and not used")
    if entries:
        raise ValueError(f"{folder}: every checkpoint is damaged; remove the folder to start the run anew")
    return None


def read_extra_state(path: Folder) -> Any:
    """The JSON that the owner stored beside the tensors. Raises ValueError when the manifest is damaged."""
    return read_manifest(path)["facts"]


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Folder, progress: Callable[[], None]) -> str:
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            progress()
    return sha256.hexdigest()


def _size(path: Folder) -> int | None:
    """Bytes of a plain file, None where there is none or a link lies in its place."""
    if isinstance(path, RemotePath):
        return path.size()
    return path.stat().st_size if path.is_file() and not path.is_symlink() else None


def summarize(entry: SavedCheckpoint) -> dict[str, Any]:
    """A checkpoint as a row of a table: step, folder, bytes, files, and the damage that sizes tell of."""
    sizes = [_size(file) or 0 for file in entry.folder.iterdir()]
    row = {"step": entry.step, "folder": str(entry.folder), "bytes": sum(sizes), "files": len(sizes)}
    return row | {"damage": find_damage(entry.folder, contents=False)}
