"""Arm: the measured nodes of one recipe, averaged over seeds, and the frontier that its law is fitted to."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from scalevit.study.laws.pareto import frontier

#: Different computes below which no law with an interval can be fitted to an arm.
FEWEST = 5


@dataclass(frozen=True)
class Arm:
    """One recipe's nodes, sorted by compute.

    compute, error: (n,) arrays, both positive; compute in any unit that all arms share. seeds: (n,), how many
    seeds each error is a geometric mean of. keys: what a node is apart from its recipe (model, images,
    duration), the same for nodes of other arms that differ in the recipe alone. sizes: the model of each
    node. notes: what a reader should know about the arm's rows. data: what its nodes were trained on, empty
    when not known."""

    name: str
    compute: np.ndarray
    error: np.ndarray
    seeds: np.ndarray
    keys: tuple[Hashable, ...]
    sizes: tuple[Hashable, ...]
    notes: tuple[str, ...] = field(default=())
    data: frozenset[str] = frozenset()

    def frontier(self) -> Arm:
        """The nodes that no other node of the arm beats; all nodes where there is one size or none is named.

        Raises ValueError when fewer than `FEWEST` different computes remain."""
        kept = self
        if len(set(self.sizes)) > 1:
            kept = self.rows(frontier(self.compute, self.error).index)
        count = len(np.unique(kept.compute))
        if count < FEWEST:
            where = "on its frontier" if kept is not self else "in all"
            raise ValueError(
                f"arm {self.name!r} has nodes of {count} different computes {where}; a law with an interval "
                f"needs {FEWEST}: add durations or models to it"
            )
        return kept

    def of_size(self, size: Hashable) -> Arm:
        """The nodes of one model."""
        return self.rows(np.flatnonzero([own == size for own in self.sizes]))

    def rows(self, index: np.ndarray) -> Arm:
        """The nodes at these positions."""
        chosen = np.sort(np.asarray(index))
        return replace(
            self, compute=self.compute[chosen], error=self.error[chosen], seeds=self.seeds[chosen],
            keys=tuple(self.keys[i] for i in chosen), sizes=tuple(self.sizes[i] for i in chosen),
        )  # fmt: skip


def arm(
    name: str,
    compute: ArrayLike,
    error: ArrayLike,
    *,
    keys: Sequence[Hashable] | None = None,
    sizes: Sequence[Hashable] | None = None,
    notes: Sequence[str] = (),
    data: Iterable[str] = (),
) -> Arm:
    """An arm from one row a run. Rows with the same key (and compute, where there are no keys) are seeds of
    one node: their errors are averaged geometrically.

    compute and error are 1-d and equally long. Raises ValueError for values that are not positive and
    finite, and when nothing is left."""
    compute, error = np.asarray(compute, float), np.asarray(error, float)
    if compute.ndim != 1 or compute.shape != error.shape:
        raise ValueError(f"arm {name!r}: compute and error must be 1-d and equally long")
    for label, values in (("compute", compute), ("error", error)):
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            raise ValueError(
                f"arm {name!r}: {label} must be positive and finite, row {int(np.argmax(bad)) + 1} holds "
                f"{values[np.argmax(bad)]:g}"
            )
    if not len(compute):
        raise ValueError(f"arm {name!r} has no finished run")
    rows: dict[Hashable, list[int]] = {}
    for index, key in enumerate(compute.tolist() if keys is None else keys):
        rows.setdefault(key, []).append(index)
    nodes = list(rows.values())
    mean = [float(np.exp(np.log(error[node]).mean())) for node in nodes]
    cost = [float(compute[node].mean()) for node in nodes]
    order = np.argsort(cost, kind="stable")
    known = [None] * len(compute) if sizes is None else list(sizes)
    return Arm(
        name, np.array(cost)[order], np.array(mean)[order],
        np.array([len(node) for node in nodes], float)[order],
        tuple([*rows][i] for i in order), tuple(known[nodes[i][0]] for i in order), tuple(notes),
        frozenset(data),
    )  # fmt: skip
