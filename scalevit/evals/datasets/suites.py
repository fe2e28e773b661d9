"""Suites: several data sets probed alike, and the means over them.

small: those that come with packages. paper: the four of the paper's figure 9 and Table 4. vtab: the nineteen
tasks of VTAB-1k (Zhai et al. 2019, arXiv 1910.04867), 1 000 support images each. Data sets of the last two
lie below a folder of the user's, each under the name that it has here, in any form that a probe reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scalevit.evals.compare import ProbeResult
from scalevit.evals.datasets.builtin import BUILTIN
from scalevit.evals.datasets.open import open_probe_set
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
    "small": Suite({"all": tuple(BUILTIN)}, packaged=True),
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
            found.append(open_probe_set(task if root is None else str(root / task)))
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
    """Mean accuracy, 0 to 1, over the `tasks` of a group, of one model or baseline by one probe."""

    group: str
    tasks: int
    model: str
    baseline: str
    method: str
    layer: str
    l2: float | None
    shots: int
    mean: float


def suite_means(results: Sequence[ProbeResult], suite: Suite) -> list[Mean]:
    """Mean accuracies of every group of a suite, and of all tasks where there are several groups."""
    groups = dict(suite.groups) | ({"all": tuple(suite.names)} if len(suite.groups) > 1 else {})
    return [mean for group, names in groups.items() for mean in _means(group, names, results)]


def _means(group: str, names: Iterable[str], results: Sequence[ProbeResult]) -> list[Mean]:
    by_probe: dict[tuple[str, str, str, str, float | None, int], list[float]] = {}
    for result in results:
        if result.data in names:
            l2, shots = result.accuracy.l2, result.accuracy.shots
            key = (result.model, result.baseline, result.method, result.layer, l2, shots)
            by_probe.setdefault(key, []).append(result.accuracy.mean)
    return [Mean(group, len(values), *key, sum(values) / len(values)) for key, values in by_probe.items()]
