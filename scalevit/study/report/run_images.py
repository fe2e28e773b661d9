"""Pictures that lie in runs' folders, as `scalevit probe --pictures` draws them, to be shown in a report."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scalevit.artifacts.records import find_run_folders
from scalevit.study.report.untrusted_text import plain_text

#: The folder in a run's, and how many bytes of pictures a page takes before it stops showing more.
FOLDER, BYTES = "pictures", 1_000_000


#: How every PNG file begins.
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A PNG file in base64: which run it is of, and its name without the ending."""

    run: str
    name: str
    base64: str


def run_images(folders: Iterable[Path]) -> list[Picture]:
    """The pictures of the runs below some folders, in the order of their names, as many as a page takes. Only
    PNG files that lie in their run's own folder: a link could carry any file into the page."""
    found, room = [], BYTES
    for run in (run for folder in folders for run in find_run_folders(folder)):
        for path in sorted((run / FOLDER).glob("*.png")):
            picture = _read_png(path, run, room)
            if picture is not None:
                room -= len(picture)
                text = base64.b64encode(picture).decode()
                found.append(Picture(plain_text(run.name), plain_text(path.stem), text))
    return found


def _read_png(path: Path, run: Path, most: int) -> bytes | None:
    """The bytes of a PNG file of at most `most` bytes; None for links, other files and larger ones."""
    inside = path.resolve().is_relative_to(run.resolve())
    if path.is_symlink() or not inside or not path.is_file() or path.stat().st_size > most:
        return None
    data = path.read_bytes()
    return data if data.startswith(PNG) and len(data) <= most else None
