"""`scalevit fit`: a scaling law through any table, with forecasts; or the paper's own laws again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scalevit.cli.fit_joint import joint_table
from scalevit.config.result import CommandResult

if TYPE_CHECKING:
    from scalevit.study.design.table_groups import TableGroup
    from scalevit.study.laws.fit import Fit
    from scalevit.study.laws.forecast import Forecast
    from scalevit.study.paper.reproduction import BlindForecast, Refit

SUMMARY = "Fit a scaling law to any table and forecast, with intervals from forecast errors."


LAW = "saturating"
#: A slope that is only rounding.
EXACT = 1e-9
#: Options of joint laws, and of the table.
JOINT = ("compute", "form", "optimal", "without_outliers")
OF_TABLES = (
    "x", "y", "law", "group", "weight", "accuracy", "chance", "frontier", "forecast", "noise", "seeds_column",
    *JOINT,
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "scalevit fit runs.csv --x flops --y error --forecast 1e21 1e22 --picture law.svg    "
        "scalevit fit runs.csv --x N D --y loss --optimal 1e24: L(N, D) and the compute-optimal N and D    "
        "scalevit fit paper: the laws of Scaling Vision Transformers, refitted and tested on its giants"
    )
    add = parser.add_argument
    add("table", help="CSV, TSV, JSON lines, Parquet or Excel (FILE.xlsx#SHEET), also compressed; or `paper`")
    add("--x", metavar="COL", nargs="+", help="column of compute, data or size; two or three: a joint law")
    add(
        "--y", metavar="COL", help="column of the error or loss (or accuracy, see --accuracy); `*` for series"
    )
    add("--law", help="M1 M2 M3 M4 saturating BNSL BNSL2 BNSL3, power ceiling for what rises (saturating)")
    add("--group", metavar="COL", help="one curve a value of this column; each helps the others")
    add("--weight", metavar="COL", help="weights of the points, 0 to leave one out")
    add("--accuracy", action="store_true", help="y is an accuracy between 0 and 1")
    add("--chance", type=float, help="largest error possible (1 with --accuracy, else none)")
    add("--frontier", action="store_true", help="use only the runs that none beats at its cost")
    add("--forecast", type=float, nargs="+", default=[], metavar="X", help="forecast y there")
    add("--noise", type=float, metavar="S", help="standard deviation of ln y of one measurement, where known")
    add("--seeds-column", metavar="COL", help="seeds: runs of one x are averaged, and say the noise")
    add("--level", type=float, default=0.9, help="share of outcomes an interval holds (0.9)")
    add("--form", help="of a joint law: sum, crossed, product, repeating (the best of those that fit)")
    add("--compute", metavar="COL", help="with one --x, the size N: compute, so that data are C / (6 N)")
    add("--without-outliers", action="store_true", help="joint laws: leave out rows that miss it by far")
    add(
        "--optimal",
        type=float,
        nargs="+",
        metavar="C",
        help="compute-optimal size and data at these computes",
    )
    add("--picture", type=Path, metavar="FILE", help="draw to an svg, png or pdf")


def main(args: argparse.Namespace) -> CommandResult:
    if args.table == "paper":
        return _paper(args)
    _check(args)
    return joint_table(args) if len(args.x) > 1 or args.compute else _table(args)


def _check(args: argparse.Namespace) -> None:
    """ValueError for options that are missing, out of range, or do not go together."""
    from scalevit.study.laws.fit import check_level

    if not (args.x and args.y):
        raise ValueError("which columns? give --x and --y")
    check_level(args.level)
    if args.chance is not None and not args.chance > 0:
        raise ValueError(f"--chance is the largest error possible, above 0, not {args.chance:g}")
    if args.noise is not None and not (np.isfinite(args.noise) and args.noise > 0):
        raise ValueError(f"--noise is the standard deviation of ln y, above 0, not {args.noise:g}")
    joint = len(args.x) > 1 or bool(args.compute)
    for name in JOINT if not joint else ("law", "frontier", "group", "noise"):
        if getattr(args, name):
            raise ValueError(
                f"--{name.replace('_', '-')} is for "
                + ("one column --x" if joint else "a joint law: give two columns, --x N D")
            )


def _table(args: argparse.Namespace) -> CommandResult:
    from scalevit.study.design.table_groups import TableColumns, read_groups

    columns = TableColumns((args.x[0],), args.y, args.group, args.weight, args.accuracy)
    groups, notes = read_groups(args.table, columns)
    noises: dict[str, float] = {}
    if args.seeds_column:
        groups, noises = _seeds(args, groups)
    fits, refused = [], {}
    for group in groups:
        try:
            fits.append((group, _fitted(group, args)))
        except ValueError as error:
            refused[group.name] = str(error)
    if not fits:
        name, reason = next(iter(refused.items()))
        left = "".join(f"; left out: {what}: {rows}" for what, rows in groups[0].left_out.items())
        raise ValueError(f"{args.table}, {name}: {reason}" if len(groups) > 1 else reason + left)
    fits = _forecasts(fits, groups, noises, args)
    if args.picture:
        from scalevit.study.laws.law_plot import Panel, draw

        label = f"1 - {args.y}" if args.accuracy else args.y
        draw(args.picture, [Panel(group.name, law, ahead) for group, law, ahead in fits], args.x[0], label)
    data = {group.name: _data(group, law, ahead, args) for group, law, ahead in fits}
    texts = [_text(group, law, ahead, args) for group, law, ahead in fits]
    texts += [f"{name}: no law: {reason}" for name, reason in refused.items()]
    texts += [f"note: {note}" for note in notes]
    facts = {
        "law": args.law or LAW, "level": args.level, "groups": data, "refused": refused, "notes": list(notes),
    }  # fmt: skip
    return CommandResult("\n\n".join(texts), facts)


def _seeds(
    args: argparse.Namespace, groups: Sequence[TableGroup]
) -> tuple[list[TableGroup], dict[str, float]]:
    """Groups with the runs of one x averaged, and the noise that each group's seeds say."""
    from scalevit.study.design.table import load_table
    from scalevit.study.design.table_groups import average_seeds

    load_table(args.table).cells(args.seeds_column)
    averaged = [average_seeds(group) for group in groups]
    return [group for group, _ in averaged], {group.name: noise for group, noise in averaged}


def _fitted(group: TableGroup, args: argparse.Namespace) -> Fit:
    """The law of a group. ValueError for what carries none."""
    from scalevit.study.laws.fit import fit

    used = _best(group) if args.frontier else group
    return fit(used.x, used.y, args.law or LAW, weights=used.weight, chance=_chance(args))


def _chance(args: argparse.Namespace) -> float:
    return args.chance or (1.0 if args.accuracy else float("inf"))


def _forecasts(
    fits: Sequence[tuple[TableGroup, Fit]], groups: Sequence[TableGroup], noises: dict[str, float],
    args: argparse.Namespace,
) -> list[tuple[TableGroup, Fit, Forecast | None]]:  # fmt: skip
    """Each fitted group with its forecast, which the other groups help."""
    from scalevit.study.laws.forecast import forecast, forecast_curves
    from scalevit.study.laws.forms import RISING

    if not args.forecast:
        return [(group, law, None) for group, law in fits]
    known = [noises.get(group.name, args.noise) for group, _ in fits]
    if args.law in RISING:
        pairs = list(zip(fits, known))
        return [
            (group, law, forecast(
                law.x, law.y, args.forecast, args.level, weights=law.weights, chance=law.chance, noise=noise,
                rising=True,
            )) for (group, law), noise in pairs
        ]  # fmt: skip
    curves = [(law.x, law.y, law.weights) for _, law in fits]
    fitted = {group.name for group, _ in fits}
    others = [_best(g) if args.frontier else g for g in groups if g.name not in fitted and len({*g.x}) > 1]
    curves += [(other.x, other.y, other.weight) for other in others]
    made = []
    for ahead in forecast_curves(
        curves, args.forecast, args.level, chance=_chance(args), noises=[*known, *[None] * len(others)]
    ):
        made.append(ahead)
        _progress(len(made), len(fits))
        if len(made) == len(fits):
            break
    return [(group, law, ahead) for (group, law), ahead in zip(fits, made)]


def _progress(done: int, total: int) -> None:
    """Curves forecast so far, on a terminal, where there are many."""
    if total > 4 and sys.stderr.isatty():
        print(f"\rforecast {done} of {total} curves", end="\n" if done == total else "", file=sys.stderr)


def _best(group: TableGroup) -> TableGroup:
    """The runs that none beats at its cost. ValueError where that leaves one of many."""
    from dataclasses import replace

    from scalevit.study.laws.pareto import frontier

    index = frontier(group.x, group.y).index
    if len(index) == 1 < len(group.x):
        raise ValueError(
            f"the frontier keeps 1 of {len(group.x)} runs, the cheapest is the best; leave --frontier away"
        )
    return replace(group, x=group.x[index], y=group.y[index], weight=group.weight[index])


def _data(group: TableGroup, law: Fit, ahead: Forecast | None, args: argparse.Namespace) -> dict[str, Any]:
    data = {
        "formula": law.form.formula, "params": law.params, "ranges": law.ranges(args.level),
        "floor": law.floor,
        "starts": law.starts, "agreeing": law.agreeing, "spread": law.spread, "points": len(law.x),
        "correlation": law.correlation().tolist(), "rows_left_out": group.rows_left_out,
        "left_out": {r: {"rows": rows.count, "lines": rows.lines} for r, rows in group.left_out.items()},
        "warnings": _notes(law, ahead, args.accuracy),
    }  # fmt: skip
    if ahead:
        data["forecast"] = _ahead(ahead, args.accuracy)
        data["backtests"] = ahead.backtests
        data["noise"] = ahead.noise
        data["trust"] = _trust(law, ahead)
    return data


def _notes(law: Fit, ahead: Forecast | None, accuracy: bool) -> list[str]:
    """What weakens the answer, and what may be meant instead."""
    from scalevit.study.laws.forms import RISING

    notes = [*law.warnings, *(ahead.warnings if ahead else ())]
    rises = np.polyfit(np.log(law.x), np.log(law.y), 1)[0] > EXACT
    if not accuracy and rises and law.y.max() <= 100 and law.law not in RISING:
        notes.append("y rises with x; if it is an accuracy, give --accuracy with values between 0 and 1")
    return notes


def _trust(law: Fit, ahead: Forecast) -> list[str]:
    """What the blind protocol says of intervals as far out as the forecasts are."""
    from scalevit.study.laws.interval import coverage_words

    times = [float(x / law.x.max()) for x in ahead.x if x > law.x.max()]
    return list(dict.fromkeys(map(coverage_words, times)))


def _ahead(ahead: Forecast, accuracy: bool) -> list[dict[str, float]]:
    """Forecasts in the units of the table: of accuracies, the low end is the high end of the error."""
    low, mean, high = (1 - ahead.high, 1 - ahead.mean, 1 - ahead.low) if accuracy else (
        ahead.low, ahead.mean, ahead.high
    )  # fmt: skip
    return [
        {"x": float(x), "mean": float(m), "low": float(a), "high": float(b)}
        for x, m, a, b in zip(ahead.x, mean, low, high)
    ]


def _text(group: TableGroup, law: Fit, ahead: Forecast | None, args: argparse.Namespace) -> str:
    from scalevit.study.design.table_groups import left_out_lines

    of = "1 - " + args.y if args.accuracy else args.y
    lines = [f"{group.name}: {of} = {law.form.formula}, x = {args.x[0]}, {len(law.x)} points"]
    lines += left_out_lines(group)
    ranges = law.ranges(args.level)
    for name, value in law.params.items():
        low, high = ranges[name]
        interval = f"{args.level:.0%} [{low:.5g}, {high:.5g}]" if low <= high else "no interval"
        lines.append(f"  {name:<6}{value:>12.5g}   {interval}")
    lines.append(f"  floor {law.floor:>12.5g}   scatter about the law {law.spread:.2%}")
    lines.append(f"  {law.agreeing} of {law.starts} starts agree")
    for row in _ahead(ahead, args.accuracy) if ahead else []:
        lines.append(
            f"  at {row['x']:.6g}: {row['mean']:.4g}   {args.level:.0%} [{row['low']:.4g}, {row['high']:.4g}]"
        )
    if ahead:
        lines.append(
            f"  forecast by {len(ahead.members)} extrapolators, {ahead.backtests} back-tests; "
            f"noise {ahead.noise:.2%}"
        )
        lines += [f"  {sentence}" for sentence in _trust(law, ahead)]
    lines += [f"  note: {warning}" for warning in _notes(law, ahead, args.accuracy)]
    return "\n".join(lines)


def _paper(args: argparse.Namespace) -> CommandResult:
    from scalevit.study.paper.reproduction import BLIND, forecast_giants, refit
    from scalevit.study.paper.tables import PRINTED, points

    for name in OF_TABLES:
        if getattr(args, name):
            raise ValueError(f"--{name.replace('_', '-')} is for a table of yours; `fit paper` has its own")
    refits = [refit(task, args.level) for task in PRINTED]
    blind = [giant for task in BLIND for giant in forecast_giants(task, args.level)]
    if args.picture:
        from scalevit.study.laws.law_plot import Panel, draw

        panels = []
        for found in refits:
            runs = points(found.task)
            printed = found.printed.predict(found.frontier.compute)
            panels.append(Panel(found.task, found.fit, None, (runs.compute, runs.error), printed))
        draw(args.picture, panels, "TPUv3 core-days", "error")
    lines = ["error = a (C + d)^-b + c on the strict Pareto frontier, C in TPUv3 core-days", ""]
    lines += [
        f"{'':<20}{'printed a b c d':<24}{'refitted':<30}{'gap':<7}printed law in our {args.level:.0%} band"
    ]
    lines += [_row(found) for found in refits]
    lines += ["", "the giants, forecast from everything up to L/16:"]
    lines += [
        f"  {one.task:<20}{one.model}  {one.mean:.4f} [{one.low:.4f}, {one.high:.4f}]  "
        f"measured {one.truth:.4f}, off by {one.off:+.1%}"
        for one in blind
    ]
    laws = {found.task: _refit(found, args.level) for found in refits}
    return CommandResult(
        "\n".join(lines), {"level": args.level, "laws": laws, "giants": [_blind(one) for one in blind]}
    )


def _row(found: Refit) -> str:
    printed = found.printed
    before = f"{printed.a:.2f} {printed.b:.2f} {printed.c:.2f} {printed.d:.2f}"
    after = " ".join(f"{value:.3f}" for value in found.fit.params.values())
    return f"{found.task:<20}{before:<24}{after:<30}{found.largest_gap:<7.1%}{found.inside:.0%}"


def _refit(found: Refit, level: float) -> dict[str, Any]:
    printed = found.printed
    return {
        "where": printed.where, "printed": {name: getattr(printed, name) for name in "abcd"},
        "refitted": found.fit.params, "ranges": found.fit.ranges(level), "points": len(found.fit.x),
        "starts": found.fit.starts, "agreeing": found.fit.agreeing, "spread": found.fit.spread,
        "printed_inside_band": found.inside, "largest_gap": found.largest_gap,
    }  # fmt: skip


def _blind(one: BlindForecast) -> dict[str, Any]:
    return {
        "task": one.task, "model": one.model, "core_days": one.compute, "measured": one.truth,
        "mean": one.mean,
        "low": one.low, "high": one.high, "off": one.off, "inside": one.low <= one.truth <= one.high,
    }  # fmt: skip
