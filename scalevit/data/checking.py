"""`scalevit data check` and `stats`: prove a source whole, and say what it is made of."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalevit.data.decode import BrokenImage, decode
from scalevit.data.stores import Store

#: A side below this, or a longer side above this many shorter ones, is listed as absurd.
SMALLEST, LONGEST = 16, 10
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


def check(store: Store, progress: Callable[[int, int], None] | None = None) -> Findings:
    """Read and decode everything. twins: the same bytes twice; contradictions: with different labels."""
    findings = Findings(store.samples)
    same: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number in range(store.samples):
        _check_one(store, number, findings, same)
        if progress and number % 256 == 255:
            progress(number + 1, store.samples)
    for numbers in same.values():
        if len(numbers) > 1:
            _check_twins(store, numbers, findings)
    findings.classes += _class_findings(class_counts(store), store)
    return findings


def _check_one(store: Store, number: int, findings: Findings, same: dict) -> None:
    shard, inside = store.place(number)
    record, name = shard.records[inside], store.name(number)
    try:
        data = store.encoded(number)
        checksum = zlib.crc32(data)
        if shard.header.measured and checksum != int(record["checksum"]):
            findings.changed.append(f"{name}: other bytes than when it was indexed")
        same[checksum, len(data)].append(number)
        height, width = decode(data, name).shape[:2]
        if min(height, width) < SMALLEST or max(height, width) > LONGEST * min(height, width):
            findings.absurd.append(f"{name}: {width}×{height} pixels")
    except BrokenImage as error:
        findings.broken.append(str(error))


def _check_twins(store: Store, numbers: list[int], findings: Findings) -> None:
    names = [store.name(number) for number in numbers]
    findings.twins.append(" = ".join(names))
    labels = {tuple(store.labels(number).tolist()) for number in numbers}
    if len(labels) > 1:
        findings.contradictions.append(f"{' = '.join(names)} with labels {sorted(labels)}")


def class_counts(store: Store) -> np.ndarray:
    """How many samples carry each label."""
    counts = np.zeros(store.classes, np.int64)
    for shard in store.shards:
        single = shard.records["labels"] == 1
        counts += np.bincount(shard.records["label"][single], minlength=store.classes)
        counts += np.bincount(shard.labels, minlength=store.classes)
    return counts


def _class_findings(counts: np.ndarray, store: Store) -> list[str]:
    names = store.class_names or [str(number) for number in range(len(counts))]
    found = [f"class {names[number]} has no image" for number in np.flatnonzero(counts == 0)]
    if len(counts) == 1:
        found.append(f"there is only one class, {names[0]}: nothing can be learned from labels")
    if store.unlabelled:
        found.append(f"{store.unlabelled} samples have no label")
    return found


def stats(store: Store) -> dict[str, Any]:
    """Samples, classes and their balance, sizes: from the indexes alone."""
    records, counts = store.records(), class_counts(store)
    measured = records[(records["width"] > 0)]
    facts: dict[str, Any] = {
        "form": store.shards[0].header.form,
        "shards": len(store.shards),
        "samples": store.samples,
        "unlabelled": store.unlabelled,
        "classes": store.classes,
        "multi_label": store.multi,
        "images_per_class": _quantiles(counts),
        "bytes": int(records["length"].astype(np.int64).sum()),
        "measured": len(measured),
    }
    if len(measured):
        facts["width"], facts["height"] = _quantiles(measured["width"]), _quantiles(measured["height"])
        facts["distinct_hashes"] = len(np.unique(measured["phash"]))
        common = Counter(zip(measured["width"].tolist(), measured["height"].tolist())).most_common(3)
        facts["commonest_sizes"] = [[width, height, count] for (width, height), count in common]
    return facts


def _quantiles(values: np.ndarray) -> dict[str, float]:
    """Smallest, median, largest."""
    if not len(values):
        return {}
    return {"least": int(values.min()), "median": float(np.median(values)), "most": int(values.max())}
