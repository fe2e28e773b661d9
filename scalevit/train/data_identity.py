"""Identity of a run's images: their content, not their path.

A run records a hash over its images' class names, labels and number (`data.content`). Images that were moved
or repacked go on; images that changed are refused unless that is accepted, which is recorded too
(`data.accepted`).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from scalevit import config
from scalevit.artifacts import records, run_folder
from scalevit.config.run_id import PROCEDURAL
from scalevit.data.registry import SourceInfo, describe_source


def identify(
    run: config.Run, out: Path | None, accept_changed: bool = False
) -> tuple[config.Run, SourceInfo]:
    """The run with the content of its images filled in, and what its images are.

    Raises ValueError, naming what changed, when the run in `out` (or the trunk of a branch) began with other
    images, unless `accept_changed`."""
    data = run.data
    if not data.source or (data.source in PROCEDURAL and not data.more) or data.part != "all":
        return run, SourceInfo(0)
    info = describe_source(data)
    content = _with_exclusions(info.content_id, data.exclude)
    begun = _begun_with(run, out)
    if begun is None or not begun[1].content:
        return replace(run, data=replace(data, content=content, accepted=(), names=info.class_names)), info
    folder, known = begun
    accepted = known.accepted
    if content not in (known.content, *accepted):
        if not accept_changed:
            raise ValueError(_changes(folder, known, info, data.source))
        accepted = (*accepted, content)
    return replace(run, data=replace(data, content=known.content, accepted=accepted, names=known.names)), info


def _with_exclusions(content: str, exclude: str) -> str:
    """The content without the samples of an exclusion list, which is part of what the images are."""
    if not exclude:
        return content
    try:
        return hashlib.sha256(content.encode() + Path(exclude).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"data.exclude={exclude}: {error.strerror}") from None


def _begun_with(run: config.Run, out: Path | None) -> tuple[Path, config.Data] | None:
    """The folder that says with which images the run began, and what it says."""
    for folder in (out, Path(run.branch.trunk) if run.branch.trunk else None):
        if folder is not None and (folder / run_folder.CONFIG).is_file():
            return folder, config.load(str(folder / run_folder.CONFIG)).data
    return None


def _changes(folder: Path, known: config.Data, info: SourceInfo, source: str) -> str:
    """One line that says how the images differ from those that the run began with."""
    changes = []
    if known.names != info.class_names:
        new = [name for name in info.class_names if name not in known.names]
        gone = [name for name in known.names if name not in info.class_names]
        changes += [f"new classes: {', '.join(new[:5])}"] if new else []
        changes += [f"classes gone: {', '.join(gone[:5])}"] if gone else []
    rows = records.read_records(folder)
    before = next((row["samples"] for row in rows if row["kind"] == "start" and row.get("samples")), None)
    if before not in (None, info.samples):
        changes.append(f"{before} images then, {info.samples} now")
    what = "; ".join(changes) or "other images or labels"
    return (
        f"data.source={source}: not the images that {folder} began with ({what}); "
        "--accept-changed-data goes on with them and records it"
    )
