"""WebDataset shards: tar files in which `key.jpg` and `key.cls` (or .json, .txt) make a sample.

The tar is read by our own scanner, which trusts nothing in it: names are never paths to open, sizes must lie
within the file, and every header must carry its checksum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from scalevit.artifacts.remote import file_version, is_remote, read_range
from scalevit.data.decode import ENDINGS, BrokenImage
from scalevit.data.formats.labels import LABELS, labels_from
from scalevit.data.index.cache import UNCACHED, CachedReader
from scalevit.data.index.read import Builder, Header, ShardIndex

BLOCK = 512
#: Label members and long names above this size are refused.
SMALL = 1 << 20
_WINDOW = 1 << 20
IMAGES = tuple(ending[1:] for ending in ENDINGS)


class TarMember(NamedTuple):
    """A file in a tar: its name, and where its bytes lie."""

    name: str
    offset: int
    length: int


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
    """The regular files of a tar, in order. Raises ValueError where it is damaged or cut."""
    size, fetch = file_version(path).size, _Window(path)
    place, long_name, long_size = 0, "", None
    while place + BLOCK <= size:
        block = fetch(place, BLOCK)
        if not block.strip(b"\0"):
            return
        name, length, kind = _header(block, path, place)
        length = length if long_size is None or kind in b"xgLK" else long_size
        start = place + BLOCK
        if start + length > size:
            raise ValueError(f"{path} is cut: {name!r:.60} at byte {place} ends after the file does")
        if kind in b"xL":
            extended = _extended(fetch(start, _small(length, path, place)), kind, path)
            long_name, long_size = extended[0] or long_name, extended[1] if kind == b"x" else long_size
        elif kind not in b"gK":
            if kind in b"0\0" and length:
                yield TarMember(long_name or name, start, length)
            long_name, long_size = "", None
        place = start + -(-length // BLOCK) * BLOCK
    if place < size or size == 0:
        raise ValueError(f"{path} is cut or no tar: {size} bytes")


def _small(length: int, path: str, place: int) -> int:
    if length > SMALL:
        raise ValueError(f"{path}: a long name at byte {place} claims {length} bytes")
    return length


def _header(block: bytes, path: str, place: int) -> tuple[str, int, bytes]:
    """(name, size, kind) of a header block, whose checksum must be right."""
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
    return name.decode("utf-8", "replace"), length, block[156:157]


def _number(digits: bytes) -> int:
    """Octal, or base 256 when the first bit is set (GNU, for files over 8 GB)."""
    if digits[0] & 0x80:
        return int.from_bytes(digits[1:], "big")
    return int(digits.strip(b" \0") or b"0", 8)


def _extended(data: bytes, kind: bytes, path: str) -> tuple[str, int | None]:
    """(name, size) from a GNU long name or a POSIX extended header."""
    if kind == b"L":
        return data.split(b"\0")[0].decode("utf-8", "replace"), None
    name, size, place = "", None, 0
    while place < len(data):
        digits, space, _ = data[place : place + 20].partition(b" ")
        if not space or not digits.isdigit() or int(digits) <= len(digits) + 1:
            raise ValueError(f"{path}: an extended header is damaged")
        key, _, value = data[place + len(digits) + 1 : place + int(digits) - 1].partition(b"=")
        if key == b"path":
            name = value.decode("utf-8", "replace")
        if key == b"size" and value.isdigit() and len(value) < 20:
            size = int(value)
        place += int(digits)
    return name, size


# --------------------------------------------------------------------------- samples


def scan(path: str) -> ShardIndex:
    """An index of a shard from its headers and label members. Raises ValueError when it holds no image."""
    builder = Builder(Header("tar", path, *file_version(path)))
    for files in _samples(path):
        image = next((files[ending] for ending in IMAGES if ending in files), None)
        if image is None:
            continue
        if image.length >= 2**32:
            raise ValueError(f"{path}: {image.name} is {image.length} bytes, more than an image can be")
        builder.add(image.offset, image.length, _labels(path, files))
    if not builder.rows:
        raise ValueError(f"{path} holds no image ({', '.join(IMAGES)})")
    return builder.done()


def _samples(path: str) -> Iterator[dict[str, TarMember]]:
    """The members of each key, by ending; a key's members follow one another."""
    current, files = None, {}
    for member in members(path):
        folder, _, base = member.name.rpartition("/")
        stem, _, ending = base.partition(".")
        key = (folder, stem)
        if key != current and files:
            yield files
            files = {}
        current = key
        files.setdefault(ending.lower(), member)
    if files:
        yield files


def _labels(path: str, files: dict[str, TarMember]) -> tuple[int, ...] | None:
    """Class numbers of a sample from its .cls, .json or .txt; None when it has none of them."""
    member = next((files[ending] for ending in LABELS if ending in files), None)
    if member is None:
        return None
    if member.length > SMALL:
        raise ValueError(f"{path}: {member.name} has {member.length} bytes, more than a label can have")
    return labels_from(read_range(path, member.offset, member.length), f"{path}: {member.name}")


def name(index: ShardIndex, number: int) -> str:
    """How to say which sample this is: the shard, and the byte its image starts at."""
    return f"{index.header.path} at byte {int(index.records[number]['offset'])}"


def encoded(index: ShardIndex, number: int, reader: CachedReader = UNCACHED) -> bytes:
    """The bytes of one image."""
    record = index.records[number]
    data = reader.read(index.header.path, int(record["offset"]), int(record["length"]))
    if len(data) != int(record["length"]):
        raise BrokenImage(f"{name(index, number)}: the shard ends early; it changed after it was indexed")
    return data
