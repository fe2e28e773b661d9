"""`scalevit fit` with several inputs: joint laws, compute-optimal size and data, forecasts."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scalevit.config.result import CommandResult

if TYPE_CHECKING:
    from scalevit.study.design.table_groups import TableGroup
    from scalevit.study.laws.compute_optimal import ComputeOptimal, IsoFlop
    from scalevit.study.laws.forecast import Forecast
    from scalevit.study.laws.joint import JointLaw

#: FLOPs of training, for each parameter and token.
FLOPS_PER = 6.0
#: A row that misses the law by so many spreads is named.
OUTLIER, ROUNDS = 8.0, 6
FEWEST_SIZES = 3


def joint_table(args: argparse.Namespace) -> CommandResult:
    """Fit L(N, D) (or of three inputs) to the table's rows and answer what is asked of it."""
    from scalevit.study.design.table_groups import TableColumns, average_seeds, read_groups

    inputs = (*args.x, args.compute) if args.compute else tuple(args.x)
    if len(inputs) > 3 or (args.compute and len(inputs) != 2):
        raise ValueError("a joint law takes two or three columns --x, or one and --compute")
    columns = TableColumns(inputs, args.y, None, args.weight, args.accuracy)
    (group,), notes = read_groups(args.table, columns)
    if args.compute:
        data = group.x[:, 1] / (FLOPS_PER * group.x[:, 0])
        group.x[:, 1] = data
    names = (args.x[0], f"{args.compute} / ({FLOPS_PER:g} {args.x[0]})") if args.compute else inputs
    if args.seeds_column:
        group, _ = average_seeds(group)
        group = replace(group, lines=tuple(range(len(group.y))))
    law = _fit(group, args)
    if args.without_outliers:
        group, law = _without_outliers(group, law, args)
    optimal, profiles, problem = _optimal(law, group, args)
    ahead = _forecast(law, group, args)
    if args.picture:
        from scalevit.study.laws.law_plot import draw_joint

        draw_joint(args.picture, law, optimal, profiles, names, args.y)
    data = _data(law, group, args, names, optimal, profiles, ahead)
    data["notes"] = [*notes, *_notes(law, group, optimal, ahead, problem)]
    return CommandResult(_text(group, law, args, names, optimal, profiles, ahead, data["notes"]), data)


def _fit(group: TableGroup, args: argparse.Namespace) -> JointLaw:
    """The law, with the values of size, or eight stretches of them, left out in turn."""
    from scalevit.study.laws.joint import fit_joint, stretches

    if np.any(group.weight != group.weight[:1]) and not args.seeds_column:
        raise ValueError("joint laws take weights 0 and 1 alone: 0 leaves a row out")
    columns = list(group.x.T)
    unique = columns[2] if len(columns) == 3 else None
    return fit_joint(
        columns[0], columns[1], unique, group.y, groups=stretches(columns[0]), form=args.form,
        chance=args.chance or (1.0 if args.accuracy else None),
    )  # fmt: skip


def _without_outliers(
    group: TableGroup, law: JointLaw, args: argparse.Namespace
) -> tuple[TableGroup, JointLaw]:
    """The law without the rows that miss it by more than `OUTLIER` spreads, again until none does."""
    from scalevit.study.design.table_groups import LeftOutRows

    dropped: list[int] = []
    for _ in range(ROUNDS):
        miss = np.abs(np.log(law.predict(*group.x.T) / group.y))
        far = miss > OUTLIER * law.spread
        if not far.any():
            break
        lines = np.array(group.lines)
        dropped += lines[far].tolist()
        group = replace(
            group, x=group.x[~far], y=group.y[~far], weight=group.weight[~far],
            lines=tuple(lines[~far].tolist()),
        )  # fmt: skip
        law = _fit(group, args)
    if dropped:
        reason = f"miss the law by more than {OUTLIER:g} times its spread"
        first = LeftOutRows(len(dropped), tuple(sorted(dropped)[:3]))
        group = replace(group, left_out={**group.left_out, reason: first})
    return group, law


def _optimal(
    law: JointLaw, group: TableGroup, args: argparse.Namespace
) -> tuple[ComputeOptimal | None, IsoFlop | None, str]:
    """Compute-optimal sizes by the law and by IsoFLOP profiles, and why there are no profiles."""
    from scalevit.study.laws.compute_optimal import isoflop

    if not args.optimal:
        return None, None, ""
    optimal = law.optimal(args.optimal, args.level, FLOPS_PER)
    try:
        return optimal, isoflop(group.x[:, 0], group.x[:, 1], group.y, args.level, FLOPS_PER), ""
    except ValueError as error:
        return optimal, None, str(error)


def _forecast(law: JointLaw, group: TableGroup, args: argparse.Namespace) -> Forecast | None:
    from scalevit.study.laws.joint import forecast_joint, stretches

    if not args.forecast:
        return None
    width = group.x.shape[1]
    if len(args.forecast) % width:
        raise ValueError(f"--forecast takes {width} numbers for each run: {', '.join(args.x)}")
    new = np.array(args.forecast, float).reshape(-1, width)
    return forecast_joint(
        group.x, group.y, new, args.level, groups=stretches(group.x[:, 0]), chance=law.chance
    )


def _notes(
    law: JointLaw, group: TableGroup, optimal: ComputeOptimal | None, ahead: Forecast | None, problem: str
) -> list[str]:
    residual = np.log(law.predict(*law.x.T) / law.y)
    far = np.flatnonzero(np.abs(residual) > OUTLIER * law.spread)
    notes = [*(optimal.warnings if optimal else ()), *(ahead.warnings if ahead else ())]
    if len(far):
        first = ", ".join(f"({' '.join(f'{value:.3g}' for value in law.x[row])})" for row in far[:3])
        notes.append(
            f"{len(far)} rows miss the law by more than {OUTLIER:g} times its spread, first at {first}: see "
            "whether they belong (--without-outliers, or --weight, fits without them)"
        )
    if law.agreeing < 2:
        notes.append(f"only {law.agreeing} of {law.starts} starts reached this optimum")
    if problem:
        notes.append(f"no IsoFLOP profiles: {problem}")
    return notes


def _data(
    law: JointLaw, group: TableGroup, args: argparse.Namespace, names: tuple[str, ...],
    optimal: ComputeOptimal | None, profiles: IsoFlop | None, ahead: Forecast | None,
) -> dict[str, Any]:  # fmt: skip
    data: dict[str, Any] = {
        "law": law.law, "formula": law.form.formula, "inputs": list(names), "level": args.level,
        "params": law.params, "ranges": law.ranges(args.level), "floor": law.floor, "spread": law.spread,
        "left_out_error": law.left_out, "starts": law.starts, "agreeing": law.agreeing,
        "points": len(law.y), "rows_left_out": group.rows_left_out,
        "left_out": {r: {"rows": rows.count, "lines": rows.lines} for r, rows in group.left_out.items()},
    }  # fmt: skip
    if optimal:
        data["optimal"] = [
            {
                "compute": float(optimal.compute[i]), "size": float(optimal.size[i]),
                "size_interval": optimal.size_interval[:, i].tolist(), "data": float(optimal.data[i]),
                "data_interval": optimal.data_interval[:, i].tolist(), "ratio": float(optimal.ratio[i]),
                "ratio_interval": optimal.ratio_interval[:, i].tolist(), "y": float(optimal.y[i]),
                "y_interval": optimal.y_interval[:, i].tolist(),
            }
            for i in range(len(optimal.compute))
        ]  # fmt: skip
        data["exponent"] = {"value": optimal.exponent, "interval": list(optimal.exponent_interval)}
    if profiles:
        data["isoflop"] = {
            "exponent": profiles.exponent, "interval": list(profiles.exponent_interval),
            "coefficient": profiles.coefficient, "budgets": profiles.compute.tolist(),
            "sizes": profiles.size.tolist(), "left_out": list(profiles.left_out),
        }  # fmt: skip
    if ahead:
        data["forecast"] = [
            {"x": ahead.x[i].tolist(), "mean": float(ahead.mean[i]), "low": float(ahead.low[i]),
             "high": float(ahead.high[i])}
            for i in range(len(ahead.x))
        ]  # fmt: skip
    return data


def _text(
    group: TableGroup, law: JointLaw, args: argparse.Namespace, names: tuple[str, ...],
    optimal: ComputeOptimal | None, profiles: IsoFlop | None, ahead: Forecast | None, notes: list[str],
) -> str:  # fmt: skip
    from scalevit.study.design.table_groups import left_out_lines

    letters = ("F", "n", "u")
    where = ", ".join(f"{letter} = {name}" for letter, name in zip(letters, names))
    of = f"1 - {args.y}" if args.accuracy else args.y
    lines = [f"{of} = {law.law}: {law.form.formula}; {where}; {len(law.y)} runs", *left_out_lines(group)]
    ranges = law.ranges(args.level)
    for name, value in law.params.items():
        low, high = ranges[name]
        lines.append(f"  {name:<6}{value:>12.5g}   {args.level:.0%} [{low:.5g}, {high:.5g}]")
    lines.append(f"  scatter about the law {law.spread:.2%}, error on sizes left out {law.left_out:.2%}")
    lines.append(f"  {law.agreeing} of {law.starts} starts agree")
    lines += _optimal_lines(optimal, profiles, args)
    for i in range(len(ahead.x) if ahead else 0):
        assert ahead is not None
        at = ", ".join(f"{value:.6g}" for value in ahead.x[i])
        lines.append(
            f"  at {at}: {ahead.mean[i]:.4g}   {args.level:.0%} [{ahead.low[i]:.4g}, {ahead.high[i]:.4g}]"
        )
    return "\n".join([*lines, *(f"  note: {note}" for note in notes)])


def _optimal_lines(
    optimal: ComputeOptimal | None, profiles: IsoFlop | None, args: argparse.Namespace
) -> list[str]:
    """The optimum at each compute, its growth, and what IsoFLOP profiles say."""
    if optimal is None:
        return []
    lines = [f"compute-optimal, {FLOPS_PER:g} F n = C, with {args.level:.0%} intervals:"]
    for i, compute in enumerate(optimal.compute):
        parts = (
            ("size", optimal.size, optimal.size_interval), ("data", optimal.data, optimal.data_interval),
            ("data a size", optimal.ratio, optimal.ratio_interval), (args.y, optimal.y, optimal.y_interval),
        )  # fmt: skip
        words = (f"{n} {v[i]:.4g} [{t[0, i]:.4g}, {t[1, i]:.4g}]" for n, v, t in parts)
        lines.append(f"  C = {compute:.4g}: " + ", ".join(words))
    low, high = optimal.exponent_interval
    lines.append(f"  optimal size grows as C^{optimal.exponent:.3f} [{low:.3f}, {high:.3f}]")
    if profiles:
        low, high = profiles.exponent_interval
        sizes = ", ".join(f"{profiles.size_at(compute):.4g}" for compute in optimal.compute)
        lines.append(
            f"  IsoFLOP profiles of {len(profiles.compute)} budgets: C^{profiles.exponent:.3f} "
            f"[{low:.3f}, {high:.3f}], size {sizes}; parabolas are biased where sizes do not surround the "
            "lowest point evenly"
        )
    return lines
