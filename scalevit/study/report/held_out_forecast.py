"""Forecast of the largest runs from the smaller ones, written before their results are read."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalevit.artifacts.atomic_write import atomic_write_text
from scalevit.study.design import grid
from scalevit.study.design.spec import Spec
from scalevit.study.launch.study_folder import FORECAST, read_forecast
from scalevit.study.report.frontier_law import pareto
from scalevit.study.report.results import LEVEL, Point, read_results


def held_out_nodes(nodes: Sequence[grid.Node]) -> list[grid.Node]:
    """The node to be forecast, then the others of the same compute, whose results are not looked at either:
    most compute, most unique images, first seed."""
    nodes = grid.pretraining_nodes(nodes)
    most = max(node.scratch for node in nodes)
    held = [node for node in nodes if node.scratch > 0.99 * most]
    return sorted(held, key=lambda node: (-(node.images or float("inf")), node.seed, node.name))


def forecast_held_out(folder: Path, spec: Spec, nodes: Sequence[grid.Node]) -> Mapping[str, Any]:
    """Forecast the largest run's error from the smaller runs and write it down with the time, before the
    largest run's records are opened. A forecast from the same smaller runs is kept as it is."""
    held = held_out_nodes(nodes)
    path, task = folder / FORECAST, (spec.dataset, spec.shots)
    smaller = read_results(folder, without=[node.name for node in held]).of(task)
    best = pareto(smaller)
    evidence = [[p.facts.run, p.facts.compute, p.error] for p in best]
    digest = hashlib.sha256(json.dumps([task, held[0].name, evidence]).encode()).hexdigest()[:12]
    earlier = read_forecast(path)
    if earlier.get("evidence_id") == digest:
        return earlier
    forecast = {
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "run": held[0].name, "compute": held[0].scratch,
        "held_out": [node.name for node in held], "dataset": task[0], "shots": task[1], "level": LEVEL,
        "evidence": evidence, "evidence_id": digest, **_prediction(best, held[0].scratch, bool(smaller)),
    }  # fmt: skip
    atomic_write_text(path, json.dumps(forecast, indent=1))
    return forecast


def _prediction(best: Sequence[Point], compute: float, have_results: bool) -> dict[str, Any]:
    """Mean and interval of the error at `compute` FLOPs, or why there is no forecast."""
    from scalevit.study.laws.forecast import forecast

    x, y = [p.facts.compute for p in best], [p.error for p in best]
    nothing = {"mean": None, "low": None, "high": None}
    if not best:
        why = "the smaller runs have an error of 0, which a law cannot follow"
        return nothing | {"why_not": why if have_results else "no smaller run has a result"}
    try:
        made = forecast(x, y, [compute], level=LEVEL, chance=1.0)
    except ValueError as error:
        return nothing | {"why_not": str(error)}
    numbers = {name: float(np.ravel(getattr(made, name))[0]) for name in ("mean", "low", "high")}
    return numbers | {"reach": compute / max(x), "why_not": ""}
