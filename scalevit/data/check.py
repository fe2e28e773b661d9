"""`scalevit data check` and `stats`: prove a source whole, and say what it is made of."""

from __future__ import annotations

import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from scalevit.data.dataset import ImageDataset
from scalevit.data.decode import BrokenImage, decode

#: A side below this, or a longer side above this many shorter ones, is listed as absurd.
SMALLEST, LONGEST = 16, 10
#: A class of less than this share of the median class's images is listed.
FEW = 0.05
#: Samples that a thread checks at a time.
_PART = 64
#: At most so many lines of each kind are listed.
LISTED = 100


@dataclass
class Findings:
    """What a check found, as lines that name samples."""

    samples: int
    broken: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    twins: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    absurd: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Counts and the first lines of each kind."""
        kinds = ("broken", "changed", "twins", "contradictions", "absurd", "classes")
        return {
            "samples": self.samples,
            **{kind: len(getattr(self, kind)) for kind in kinds},
            "listed": {kind: getattr(self, kind)[:LISTED] for kind in kinds},
        }


def check(
    store: ImageDataset, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> Findings:
    """Read and decode everything in so many threads. twins: the same bytes twice; contradictions: with
    different labels."""
    findings, store = Findings(store.samples), store.sequential(workers)
    prints = np.zeros(store.samples, np.uint64)
    with ThreadPoolExecutor(workers) as pool:
        starts = range(0, store.samples, _PART)
        for start, part in zip(starts, _in_order(pool, partial(_check_part, store), starts, 2 * workers)):
            prints[start : start + _PART] = part.prints
            for kind in ("broken", "changed", "absurd"):
                getattr(findings, kind).extend(getattr(part, kind))
            if progress:
                progress(min(start + _PART, store.samples), store.samples)
    for numbers in _repeated(prints):
        _check_twins(store, numbers, findings)
    findings.classes += _class_findings(store.class_counts(), store)
    return findings


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[int], _Part], starts: Iterable[int], ahead: int
) -> Iterator[_Part]:
    """What `work` gives for each start; a few are worked on ahead."""
    running = deque[Future[_Part]]()
    for start in starts:
        running.append(pool.submit(work, start))
        if len(running) > ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


@dataclass
class _Part:
    """What is found among samples that follow each other. prints: CRC-32 and length of the bytes, 0 where
    they cannot be read."""

    prints: np.ndarray
    broken: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    absurd: list[str] = field(default_factory=list)


def _check_part(store: ImageDataset, start: int) -> _Part:
    numbers = range(start, min(start + _PART, store.samples))
    part = _Part(np.zeros(len(numbers), np.uint64))
    for number in numbers:
        shard, inside = store.locate(number)
        record, name = shard.records[inside], store.name(number)
        try:
            data = store.encoded(number)
            checksum = zlib.crc32(data)
            if shard.header.measured and checksum != int(record["checksum"]):
                part.changed.append(f"{name}: other bytes than when it was indexed")
            part.prints[number - start] = checksum << 32 | len(data)
            height, width = decode(data, name).shape[:2]
            if min(height, width) < SMALLEST or max(height, width) > LONGEST * min(height, width):
                part.absurd.append(f"{name}: {width}×{height} pixels")
        except BrokenImage as error:
            part.broken.append(str(error))
    return part


def _repeated(prints: np.ndarray) -> Iterator[list[int]]:
    """Groups of numbers that have the same print."""
    order = np.argsort(prints, kind="stable")
    edges = np.flatnonzero(np.diff(prints[order], prepend=0, append=0))
    for first, end in pairwise(edges.tolist()):  # those before the first edge are 0
        if end - first > 1:
            yield order[first:end].tolist()


def _check_twins(store: ImageDataset, numbers: list[int], findings: Findings) -> None:
    names = [store.name(number) for number in numbers]
    findings.twins.append(" = ".join(names))
    labels = {tuple(store.labels(number).tolist()) for number in numbers}
    if len(labels) > 1:
        findings.contradictions.append(f"{' = '.join(names)} with labels {sorted(labels)}")


def _class_findings(counts: np.ndarray, store: ImageDataset) -> list[str]:
    names = store.class_names or [str(number) for number in range(len(counts))]
    found = [f"class {names[number]} has no image" for number in np.flatnonzero(counts == 0)]
    usual = float(np.median(counts))
    few = np.flatnonzero((counts > 0) & (counts < usual * FEW))
    found += [f"class {names[n]} has {counts[n]}, where the median class has {usual:.0f} images" for n in few]
    if len(counts) == 1:
        found.append(f"there is only one class, {names[0]}: nothing can be learned from labels")
    if store.unlabelled:
        found.append(f"{store.unlabelled} samples have no label")
    return found


def stats(store: ImageDataset) -> dict[str, Any]:
    """Samples, classes and their balance, sizes: from the indexes alone, one shard after another."""
    sizes, hashes, total = Counter[tuple[int, int]](), list[np.ndarray](), 0
    for shard in store.shards:
        records = shard.records
        measured = records[records["width"] > 0]
        total += int(records["length"].astype(np.int64).sum())
        hashes.append(measured["phash"])
        both = measured["width"].astype(np.uint32) << 16 | measured["height"]
        for size, count in zip(*(one.tolist() for one in np.unique(both, return_counts=True))):
            sizes[size >> 16, size & 0xFFFF] += count
    facts: dict[str, Any] = {
        "form": store.facts.form,
        "shards": len(store.shards),
        "samples": store.samples,
        "unlabelled": store.unlabelled,
        "classes": store.classes,
        "multi_label": store.multi,
        "images_per_class": _quantiles(store.class_counts()),
        "bytes": total,
        "measured": sizes.total(),
    }
    if sizes:
        counts = np.array([*sizes.values()])
        for side, name in enumerate(("width", "height")):
            facts[name] = _quantiles(np.array([size[side] for size in sizes]), counts)
        facts["distinct_hashes"] = len(np.unique(np.concatenate(hashes)))
        facts["commonest_sizes"] = [[*size, count] for size, count in sizes.most_common(3)]
    return facts


def _quantiles(values: np.ndarray, counts: np.ndarray | None = None) -> dict[str, float]:
    """Smallest, median, largest of values, each of which may stand for several."""
    if not len(values):
        return {}
    order = np.argsort(values)
    below = np.cumsum(np.ones(len(values), np.int64) if counts is None else counts[order])
    middle = np.searchsorted(below, [(below[-1] - 1) // 2, below[-1] // 2], side="right")
    median = float(values[order][middle].mean())
    return {"least": int(values.min()), "median": median, "most": int(values.max())}
