"""Markdown tables, aligned so that they are readable as text."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is aligned left, all others right."""
    widths = [max(3, *(len(line[column]) for line in (head, *rows))) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return (
            "| "
            + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])
            + " |"
        )

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([line(head), f"|{rule}|", *map(line, rows)])


def share(value: float | None) -> str:
    """A ratio in percent; a dash where there is none."""
    return "–" if value is None else f"{value:.0%}"


def times(value: float | None) -> str:
    """A factor; a dash where there is none."""
    return "–" if value is None else f"{value:.2f}"
