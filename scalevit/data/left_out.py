"""Files, rows and members that a listing leaves out: counted by reason, the first few named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scalevit.config.progress import printable as escaped

#: So many names of each reason are kept.
NAMED = 5
#: Names longer than this are shortened.
_LONGEST = 200


@dataclass
class LeftOut:
    """counts: how many were left out, by reason. names: the first few of each reason."""

    counts: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """One more, or `count` of which one has this name."""
        self.counts[reason] = self.counts.get(reason, 0) + count
        names = self.names.setdefault(reason, [])
        if len(names) < NAMED:
            names.append(printable(name))

    def merge(self, others: Iterable[LeftOut]) -> LeftOut:
        """These and others together."""
        result = LeftOut(dict(self.counts), {reason: [*names] for reason, names in self.names.items()})
        for other in others:
            for reason, count in other.counts.items():
                result.counts[reason] = result.counts.get(reason, 0) + count
                names = result.names.setdefault(reason, [])
                names += other.names.get(reason, [])[: NAMED - len(names)]
        return result

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def lines(self) -> list[str]:
        """One line for each reason: how many, why, and the first few."""
        return [
            f"{count} left out: {reason} ({', '.join(self.names[reason])}{', …' if count > NAMED else ''})"
            for reason, count in self.counts.items()
        ]

    def as_dict(self) -> dict[str, Any]:
        """{reason: [count, names]}, as an index keeps it."""
        return {reason: [count, self.names.get(reason, [])] for reason, count in self.counts.items()}

    @classmethod
    def of_dict(cls, facts: Mapping[str, Any]) -> LeftOut:
        """From what `as_dict` gave. Raises TypeError or ValueError for anything else."""
        counts = {str(reason): int(count) for reason, (count, _) in facts.items()}
        names = {str(r): [printable(str(name)) for name in some[:NAMED]] for r, (_, some) in facts.items()}
        return cls(counts, names)


def printable(name: str) -> str:
    """A file's name for a message: what is no text is escaped, and a long name is shortened."""
    name = escaped(name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[-_LONGEST // 2 :]}"
