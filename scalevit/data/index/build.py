"""Index builder, `scalevit data index`: every sample is read and decoded once, and its facts are written
beside its shard.

One pool works on all shards: each is begun (listed), measured in chunks of samples whose results are kept,
and ended. An interrupted pass goes on with the chunks that are missing.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scalevit.artifacts.atomic_write import atomic_write
from scalevit.data.dataset import FORMATS
from scalevit.data.decode import BrokenImage, decode
from scalevit.data.dedup.phash import luminance, phash
from scalevit.data.index import manifest
from scalevit.data.index.cache import CachedReader, sequential_reader
from scalevit.data.index.read import (
    BROKEN,
    MEASURED,
    Header,
    ShardIndex,
    cache_path,
    index_path,
    open_index,
    read_index,
    shard_stamp,
    write_index,
)
from scalevit.data.left_out import LeftOut
from scalevit.data.listing import ShardPaths, list_source
from scalevit.data.options import DEFAULTS, ListingOptions

CHUNK = 1024
#: What a chunk's result holds of each sample.
FIELDS = ("phash", "checksum", "width", "height", "length", "flags")
#: Tasks given to a process ahead of time.
_AHEAD = 2

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Built:
    """What a pass did. kept: shards that had a good index. bytes: of all indexes together."""

    shards: int
    kept: int
    samples: int
    broken: tuple[str, ...]
    bytes: int
    left_out: LeftOut = field(default_factory=LeftOut)


class Begun(NamedTuple):
    """A shard with so many samples; whether it has its index."""

    samples: int
    is_done: bool


class Ended(NamedTuple):
    """A shard's index: its header, which samples are broken, and its bytes."""

    header: Header
    broken: list[str]
    bytes: int


class ShardFormat(NamedTuple):
    """How shards are scanned. boundary: the folder that files may lie in."""

    form: str
    options: ListingOptions = DEFAULTS
    boundary: str = ""


def build(
    source: str,
    *,
    workers: int = 0,
    progress: Progress | None = None,
    options: ListingOptions = DEFAULTS,
    waiting: Callable[[], None] = lambda: None,
) -> Built:
    """Index every shard of every split of a source in so many processes. `progress(done, all)` counts
    samples; how many there are in shards that were not yet listed is guessed. `waiting` is called when
    another process indexes the same source: this one begins when it has ended.

    Raises ValueError for a shard that cannot be scanned, and naming what was read when a process died; what
    was finished before stays finished."""
    listing = list_source(source, options)
    with _alone(source, waiting), _clean_module_path():
        parts = [
            _build_split(
                split, shards, ShardFormat(shards.form, options, listing.boundary), workers, progress
            )
            for split, shards in listing.splits.items()
        ]
    return Built(
        sum(part.shards for part in parts), sum(part.kept for part in parts),
        sum(part.samples for part in parts), sum((part.broken for part in parts), ()),
        sum(part.bytes for part in parts), listing.left_out.merge(part.left_out for part in parts),
    )  # fmt: skip


def _build_split(
    split: str, shards: ShardPaths, form: ShardFormat, workers: int, progress: Progress | None
) -> Built:
    paths = shards.paths
    work = _Pass(form, progress or (lambda done, total: None), len(paths))
    is_small = len(paths) == 1 and _begin(paths[0], form).samples <= CHUNK
    is_alone = workers < 2 or is_small
    with _Here() if is_alone else _processes(workers) as pool:
        try:
            work.run(paths, pool, 1 if is_alone else _AHEAD * workers)
        except BrokenProcessPool:
            raise ValueError(work.last_words()) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    ends = [work.ends[path] for path in paths]
    headers = [end.header for end in ends]
    manifest.write_manifest(shards.folder, paths, headers, split)
    broken = tuple(name for end in ends for name in end.broken)
    left_out = LeftOut().merge(LeftOut.of_dict(header.left_out) for header in headers)
    return Built(len(paths), work.kept, work.listed, broken, sum(end.bytes for end in ends), left_out)


@contextmanager
def _alone(source: str, waiting: Callable[[], None]) -> Iterator[None]:
    """One process at a time indexes a source; where no lock can be had, nobody waits."""
    try:
        target = cache_path(source, ".lock")
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(lock)


@contextmanager
def _clean_module_path() -> Iterator[None]:
    """Processes that are started here import nothing from the current folder."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        os.environ.pop("PYTHONSAFEPATH")
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before


def _processes(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


class _Here(Executor):
    """No pool at all: what is asked for is done at once."""

    def submit(self, fn: Callable, /, *args, **kwargs) -> Future:
        future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@dataclass
class _Pass:
    """Shards on their way. begun: how many were listed, with `listed` samples, of which `done` are measured.
    chunks: of each shard, those that are not measured."""

    form: ShardFormat
    progress: Progress
    shards: int
    begun: int = 0
    listed: int = 0
    done: int = 0
    kept: int = 0
    chunks: dict[str, int] = field(default_factory=dict)
    ends: dict[str, Ended] = field(default_factory=dict)

    def run(self, paths: list[str], pool: Executor, ahead: int) -> None:
        """Begin, measure and end every shard; the next one is begun when the pool runs out of tasks."""
        waiting, tasks = iter(paths), deque[tuple]()
        running = dict[Future, Callable[[Future], Iterator[tuple]]]()
        while True:
            while len(running) < ahead:
                if not tasks and (path := next(waiting, None)) is not None:
                    tasks.append((partial(self._begun, path), _begin, path, self.form))
                if not tasks:
                    break
                then, task, *words = tasks.popleft()
                running[pool.submit(task, *words)] = then
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                tasks.extend(running.pop(future)(future))
            self.progress(self.done, max(self.done, round(self.listed * self.shards / max(1, self.begun))))

    def _begun(self, path: str, future: Future[Begun]) -> Iterator[tuple]:
        samples, is_done = future.result()
        self.begun, self.listed = self.begun + 1, self.listed + samples
        if is_done:
            self.kept += 1
            yield from self._measured(path, samples)
            return
        starts = range(0, samples, CHUNK)
        self.chunks[path] = len(starts)
        for start in starts:
            stop = min(start + CHUNK, samples)
            yield partial(self._measured, path, stop - start), _measure_chunk, path, self.form, start, stop

    def _measured(self, path: str, samples: int, future: Future[None] | None = None) -> Iterator[tuple]:
        if future:
            future.result()
        self.done += samples
        self.chunks[path] = self.chunks.get(path, 1) - 1
        if self.chunks[path] == 0:
            del self.chunks[path]
            yield partial(self._ended, path), _end, path, self.form

    def _ended(self, path: str, future: Future[Ended]) -> Iterator[tuple]:
        self.ends[path] = future.result()
        yield from ()

    def last_words(self) -> str:
        """What the processes were reading when one of them died."""
        names = [name for path in self.chunks for name in _held(path, self.form)]
        return (
            "a process died (killed, or out of memory?) while these were read: "
            f"{', '.join(names) or 'none'}; run it again to go on"
        )


# --------------------------------------------------------------------------- what the processes do


def _parts(path: str, form: ShardFormat) -> Path:
    """The folder of an unfinished pass over a shard."""
    target = index_path(path, form.form)
    parts = target.with_name(target.name + ".parts")
    if parts.is_symlink():
        raise ValueError(f"{parts} is a link; remove it")
    return parts


def _begin(path: str, form: ShardFormat) -> Begun:
    """List a shard that needs a new pass."""
    index = _whole(path, form)
    if index is not None:
        return Begun(index.header.samples, True)
    return Begun(_scanned(path, form, _parts(path, form)).header.samples, False)


def _whole(path: str, form: ShardFormat) -> ShardIndex | None:
    """The index of a shard that needs no new pass."""
    try:
        index = open_index(path, form.form, shard_stamp(path, form.form), form.options)
    except ValueError:
        return None  # stale, cut or of another version: made again
    return index if index is not None and index.header.measured else None


def _scanned(path: str, form: ShardFormat, parts: Path) -> ShardIndex:
    """The shard's listing, kept in `parts`: an interrupted pass's one, if the shard is still the same."""
    listing = parts / "listing"
    now = shard_stamp(path, form.form)
    if listing.exists():
        with suppress(ValueError):  # of another version
            index = read_index(listing)
            same = (index.header.size, index.header.changed) == tuple(now)
            if same and index.header.options == form.options.as_dict():
                return replace(index, boundary=form.boundary)
        shutil.rmtree(parts)
    index = FORMATS[form.form].scan(path, form.options, form.boundary)
    write_index(index, listing)
    return index


def _result(parts: Path, start: int) -> Path:
    return parts / f"{start:012d}.npy"


def _measure_chunk(path: str, form: ShardFormat, start: int, stop: int) -> None:
    """Measure a chunk of a listing and keep the result, unless it is there."""
    parts, reader = _parts(path, form), sequential_reader()
    target = _result(parts, start)
    if target.exists():
        return
    index = replace(read_index(parts / "listing"), boundary=form.boundary)
    found = index.records[start:stop].copy()
    with target.with_suffix(".held").open("wb") as held:
        for place in range(len(found)):
            os.pwrite(held.fileno(), (start + place).to_bytes(8, "little"), 0)
            _measure(index, start + place, found[place : place + 1], reader)
    with atomic_write(target) as file:
        np.save(file, found)


def _held(path: str, form: ShardFormat) -> list[str]:
    """The samples that chunks without a result are at."""
    parts = _parts(path, form)
    held = [file for file in sorted(parts.glob("*.held")) if not file.with_suffix(".npy").exists()]
    numbers = [int.from_bytes(file.read_bytes(), "little") for file in held]
    return [FORMATS[form.form].name(read_index(parts / "listing"), number) for number in numbers]


def _measure(index: ShardIndex, number: int, record: np.ndarray, reader: CachedReader) -> None:
    """Fill in what is known once a sample was decoded."""
    form = FORMATS[index.header.form]
    record["flags"] |= MEASURED
    try:
        data = form.encoded(index, number, reader)
        record["checksum"], record["length"] = zlib.crc32(data), len(data)
        pixels = decode(data, form.name(index, number))
        record["height"], record["width"] = np.minimum(pixels.shape[:2], 65535)
        record["phash"] = phash(luminance(pixels, 32))
    except BrokenImage:
        record["flags"] |= BROKEN


def _end(path: str, form: ShardFormat) -> Ended:
    """Put a shard's chunks together, and the index in its place, unless it is there."""
    target, parts = index_path(path, form.form), _parts(path, form)
    if parts.exists():
        index = read_index(parts / "listing")
        records = index.records.copy()
        for start in range(0, len(records), CHUNK):
            found = np.load(_result(parts, start))
            for name in FIELDS:
                records[name][start : start + CHUNK] = found[name]
        header = replace(index.header, measured=True)
        write_index(ShardIndex(header, records, index.labels, index.text), target)
        shutil.rmtree(parts)
    index = read_index(target)
    bad = np.flatnonzero(index.records["flags"] & BROKEN)
    return Ended(
        index.header, [FORMATS[form.form].name(index, int(number)) for number in bad], target.stat().st_size
    )
