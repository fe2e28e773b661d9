"""Suites: several data sets probed alike, and the means over them.

small: those that come with packages. paper: the four of the paper's figure 9 and Table 4. vtab: the nineteen
tasks of VTAB-1k (Zhai et al. 2019, arXiv 1910.04867), 1 000 support images each. Data sets of the last two
lie below a folder of the user's, each under the name that it has here, in any form that a probe reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalevit.evals.compare import ProbeResult
from scalevit.evals.datasets.builtin import NAMES
from scalevit.evals.datasets.open import open_set
from scalevit.evals.datasets.probe_set import ProbeSet
from scalevit.evals.fewshot_sampling import ALL_SHOTS


@dataclass(frozen=True)
class Suite:
    """groups: the names of data sets. shots: what is asked unless the user says. support: how many support
    images each has by the suite's own rules; 0 where they say nothing. packaged: no folder is needed."""

    groups: Mapping[str, tuple[str, ...]]
    shots: tuple[int, ...] = (1, 5, 10, 25)
    support: int = 0
    packaged: bool = False

    @property
    def names(self) -> list[str]:
        return [name for names in self.groups.values() for name in names]


SUITES: dict[str, Suite] = {
    "small": Suite({"all": tuple(NAMES)}, packaged=True),
    "paper": Suite({"all": ("imagenet", "cifar100", "pets", "birds")}),
    "vtab": Suite(
        {
            "natural": ("caltech101", "cifar100", "dtd", "flowers102", "pets", "sun397", "svhn"),
            "specialised": ("patch_camelyon", "eurosat", "resisc45", "retinopathy"),
            "structured": (
                "clevr_count", "clevr_distance", "dmlab", "kitti_distance", "dsprites_location",
                "dsprites_orientation", "smallnorb_azimuth", "smallnorb_elevation",
            ),
        },
        shots=(ALL_SHOTS,), support=1000,
    ),
}  # fmt: skip


def open_suite(name: str, root: Path | None, tell: Callable[[str], None]) -> list[ProbeSet]:
    """The data sets of a suite that are there; `tell` hears of the others, and of sets that break its rules.

    Raises ValueError when the suite needs a folder and has none, or when nothing of it is there."""
    suite = SUITES[name]
    if root is None and not suite.packaged:
        raise ValueError(f"--suite {name} needs --root DIR, with folders {', '.join(suite.names[:3])}, …")
    if root is not None and not root.is_dir():
        raise ValueError(f"--root {root}: no such folder")
    found = []
    for task in suite.names:
        if root is not None and not (root / task).exists():
            tell(f"left out: no {root / task}")
            continue
        try:
            found.append(open_set(task if root is None else str(root / task)))
        except ValueError as error:
            if root is not None:
                raise
            tell(f"left out: {error}")
    if not found:
        raise ValueError(f"--suite {name}: none of its data sets is there: {', '.join(suite.names)}")
    for data in found:
        if suite.support and len(data.support) != suite.support:
            tell(f"{data.name}: {len(data.support)} support images; {name} has {suite.support}")
    return found


@dataclass(frozen=True)
class Mean:
    """Mean accuracy, 0 to 1, over the `tasks` of a group, of one model or floor asked in one way."""

    group: str
    tasks: int
    model: str
    floor: str
    method: str
    layer: str
    l2: float | None
    shots: int
    mean: float


def means(lines: Sequence[ProbeResult], suite: Suite) -> list[Mean]:
    """For every group, and for all together where there are several: means of what was asked of each task."""
    groups = dict(suite.groups) | ({"all": tuple(suite.names)} if len(suite.groups) > 1 else {})
    return [mean for group, names in groups.items() for mean in _means(group, names, lines)]


def _means(group: str, names: Iterable[str], lines: Sequence[ProbeResult]) -> list[Mean]:
    asked: dict[Any, list[ProbeResult]] = {}
    for line in lines:
        if line.data in names:
            key = (line.model, line.floor, line.method, line.layer, line.found.l2, line.found.shots)
            asked.setdefault(key, []).append(line)
    return [_mean(group, alike) for alike in asked.values()]


def _mean(group: str, alike: Sequence[ProbeResult]) -> Mean:
    one, mean = alike[0], sum(line.found.mean for line in alike) / len(alike)
    found = one.found
    return Mean(group, len(alike), one.model, one.floor, one.method, one.layer, found.l2, found.shots, mean)
