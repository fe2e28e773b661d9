"""Image files of a folder: which are listed, which never are, and which links are followed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from scalevit.data.left_out import LeftOut

#: File names with these endings are images; others are when their first bytes say so.
SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm",
    ".jp2", ".j2k", ".avif", ".heic", ".heif",
)  # fmt: skip
#: Folders and files that no user put there: of macOS, Windows, Synology, Jupyter. Hidden ones count as such.
SYSTEM_NAMES = frozenset(
    ("__macosx", "@eadir", "thumbs.db", "desktop.ini", "lost+found", "#recycle", "$recycle.bin",
     "system volume information", "__pycache__", "ehthumbs.db", "icon\r")
)  # fmt: skip
#: A file above this is no image.
MAX_BYTES = 1 << 29
_HEAD = 32
_BRANDS = {
    b"avif": "avif",
    b"avis": "avif",
    b"heic": "heic",
    b"heix": "heic",
    b"mif1": "heic",
    b"heim": "heic",
}
_BEGINNINGS = {
    b"\xff\xd8": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"II*\0": "tif", b"MM\0*": "tif",
    b"\0\0\0\x0cjP  ": "jp2", b"\xff\x4f\xff\x51": "j2k",
}  # fmt: skip
#: Reasons for which files are left out.
NO_IMAGE, LEAVES, CIRCLE = (
    "not an image",
    "a link that leaves the data set",
    "a folder that is listed already",
)
DANGLING, DEVICE, TOO_LARGE = "a link to nothing", "a device, pipe or socket", "too large for an image"


def is_system_name(name: str) -> bool:
    """Whether a file or folder of this name is never a sample or a class: hidden, or a system's own."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def image_type(head: bytes) -> str | None:
    """The usual ending of an image file with these first 32 bytes; None where they are no image's."""
    for beginning, ending in _BEGINNINGS.items():
        if head.startswith(beginning):
            return ending
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return "bmp"
    if head[:2] in (b"P5", b"P6") and head[2:3].isspace():
        return "pgm" if head[:2] == b"P5" else "ppm"
    return _BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None


def is_inside(path: str, folder: str) -> bool:
    """Whether a real path lies in a real folder."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def image_files(
    folder: str, boundary: str, left_out: LeftOut, *, follow_links: bool = False, sidecars: bool = False
) -> Iterator[tuple[str, int]]:
    """(name below the folder, bytes) of every image, files of a folder before its subfolders, each in the
    order of their names. Links are followed within the real folder `boundary`, with `follow_links` anywhere;
    no folder is listed twice. sidecars: label files are no images, and are not counted as left out."""
    waiting, seen = [("", os.path.realpath(folder))], set[str]()
    while waiting:
        below, here = waiting.pop()
        if here in seen:
            left_out.add(CIRCLE, f"{folder}/{below}")
            continue
        seen.add(here)
        folders = []
        with os.scandir(here) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if is_system_name(entry.name):
                    continue
                name = f"{below}{entry.name}"
                facts = _facts(entry, boundary, follow_links, left_out, f"{folder}/{name}")
                if facts is None:
                    continue
                if stat.S_ISDIR(facts.st_mode):
                    folders.append((f"{name}/", os.path.realpath(entry.path)))
                elif _is_image(entry, facts, left_out, f"{folder}/{name}", sidecars):
                    yield name, facts.st_size
        waiting += reversed(folders)


def _facts(
    entry: os.DirEntry[str], boundary: str, follow_links: bool, left_out: LeftOut, name: str
) -> os.stat_result | None:
    """What an entry is; None when it is left out."""
    try:
        if entry.is_symlink() and not follow_links and not is_inside(os.path.realpath(entry.path), boundary):
            left_out.add(LEAVES if os.path.exists(entry.path) else DANGLING, name)  # noqa: PTH110
            return None
        return entry.stat()
    except OSError as error:
        left_out.add(DANGLING if entry.is_symlink() else f"unreadable: {error.strerror}", name)
        return None


def _is_image(
    entry: os.DirEntry[str], facts: os.stat_result, left_out: LeftOut, name: str, sidecars: bool
) -> bool:
    if not stat.S_ISREG(facts.st_mode):
        left_out.add(DEVICE, name)
    elif facts.st_size > MAX_BYTES:
        left_out.add(TOO_LARGE, name)
    elif entry.name.lower().endswith(SUFFIXES):
        return True
    elif sidecars and entry.name.lower().endswith((".cls", ".json", ".txt")):
        return False
    elif image_type(_first_bytes(entry.path)):
        return True
    else:
        left_out.add(NO_IMAGE, name)
    return False


def _first_bytes(path: str) -> bytes:
    try:
        return read_regular(path, _HEAD)
    except OSError:
        return b""


def read_regular(path: str, most: int = MAX_BYTES) -> bytes:
    """At most so many bytes of a regular file; OSError for anything else, without waiting on a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read(most)


def read_inside(boundary: str, path: str, follow_links: bool = False) -> bytes:
    """The bytes of a file, which must lie in the folder `boundary` with all links followed. Raises OSError
    for one that does not."""
    folder, _, name = path.rpartition("/")
    real = f"{_real(folder)}/{name}"
    if Path(real).is_symlink():
        real = os.path.realpath(real)
    if name in ("", ".", "..") or not (follow_links or is_inside(real, _real(boundary))):
        raise OSError(errno.EPERM, LEAVES)
    return read_regular(real)


@lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)
