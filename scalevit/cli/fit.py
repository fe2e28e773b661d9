"""`scalevit fit`: a scaling law through any table, with forecasts; or the paper's own laws again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scalevit.config.result import CommandResult

if TYPE_CHECKING:
    from scalevit.study.design.table import TableGroup
    from scalevit.study.laws.fit import Fit
    from scalevit.study.laws.forecast import Forecast
    from scalevit.study.paper.reproduction import BlindForecast, Refit

SUMMARY = "Fit a scaling law to any table and forecast, with intervals from forecast errors."


LAW = "saturating"
#: A slope that is only rounding.
EXACT = 1e-9


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "scalevit fit runs.csv --x flops --y error --forecast 1e21 1e22 --picture law.svg    "
        "scalevit fit paper: the laws of Scaling Vision Transformers, refitted and tested on its giants"
    )
    parser.add_argument("table", help="a CSV file with a header, or `paper`")
    parser.add_argument("--x", metavar="COL", help="column of compute, data or size")
    parser.add_argument(
        "--y", metavar="COL", help="column of the error or loss (or accuracy, see --accuracy)"
    )
    parser.add_argument("--law", help="M1 M2 M3 M4 saturating BNSL BNSL2 BNSL3 (saturating)")
    parser.add_argument(
        "--group", metavar="COL", help="one curve a value of this column; each helps the others"
    )
    parser.add_argument("--weight", metavar="COL", help="weights of the points, 0 to leave one out")
    parser.add_argument("--accuracy", action="store_true", help="y is an accuracy between 0 and 1")
    parser.add_argument("--chance", type=float, help="largest error possible (1 with --accuracy, else none)")
    parser.add_argument(
        "--frontier", action="store_true", help="use only the runs that none beats at its cost"
    )
    parser.add_argument("--forecast", type=float, nargs="+", default=[], metavar="X", help="forecast y there")
    parser.add_argument("--level", type=float, default=0.9, help="share of outcomes an interval holds (0.9)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw to an svg, png or pdf")


def main(args: argparse.Namespace) -> CommandResult:
    return _paper(args) if args.table == "paper" else _table(args)


def _table(args: argparse.Namespace) -> CommandResult:
    from scalevit.study.design.table import TableColumns, read_table
    from scalevit.study.laws.fit import check_level

    if not (args.x and args.y):
        raise ValueError("which columns? give --x and --y")
    groups = read_table(
        Path(args.table), TableColumns(args.x, args.y, args.group, args.weight, args.accuracy)
    )
    check_level(args.level)
    if args.chance is not None and not args.chance > 0:
        raise ValueError(f"--chance is the largest error possible, above 0, not {args.chance:g}")
    fits, refused = [], {}
    for group in groups:
        try:
            fits.append(_fitted(group, groups, args))
        except ValueError as error:
            refused[group.name] = str(error)
    if not fits:
        name, why = next(iter(refused.items()))
        raise ValueError(f"{args.table}, {name}: {why}" if args.group else why)
    if args.picture:
        from scalevit.study.laws.law_plot import Panel, draw

        label = f"1 - {args.y}" if args.accuracy else args.y
        draw(args.picture, [Panel(group.name, law, ahead) for group, law, ahead in fits], args.x, label)
    data = {group.name: _data(group, law, ahead, args) for group, law, ahead in fits}
    texts = [_text(group, law, ahead, args) for group, law, ahead in fits]
    texts += [f"{name}: no law: {why}" for name, why in refused.items()]
    facts = {"law": args.law or LAW, "level": args.level, "groups": data, "refused": refused}
    return CommandResult("\n\n".join(texts), facts)


def _fitted(
    group: TableGroup, groups: Sequence[TableGroup], args: argparse.Namespace
) -> tuple[TableGroup, Fit, Forecast | None]:
    """The law of a group and its forecast, which the other groups help. ValueError for what carries none."""
    from scalevit.study.laws.fit import fit
    from scalevit.study.laws.forecast import forecast

    chance = args.chance or (1.0 if args.accuracy else float("inf"))
    used = _best(group) if args.frontier else group
    law = fit(used.x, used.y, args.law or LAW, weights=used.weight, chance=chance)
    if not args.forecast:
        return group, law, None
    others = [_related(other, args.frontier) for other in groups if other is not group]
    others = [(x, y) for x, y in others if len(set(x)) > 1]
    ahead = forecast(used.x, used.y, args.forecast, args.level, others, weights=used.weight, chance=chance)
    return group, law, ahead


def _related(group: TableGroup, frontier: bool) -> tuple[np.ndarray, np.ndarray]:
    """The points of another group that a forecast may learn from."""
    kept = (group.weight > 0) & (group.x > 0) & (group.y > 0) & np.isfinite(group.x) & np.isfinite(group.y)
    group = _some(group, np.flatnonzero(kept))
    group = _some(group, _unbeaten(group)) if frontier and len(group.x) else group
    return group.x, group.y


def _best(group: TableGroup) -> TableGroup:
    """The runs that none beats at its cost. ValueError where that leaves one of many."""
    index = _unbeaten(group)
    if len(index) == 1 < len(group.x):
        raise ValueError(
            f"the frontier keeps 1 of {len(group.x)} runs, the cheapest is the best; leave --frontier away"
        )
    return _some(group, index)


def _unbeaten(group: TableGroup) -> np.ndarray:
    from scalevit.study.laws.pareto import frontier

    return frontier(group.x, group.y).index


def _some(group: TableGroup, index: np.ndarray) -> TableGroup:
    from dataclasses import replace

    return replace(group, x=group.x[index], y=group.y[index], weight=group.weight[index])


def _data(group: TableGroup, law: Fit, ahead: Forecast | None, args: argparse.Namespace) -> dict[str, Any]:
    found = {
        "formula": law.form.formula, "params": law.params, "ranges": law.ranges(args.level),
        "floor": law.floor,
        "starts": law.starts, "agreeing": law.agreeing, "spread": law.spread, "points": len(law.x),
        "correlation": law.correlation().tolist(), "rows_left_out": group.left_out,
        "warnings": _notes(law, ahead, args.accuracy),
    }  # fmt: skip
    if ahead:
        found["forecast"] = _ahead(ahead, args.accuracy)
        found["backtests"] = ahead.backtests
    return found


def _notes(law: Fit, ahead: Forecast | None, accuracy: bool) -> list[str]:
    """What weakens the answer, and what may be meant instead."""
    found = [*law.warnings, *(ahead.warnings if ahead else ())]
    rises = np.polyfit(np.log(law.x), np.log(law.y), 1)[0] > EXACT
    if not accuracy and rises and law.y.max() <= 100:
        found.append("y rises with x; if it is an accuracy, give --accuracy with values between 0 and 1")
    return found


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
    of = "1 - " + args.y if args.accuracy else args.y
    lines = [f"{group.name}: {of} = {law.form.formula}, x = {args.x}, {len(law.x)} points"]
    if group.left_out:
        lines.append(f"  left out: {group.left_out} rows without {args.x} or {args.y}")
    ranges = law.ranges(args.level)
    for name, value in law.params.items():
        low, high = ranges[name]
        told = f"{args.level:.0%} [{low:.5g}, {high:.5g}]" if low <= high else "no interval"
        lines.append(f"  {name:<6}{value:>12.5g}   {told}")
    lines.append(f"  floor {law.floor:>12.5g}   scatter about the law {law.spread:.2%}")
    lines.append(f"  {law.agreeing} of {law.starts} starts agree")
    for row in _ahead(ahead, args.accuracy) if ahead else []:
        lines.append(
            f"  at {row['x']:.6g}: {row['mean']:.4g}   {args.level:.0%} [{row['low']:.4g}, {row['high']:.4g}]"
        )
    if ahead:
        lines.append(f"  forecast by {len(ahead.members)} extrapolators, {ahead.backtests} back-tests")
    lines += [f"  note: {warning}" for warning in _notes(law, ahead, args.accuracy)]
    return "\n".join(lines)


def _paper(args: argparse.Namespace) -> CommandResult:
    from scalevit.study.paper.reproduction import BLIND, forecast_giants, refit
    from scalevit.study.paper.tables import PRINTED, points

    for name in ("x", "y", "law", "group", "weight", "accuracy", "chance", "frontier", "forecast"):
        if getattr(args, name):
            raise ValueError(f"--{name} is for a table of yours; `fit paper` has its own")
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
