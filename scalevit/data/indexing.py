"""`scalevit data index`: read and decode every sample once and write what was found beside its shard.

Work is cut into chunks of samples whose results are kept, so an interrupted pass goes on where it stopped.
"""

from __future__ import annotations

import multiprocessing
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scalevit.data.decode import BrokenImage, decode
from scalevit.data.fingerprint import luminance, phash
from scalevit.data.index import BROKEN, MEASURED, ShardIndex, opened, read, sidecar, stamp_of, write
from scalevit.data.stores import FORMS, shard_paths

CHUNK = 1024
#: What a chunk's result holds of each sample.
FIELDS = ("phash", "checksum", "width", "height", "length", "flags")


@dataclass(frozen=True)
class Built:
    """What a pass did. kept: shards that had a good index. bytes: of all indexes together."""

    shards: int
    kept: int
    samples: int
    broken: tuple[str, ...]
    bytes: int


def build(source: str, *, workers: int = 0, progress: Callable[[int, int], None] | None = None) -> Built:
    """Index every shard of a source. `progress(done, all)` counts samples of the current shard.

    Raises ValueError for a shard that cannot be scanned; those finished before stay finished."""
    paths, form = shard_paths(source)
    kept, samples, broken, total = 0, 0, list[str](), 0
    for path in paths:
        index, is_new = _whole(path, form), False
        if index is None:
            index, is_new = _measure_shard(path, form, workers, progress), True
        kept += not is_new
        samples += index.header.samples
        total += sidecar(path, form).stat().st_size
        bad = np.flatnonzero(index.records["flags"] & BROKEN)
        broken += [FORMS[form].name(index, int(number)) for number in bad]
    return Built(len(paths), kept, samples, tuple(broken), total)


def _whole(path: str, form: str) -> ShardIndex | None:
    """The index of a shard that needs no new pass."""
    try:
        index = opened(path, form, stamp_of(path, form))
    except ValueError:
        return None  # stale, cut or of another version: made again
    return index if index is not None and index.header.measured else None


def _measure_shard(
    path: str, form: str, workers: int, progress: Callable[[int, int], None] | None
) -> ShardIndex:
    target = sidecar(path, form)
    parts = target.with_name(target.name + ".parts")
    index = _scanned(path, form, parts)
    count = index.header.samples
    chunks = [(parts, start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    for done, _ in enumerate(_run(chunks, workers), start=1):
        if progress:
            progress(min(done * CHUNK, count), count)
    records = index.records.copy()
    for part, start, stop in chunks:
        found = np.load(_result(part, start))
        for name in FIELDS:
            records[name][start:stop] = found[name]
    whole = ShardIndex(replace(index.header, measured=True), records, index.labels, index.text)
    write(whole, target)
    shutil.rmtree(parts)
    return read(target)


def _scanned(path: str, form: str, parts: Path) -> ShardIndex:
    """The shard's listing, kept in `parts`: an interrupted pass's one, if the shard is still the same."""
    listing = parts / "listing"
    now = stamp_of(path, form)
    if listing.exists():
        with suppress(ValueError):  # of another version
            index = read(listing)
            if (index.header.size, index.header.changed) == tuple(now):
                return index
        shutil.rmtree(parts)
    index = FORMS[form].scan(path)
    write(index, listing)
    return index


def _run(chunks: list[tuple[Path, int, int]], workers: int) -> Iterator[None]:
    if workers < 2 or len(chunks) < 2:
        yield from map(_measure_chunk, chunks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=context) as pool:
        yield from pool.map(_measure_chunk, chunks)


def _result(parts: Path, start: int) -> Path:
    return parts / f"{start:012d}.npy"


def _measure_chunk(chunk: tuple[Path, int, int]) -> None:
    """Measure a chunk of a listing and keep the result, unless it is there."""
    parts, start, stop = chunk
    target = _result(parts, start)
    if target.exists():
        return
    index = read(parts / "listing")
    found = index.records[start:stop].copy()
    for place in range(len(found)):
        _measure(index, start + place, found[place : place + 1])
    temporary = target.with_suffix(".part")
    with temporary.open("wb") as file:
        np.save(file, found)
    temporary.replace(target)


def _measure(index: ShardIndex, number: int, record: np.ndarray) -> None:
    """Fill in what is known once a sample was decoded."""
    form = FORMS[index.header.form]
    record["flags"] = MEASURED
    try:
        data = form.encoded(index, number)
        record["checksum"], record["length"] = zlib.crc32(data), len(data)
        pixels = decode(data, form.name(index, number))
        record["height"], record["width"] = np.minimum(pixels.shape[:2], 65535)
        record["phash"] = phash(luminance(pixels, 32))
    except BrokenImage:
        record["flags"] = MEASURED | BROKEN
