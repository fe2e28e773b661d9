"""A study before and while it runs, in tables: what each node costs, when it would run, how far it is."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from scalevit.artifacts import records, run_folder
from scalevit.study.design import grid
from scalevit.study.design.cost import PlannedNode, planned_times, study_cost
from scalevit.study.launch import attempt, scheduler
from scalevit.study.launch.progress import ASSUMED_FLOPS_PER_SECOND, duration_text
from scalevit.study.launch.study_folder import RUNS


def dry_run_table(nodes: Sequence[grid.Node], folder: Path, workers: int) -> tuple[str, dict[str, Any]]:
    """What `--dry-run` prints, and the same as data."""
    workers = workers or os.cpu_count() or 1
    speed, measured = measured_flops_per_second(nodes, folder)
    finished = {node.name for node in nodes if run_folder.is_complete(folder / RUNS / node.name)}
    left = [node for node in nodes if node.name not in finished]
    times = planned_times(left, workers, speed, scheduler.STARTUP_SECONDS)
    whole, bill = max((line.end for line in times), default=0.0), study_cost(nodes)
    after = sum(node.flops for node in nodes if node.job)
    how = "measured on finished nodes" if measured else "assumed; run something to know"
    lines = [
        f"{len(finished)} of {len(nodes)} nodes are done already" if finished else "",
        _table(("node", "kind", "images", "steps", "FLOPs", "slot", "start", "end"), map(_line, times)),
        f"{len(nodes)} nodes, {bill.shared:.3g} FLOPs; without shared trunks {bill.separate:.3g}: "
        f"sharing leaves {bill.share:.0%} of the cost"
        + (f"; {after:.3g} of them for probes and fine-tunes" if after else ""),
        f"about {duration_text(whole)} on {workers} workers at {speed / 1e9:.3g} GFLOP/s each ({how})",
        f"nothing created in {folder}",
    ]
    data = {
        "nodes": [{**grid.node_row(t.node), "slot": t.worker, "start": t.start, "end": t.end} for t in times],
        "done": sorted(finished),
        "flops": bill.shared, "flops_without_sharing": bill.separate, "share": bill.share, "slots": workers,
        "seconds": whole, "flops_per_second_a_slot": speed, "speed_measured": measured,
    }  # fmt: skip
    return "\n".join(line for line in lines if line), data


def _line(line: PlannedNode) -> tuple[str, ...]:
    node = line.node
    images = f"{node.images:,}" if node.images else "fresh"
    steps = f"{node.at} → {node.duration}" if node.at else f"{node.duration or ''}"
    when = (str(line.worker), duration_text(line.start), duration_text(line.end))
    return node.name, node.kind, images, steps, f"{node.flops:.3g}", *when


def measured_flops_per_second(nodes: Sequence[grid.Node], folder: Path) -> tuple[float, bool]:
    """FLOP/s of a slot over the finished nodes' training, or a plain assumption and False. A branch's clock
    runs on from its trunk's."""
    flops = seconds = 0.0
    for node in grid.pretraining_nodes(nodes):
        for row in records.read_records(folder / RUNS / node.name):
            if row["kind"] == "run" and row.get("seconds"):
                flops, seconds = flops + node.scratch, seconds + float(row["seconds"])
    return (flops / seconds, True) if flops else (ASSUMED_FLOPS_PER_SECOND, False)


def study_status(nodes: Sequence[grid.Node], folder: Path) -> tuple[str, dict[str, Any]]:
    """How far each node of the study has come, as its folder tells."""
    found = []
    for node in nodes:
        home = folder / RUNS / node.name
        done = run_folder.is_complete(home)
        step = node.duration if done else max(node.at, scheduler.last_step(home) if node.steps else 0)
        state = (
            "done"
            if done
            else "running"
            if attempt.is_locked(home)
            else "begun"
            if step > node.at
            else "waiting"
        )
        found.append(
            {
                "node": node.name, "kind": node.kind, "state": state, "step": step, "of": node.duration,
                **attempt.resources_used([home]),
            }
        )  # fmt: skip
    done = sum(node.flops for node, row in zip(nodes, found) if row["state"] == "done")
    total = study_cost(nodes).shared
    cells = (
        (row["node"], row["state"], _steps(row), f"{row['attempts'] or ''}", _hours(row)) for row in found
    )
    counts = {
        state: sum(row["state"] == state for row in found)
        for state in ("done", "running", "begun", "waiting")
    }
    words = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    spent = attempt.resources_used([folder / RUNS / node.name for node in nodes])
    head = ("node", "state", "step", "tries", "hours")
    text = f"{_table(head, cells)}\n{words}; {done / total:.0%} of the FLOPs; {_held(spent)}"
    return text, {
        "folder": str(folder), "nodes": found, "counts": counts, "share": done / total, "spent": spent,
    }  # fmt: skip


def _steps(row: dict[str, Any]) -> str:
    return f"{row['step']}/{row['of']}" if row["of"] else ""


def _hours(row: dict[str, Any]) -> str:
    """Device-hours of a node, core-hours where it had no device."""
    hours = row["device_hours"] or row["core_hours"]
    return f"{hours:.2f}" if hours else ""


def _held(spent: dict[str, float]) -> str:
    text = f"{spent['attempts']} tries held {spent['core_hours']:.2f} core-hours"
    return text + (f" and {spent['device_hours']:.2f} device-hours" if spent["device_hours"] else "")


def watch(nodes: Sequence[grid.Node], folder: Path, seconds: float) -> tuple[str, dict[str, Any]]:
    """The table again and again until every node is done or somebody presses Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    text, data = study_status(nodes, folder)
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(console=Console(stderr=True), auto_refresh=False) as live,
    ):
        while data["counts"]["done"] < len(nodes):
            live.update(text, refresh=True)
            time.sleep(seconds)
            text, data = study_status(nodes, folder)
    return text, data


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    rows = [*rows]
    table = Table(*head, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    out = StringIO()
    width = sum(max(len(row[i]) for row in [head, *rows]) + 3 for i in range(len(head)))
    Console(file=out, width=width).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines() if line.strip())
