"""Cost of a study before it runs: FLOPs with and without shared trunks, planned times, critical paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scalevit.study.design.grid import Node


@dataclass(frozen=True)
class StudyCost:
    """FLOPs of training: with shared trunks, and what the same runs would cost one by one."""

    shared: float
    separate: float

    @property
    def share(self) -> float:
        """Part of the separate cost that remains to be paid."""
        return self.shared / self.separate if self.separate else 1.0


def study_cost(nodes: Iterable[Node]) -> StudyCost:
    """What the study costs, and what it would without trunks."""
    nodes = [*nodes]
    return StudyCost(sum(node.flops for node in nodes), sum(node.scratch for node in nodes))


@dataclass(frozen=True)
class PlannedNode:
    """One line of a timetable, in seconds."""

    node: Node
    worker: int
    start: float
    end: float


def planned_times(
    nodes: Sequence[Node], workers: int, speed: float, startup: float = 3.0
) -> list[PlannedNode]:
    """When each node would run on `workers` of `speed` FLOP/s each; a node takes `startup` seconds more.

    As in the scheduler, the ready node with the longest critical path starts whenever a worker is free. A
    branch is ready when its trunk has passed the branch point, a probe or fine-tune when its run has ended.
    Nodes that are not among `nodes` are taken as done."""
    urgency = critical_paths(nodes)
    free = [0.0] * workers
    placed: dict[str, PlannedNode] = {}
    waiting = {node.name: node for node in nodes}
    while waiting:
        worker = min(range(workers), key=free.__getitem__)
        ready = {
            name: _ready(node, placed, startup) if node.after in urgency else 0.0
            for name, node in waiting.items()
        }
        now = max(free[worker], min(ready.values()))
        name = max((name for name, when in ready.items() if when <= now), key=urgency.__getitem__)
        node = waiting.pop(name)
        placed[name] = PlannedNode(node, worker, now, now + startup + node.flops / speed)
        free[worker] = placed[name].end
    return [*placed.values()]


def _ready(node: Node, placed: Mapping[str, PlannedNode], startup: float) -> float:
    if node.after is None:
        return 0.0
    trunk = placed.get(node.after)
    if trunk is None:
        return float("inf")
    if node.job is not None:
        return trunk.end
    training = trunk.end - trunk.start - startup
    return trunk.start + startup + training * (node.at - trunk.node.at) / trunk.node.steps


def critical_paths(nodes: Iterable[Node]) -> dict[str, float]:
    """FLOPs between the start of a node and the end of the longest chain through it."""
    behind: dict[str, float] = {}
    chains: dict[str, float] = {}
    for node in reversed([*nodes]):
        chains[node.name] = node.flops + behind.get(node.name, 0.0)
        if node.after is not None:
            behind[node.after] = max(behind.get(node.after, 0.0), chains[node.name])
    return chains
