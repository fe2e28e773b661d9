"""Pictures that lie in runs' folders, as `scalevit probe --pictures` draws them, to be shown in a report."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scalevit.artifacts.records import find_run_folders

#: The folder in a run's, and how many bytes of pictures a page takes before it stops showing more.
FOLDER, BYTES = "pictures", 1_000_000


@dataclass(frozen=True)
class Picture:
    """A PNG file in base64: which run it is of, and its name without the ending."""

    run: str
    name: str
    base64: str


def run_images(folders: Iterable[Path]) -> list[Picture]:
    """The pictures of the runs below some folders, in the order of their names, as many as a page takes."""
    found, room = [], BYTES
    for run in (run for folder in folders for run in find_run_folders(folder)):
        for path in sorted((run / FOLDER).glob("*.png")):
            room -= path.stat().st_size
            if room < 0:
                return found
            found.append(Picture(run.name, path.stem, base64.b64encode(path.read_bytes()).decode()))
    return found
