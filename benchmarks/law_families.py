"""Families of curves for `benchmarks/laws.py`: public tables that are given, the paper's own, planted
laws."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from scalevit.study.laws.pareto import frontier
from scalevit.study.paper.tables import PRINTED, points

Array = np.ndarray
RATIOS = (3.0, 10.0, 30.0)
#: Families of one origin have no part in each other's settings.
ORIGIN = {
    "birds": "benchmark images", "cifar": "benchmark images", "LM": "benchmark language",
    "NMT": "benchmark translation", "frontiers": "tasks", "slices": "isoflops", "budgets": "isoflops",
    "paper frontiers": "paper", "paper curves": "paper", "planted": "planted",
    "planted frontiers": "planted",
}  # fmt: skip
PLANTED = 20


@dataclass(frozen=True)
class Task:
    """A curve (x, y) and later measurements."""

    family: str
    name: str
    x: Array
    y: Array
    x_new: Array
    y_new: Array


def benchmark_tasks(path: Path) -> list[Task]:
    """The curves of arXiv 2209.06640, each x once."""
    curves: dict[tuple[str, str, str], dict[float, tuple[float, bool]]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            curve = curves.setdefault((row["domain"], row["task"], row["model"]), {})
            curve.setdefault(float(row["x"]), (float(row["y"]), row["train"] == "1"))
    tasks = []
    for (domain, task, model), curve in curves.items():
        x = np.array(sorted(curve))
        y, train = np.array([curve[one][0] for one in x]), np.array([curve[one][1] for one in x])
        family = domain if domain != "IC" else "birds" if task.startswith("bird") else "cifar"
        tasks.append(Task(family, f"{task} {model}", x[train], y[train], x[~train], y[~train]))
    return tasks


def frontier_tasks(family: str, name: str, compute: Array, error: Array) -> list[Task]:
    """The frontier of runs up to 1/3, 1/10 and 1/30 of the largest compute, and the whole frontier beyond."""
    tasks, whole = [], frontier(compute, error)
    for ratio in RATIOS:
        limit = compute.max() / ratio * 1.0001
        if np.sum(compute <= limit) < 3:
            continue
        known = frontier(compute[compute <= limit], error[compute <= limit])
        beyond = whole.compute > limit
        if len(known.compute) >= 3 and beyond.any():
            tasks.append(Task(family, f"{name} / {ratio:g}", known.compute, known.error,
                              whole.compute[beyond], whole.error[beyond]))  # fmt: skip
    return tasks


def task_frontiers(path: Path) -> list[Task]:
    rows: dict[str, list[tuple[float, float]]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["task"], []).append((float(row["gmacs"]), float(row["error"])))
    return [
        one for name, runs in rows.items() for one in frontier_tasks("frontiers", name, *np.array(runs).T)
    ]


def isoflop_tasks(path: Path) -> list[Task]:
    """Loss against tokens at about one size, and the best loss of each budget, cut at several ratios."""
    groups: dict[str, list[tuple[float, float, float, float]]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            if row["outlier"] != "True" and row["source"] != "ml_scalefit":  # the points of another source
                cells = tuple(float(row[name]) for name in ("params", "tokens", "budget", "loss"))
                groups.setdefault(f"{row['source']} {row['dataset']}", []).append(cells)  # type: ignore[arg-type]
    tasks = []
    for name, cells in groups.items():
        params, tokens, budget, loss = np.array(cells).T
        sizes = np.round(np.log(params) / 0.1)
        for size in np.unique(sizes):
            x = np.unique(tokens[sizes == size])
            y = np.array([loss[(sizes == size) & (tokens == one)].mean() for one in x])
            tasks += (
                _cuts("slices", f"{name} {np.exp(0.1 * size):.2g}", x, y, (2, 4, 8), 4) if len(x) > 5 else []
            )
        x = np.unique(budget)
        y = np.array([loss[budget == one].min() for one in x])
        tasks += _cuts("budgets", name, x, y, RATIOS, 3)
    return tasks


def _cuts(family: str, name: str, x: Array, y: Array, ratios: Sequence[float], fewest: int) -> list[Task]:
    tasks = []
    for ratio in ratios:
        known = x <= x.max() / ratio * 1.0001
        if known.sum() >= fewest:
            tasks.append(Task(family, f"{name} / {ratio:g}", x[known], y[known], x[~known], y[~known]))
    return tasks


def paper_tasks() -> list[Task]:
    """Frontiers of the paper's figures and tables, and every sixth curve of one model on one data size."""
    tasks, count = [], 0
    for task in PRINTED:
        runs = points(task)
        tasks += frontier_tasks("paper frontiers", task, runs.compute, runs.error)
        for model, unique in product(dict.fromkeys(runs.model), np.unique(runs.unique)):
            own = (runs.model == model) & (runs.unique == unique)
            x = np.unique(runs.compute[own])
            y = np.array([runs.error[own & (runs.compute == one)].mean() for one in x])
            cut = _cuts("paper curves", f"{task} {model} {unique:g}", x, y, (3,), 4) if len(x) > 5 else []
            count += len(cut)
            tasks += cut if count % 6 == 0 else []
    return tasks


def planted_tasks(each: int = PLANTED) -> list[Task]:
    """Laws of several kinds with .2 to 6 % noise: saturating, breaks, floors, linear in ln x, stretched
    exponentials, smoothed, best so far, few points, losses, and frontiers of scattered runs."""
    tasks = []
    for kind, seed in product(range(len(KINDS)), range(each)):
        random = np.random.default_rng(1000 * kind + seed)
        name, curve = KINDS[kind]
        b, c, d = random.uniform(0.1, 0.8), random.uniform(0, 0.4), random.uniform(0.1, 5)
        noise, length = 10 ** random.uniform(-2.7, -1.2), 10 ** random.uniform(1.5, 3.5)
        count = int(random.integers(3, 7) if name == "few" else random.integers(8, 40))
        noise /= 8 if name == "loss" else 1
        if name == "frontier":
            x = np.exp(random.uniform(0, np.log(30 * length), 60))
            y = curve(x, b, c, d, length) * np.exp(
                np.abs(random.normal(0, 0.15, 60)) + noise * random.normal(size=60)
            )
            tasks += frontier_tasks("planted frontiers", f"{name} {seed}", x, y)
        elif name in ("smoothed", "best so far"):
            x = np.linspace(1, 2.2 * length, 10 * count)
            y = curve(x, b, c, d, length) * np.exp(noise * random.normal(size=len(x)))
            y = (
                np.convolve(y, np.ones(5) / 5, "valid")
                if name == "smoothed"
                else np.minimum.accumulate(y)[4:]
            )
            known = x[4:] <= length
            tasks.append(Task("planted", f"{name} {seed}", x[4:][known], y[known], x[4:][~known], y[~known]))
        else:
            x = np.append(np.geomspace(1, length, count), length * np.array([1.5, 2, 3, 5, 10, 30]))
            y = curve(x, b, c, d, length) * np.exp(noise * random.normal(size=len(x)))
            tasks.append(Task("planted", f"{name} {seed}", x[:count], y[:count], x[count:], y[count:]))
    return tasks


def _saturating(x: Array, b: float, c: float, d: float, length: float) -> Array:
    return 0.6 * (x + d) ** -b + 0.6 * c


def _break(x: Array, b: float, c: float, d: float, length: float) -> Array:
    bend = 1 + (x / length ** (0.4 + b / 2)) ** 2
    return 0.2 * c + 0.7 * x ** (-0.3 * b) * bend ** (-0.3 * b)


KINDS = (
    ("saturating", _saturating), ("few", _saturating), ("smoothed", _saturating),
    ("best so far", _saturating),
    ("frontier", _saturating), ("power", lambda x, b, c, d, n: 0.6 * x**-b),
    ("offset", lambda x, b, c, d, n: 0.6 * x**-b + 0.6 * c),
    ("break", _break),
    ("floor", lambda x, b, c, d, n: 0.6 * x ** -(b + 0.4) + 0.3),
    ("logarithm", lambda x, b, c, d, n: np.maximum(0.8 - 0.06 * np.log(x), 0.02)),
    ("stretched", lambda x, b, c, d, n: 0.7 * np.exp(-1.2 * (x / n) ** 0.3) + 0.05),
    ("loss", lambda x, b, c, d, n: 1.8 + 6 * (x + d) ** -b),
)  # fmt: skip
