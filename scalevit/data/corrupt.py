"""What keeps samples from being used: broken ones are replaced, named, counted; many refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

#: So many are listed by name.
LISTED = 5
#: Before so many samples were seen, the share of broken ones says little.
ENOUGH = 1000


class CorruptSample(NamedTuple):
    """A sample that could not be used, and why."""

    name: str
    reason: str


class ReplacedSamples(NamedTuple):
    """times: how often a broken sample was replaced. first: names and reasons of the first few."""

    times: int
    first: list[str]


class CorruptCounter:
    """What was replaced so far among the samples seen. tolerate: the share above which adding more is a
    ValueError, which says to look at the source `where`."""

    def __init__(self, tolerate: float, where: str) -> None:
        self.tolerate, self.where = tolerate, where
        self.seen = self.times = 0
        self._first = dict[str, str]()

    def add(self, seen: int, broken: Sequence[CorruptSample]) -> None:
        """So many more samples were seen, of which these were broken."""
        self.seen, self.times = self.seen + seen, self.times + len(broken)
        for one in broken:
            if len(self._first) < LISTED:
                self._first.setdefault(one.name, one.reason)
        enough = max(self.seen, ENOUGH)
        if broken and self.times > self.tolerate * enough:
            raise ValueError(
                f"{self.times} of {enough} samples were broken, over data.tolerate={self.tolerate:g}; "
                f"the first: {next(iter(self._first.values()))}; "
                f"see all with: scalevit data check {self.where}"
            )

    @property
    def replaced(self) -> ReplacedSamples:
        return ReplacedSamples(self.times, [*self._first.values()])
