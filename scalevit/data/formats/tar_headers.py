"""Headers of tar files: the members, and where their bytes lie.

Our own reader trusts nothing in a tar: names are never paths to open, sizes must lie within the file, and
every header must carry its checksum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from scalevit.artifacts.remote import file_version, is_remote, read_range

BLOCK = 512
#: Label members and long names above this size are refused.
SMALL = 1 << 20
_WINDOW = 1 << 20


class TarMember(NamedTuple):
    """A file in a tar: its name, and where its bytes lie. target: the name that a link points to; kind: the
    type flag."""

    name: str
    offset: int
    length: int
    target: str = ""
    kind: bytes = b"0"


class _Window:
    """Small reads of a remote file served from one large one."""

    def __init__(self, path: str) -> None:
        self.path, self.start, self.data = path, 0, b""

    def __call__(self, start: int, length: int) -> bytes:
        if not is_remote(self.path):
            return read_range(self.path, start, length)
        if start < self.start or start + length > self.start + len(self.data):
            self.start, self.data = start, read_range(self.path, start, max(length, _WINDOW))
        return self.data[start - self.start : start - self.start + length]


def members(path: str) -> Iterator[TarMember]:
    """The members of a tar but its folders, in order. Raises ValueError where it is damaged or cut."""
    size, fetch = file_version(path).size, _Window(path)
    place, long_name, long_link, long_size = 0, "", "", None
    while place + BLOCK <= size:
        block = fetch(place, BLOCK)
        if not block.strip(b"\0"):
            return
        name, length, kind, link = _header(block, path, place)
        length = length if long_size is None or kind in b"xgLK" else long_size
        length = 0 if kind in b"123456" else length
        start = place + BLOCK
        if start + length > size:
            raise ValueError(f"{path} is cut: {name!r:.60} at byte {place} ends after the file does")
        if kind in b"xLK":
            extended = _extended(fetch(start, _small(length, path, place)), kind, path)
            long_name, long_link = extended[0] or long_name, extended[1] or long_link
            long_size = extended[2] if kind == b"x" else long_size
        elif kind != b"g":
            if kind != b"5":
                yield TarMember(long_name or name, start, length, long_link or link, kind)
            long_name, long_link, long_size = "", "", None
        place = start + -(-length // BLOCK) * BLOCK
    if place < size or size == 0:
        raise ValueError(f"{path} is cut or no tar: {size} bytes")


def _small(length: int, path: str, place: int) -> int:
    if length > SMALL:
        raise ValueError(f"{path}: a long name at byte {place} claims {length} bytes")
    return length


def _header(block: bytes, path: str, place: int) -> tuple[str, int, bytes, str]:
    """(name, size, kind, link's target) of a header block, whose checksum must be right."""
    try:
        claimed = int(block[148:156].strip(b" \0") or b"x", 8)
        length = _number(block[124:136])
    except ValueError:
        raise ValueError(f"{path} is no tar, or damaged at byte {place}") from None
    if claimed != sum(block[:148]) + 256 + sum(block[156:]) or length < 0:
        raise ValueError(f"{path} is damaged: the header at byte {place} has a wrong checksum")
    name = block[:100].split(b"\0")[0]
    if block[257:262] == b"ustar" and block[345]:
        name = block[345:500].split(b"\0")[0] + b"/" + name
    return _text(name), length, block[156:157], _text(block[157:257].split(b"\0")[0])


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _number(digits: bytes) -> int:
    """Octal, or base 256 when the first bit is set (GNU, for files over 8 GB)."""
    if digits[0] & 0x80:
        return int.from_bytes(digits[1:], "big")
    return int(digits.strip(b" \0") or b"0", 8)


def _extended(data: bytes, kind: bytes, path: str) -> tuple[str, str, int | None]:
    """(name, link's target, size) from a GNU long name or link, or a POSIX extended header."""
    if kind in b"LK":
        long = _text(data.split(b"\0")[0])
        return (long, "", None) if kind == b"L" else ("", long, None)
    name, link, size, place = "", "", None, 0
    while place < len(data):
        digits, space, _ = data[place : place + 20].partition(b" ")
        if not space or not digits.isdigit() or int(digits) <= len(digits) + 1:
            raise ValueError(f"{path}: an extended header is damaged")
        key, _, value = data[place + len(digits) + 1 : place + int(digits) - 1].partition(b"=")
        if key == b"path":
            name = _text(value)
        if key == b"linkpath":
            link = _text(value)
        if key == b"size" and value.isdigit() and len(value) < 20:
            size = int(value)
        place += int(digits)
    return name, link, size
