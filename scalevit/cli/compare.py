"""`scalevit compare`: recipes compared by their scaling laws, from studies or from a table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalevit.config.result import CommandResult

if TYPE_CHECKING:
    from scalevit.study.compare.compare import Comparison, Pair

SUMMARY = "recipes compared by their laws: compute multipliers, crossings, a verdict"

#: Errors at which the multiplier is printed.
PRINTED = 4


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to the parser."""
    parser.epilog = (
        "scalevit compare runs/optimizers    scalevit compare runs/a runs/b --task digits/10    "
        "scalevit compare runs.csv --recipe optimizer --x flops --y error"
    )
    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="STUDY|TABLE",
        help="a study whose recipes are compared, several studies, or one table with a column of recipes",
    )  # fmt: skip
    parser.add_argument(
        "--base", metavar="NAME", help="the recipe that the others are compared with (the first)"
    )
    parser.add_argument(
        "--task", metavar="SET/SHOTS", help="of studies: what they are compared on, e.g. digits/10"
    )
    parser.add_argument(
        "--cost", choices=("flops", "hours"), default="flops",
        help="of studies: compute in training FLOPs or in device hours from the records",
    )  # fmt: skip
    parser.add_argument("--recipe", metavar="COLUMN", help="of a table: the column that names the recipe")
    parser.add_argument("--x", metavar="COLUMN", help="of a table: compute")
    parser.add_argument("--y", metavar="COLUMN", help="of a table: error")
    parser.add_argument(
        "--accuracy", action="store_true", help="of a table: y is an accuracy between 0 and 1"
    )
    parser.add_argument("--size", metavar="COLUMN", help="of a table: the model, for a frontier over models")
    parser.add_argument(
        "--key", metavar="COLUMN", nargs="+", default=[],
        help="of a table: columns that are equal for rows that differ in recipe or seed alone",
    )  # fmt: skip
    parser.add_argument("--data", metavar="COLUMN", help="of a table: what a row was trained on")
    parser.add_argument("--level", type=float, default=0.9, help="level of all intervals (0.9)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="draw the laws and multipliers: .png, .svg, .pdf"
    )


def main(args: argparse.Namespace) -> CommandResult:
    """Compare the recipes and print a verdict for each."""
    from scalevit.study.compare.sources import compare

    result = compare(
        *args.sources, columns=_columns(args), base=args.base, task=args.task, cost=args.cost,
        level=args.level, seed=args.seed,
    )  # fmt: skip
    lines = [_text(pair, args.level, result.unit) for pair in result.pairs]
    lines += [f"{name}: not compared: {reason}" for name, reason in result.refused.items()]
    data = {"base": result.base, "task": result.task, "unit": result.unit, "refused": result.refused}
    data["pairs"] = [_data(pair) for pair in result.pairs]
    if args.out:
        _draw(result, args.out)
        data["figure"] = str(args.out)
        lines.append(f"figure: {args.out}")
    return CommandResult("\n".join(lines), data)


def _columns(args: argparse.Namespace) -> Any:
    """The columns of a table; None where none was named. Raises ValueError when one of them is missing."""
    from scalevit.study.compare.sources import CompareColumns

    named = {name: getattr(args, name) for name in ("recipe", "x", "y")}
    if not any(named.values()):
        return None
    missing = [f"--{name} COLUMN" for name, value in named.items() if value is None]
    if missing:
        raise ValueError(f"a table needs {', '.join(missing)}, too")
    return CompareColumns(args.recipe, args.x, args.y, args.size, tuple(args.key), args.data, args.accuracy)


def _draw(result: Comparison, path: Path) -> None:
    from scalevit.study.compare.figure import draw

    path.parent.mkdir(parents=True, exist_ok=True)
    draw(result).savefig(path, dpi=150)


# --------------------------------------------------------------------------- text and JSON


def _text(pair: Pair, level: float, unit: str) -> str:
    result, name = pair.multiplier, pair.multiplier.b.name
    lines = [f"{pair.verdict.sentence} (p = {pair.verdict.p_value:.2g})"]
    for index in _levels(len(result.errors)):
        lines.append(
            f"  at error {result.errors[index]:.4g}: worth {result.worth[index]:.2f} × "
            f"[{result.low[index]:.2f}, {result.high[index]:.2f}], needs {1 / result.worth[index]:.2f} ×"
        )
    if pair.verdict.crossing:
        crossing = pair.verdict.crossing
        lines.append(
            f"  crosses at {crossing.compute:.3g} {unit} [{crossing.low:.3g}, {crossing.high:.3g}], error "
            f"{crossing.error:.4g}"
        )
    for size, (worth, low, high) in pair.per_size.items():
        lines.append(f"  {size} alone: worth {worth:.2f} × [{low:.2f}, {high:.2f}]")
    for ahead in pair.ahead:
        lines.append(
            f"  forecast at {ahead.compute:.3g}: {_range(ahead.a)} and {name} {_range(ahead.b)}; "
            f"{name} has the smaller error with a chance of {ahead.chance:.0%}"
        )
    if pair.next is not None:
        lines.append(f"  {_next(pair, unit)}")
    return "\n".join([*lines, *(f"  note: {note}" for note in pair.notes), f"  intervals: {level:.0%}"])


def _next(pair: Pair, unit: str) -> str:
    proposed = pair.next
    assert proposed is not None
    counts: dict[float, int] = {}
    for compute in proposed.compute:
        counts[float(compute)] = counts.get(float(compute), 0) + 1
    runs = ", ".join(f"{count} at {compute:.3g}" for compute, count in counts.items())
    enough = "decide it" if proposed.enough else "are the most useful, and may not decide it"
    return (
        f"run next, of each recipe: {runs} {unit}; together {proposed.cost:.3g}. They {enough} "
        f"(chance {proposed.chance:.0%})"
    )


def _range(values: tuple[float, float, float]) -> str:
    return f"{values[0]:.4g} [{values[1]:.4g}, {values[2]:.4g}]"


def _levels(count: int) -> list[int]:
    return sorted({round(i * (count - 1) / (PRINTED - 1)) for i in range(PRINTED)})


def _data(pair: Pair) -> dict[str, Any]:
    result = pair.multiplier
    crossing = pair.verdict.crossing
    return {
        "name": result.b.name, "verdict": pair.verdict.kind, "sentence": pair.verdict.sentence,
        "p_value": pair.verdict.p_value, "formula": result.formula,
        "multiplier": [
            {"error": error, "worth": worth, "needs": 1 / worth, "low": low, "high": high}
            for error, worth, low, high in zip(result.errors, result.worth, result.low, result.high)
        ],
        "crossing": None if crossing is None else vars(crossing),
        "per_size": {
            str(size): dict(zip(("worth", "low", "high"), row)) for size, row in pair.per_size.items()
        },
        "ahead": [vars(ahead) for ahead in pair.ahead],
        "next": None if pair.next is None else {
            "compute": pair.next.compute.tolist(), "keys": [str(key) for key in pair.next.keys],
            "cost": pair.next.cost, "chance": pair.next.chance, "enough": pair.next.enough,
        },
        "notes": list(pair.notes),
    }  # fmt: skip
