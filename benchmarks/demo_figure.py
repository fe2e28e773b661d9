"""The README's figure: the demo's runs, the law through their frontier, and the forecast beside its outcome.

Usage: python benchmarks/demo_figure.py runs/demo docs/demo.png
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from scalevit.study.report.frontier_law import FrontierLaw, frontier_law
from scalevit.study.report.plots import PlotStyle, plot_style
from scalevit.study.report.results import LEVEL, Point, Results, read_results

TICKS = (0.07, 0.1, 0.15, 0.2, 0.3, 0.4)


def draw(folder: Path, target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    results = read_results(folder)
    points = results.of(results.tasks()[0])
    pyplot.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure, panel = pyplot.subplots(figsize=(8.4, 4.6), layout="constrained")
    draw_law(panel, frontier_law(points))
    draw_runs(panel, points, plot_style(points))
    draw_forecast(panel, results)
    draw_baselines(panel, results)
    panel.set(xscale="log", yscale="log", xlabel="training compute (FLOPs)", ylim=(0.065, 0.5))
    panel.set_ylabel("wrongly named digits, 10 examples a class")
    panel.set_yticks(TICKS, [f"{100 * tick:.0f} %" for tick in TICKS])
    panel.yaxis.set_minor_locator(pyplot.NullLocator())
    panel.grid(True, color="0.92", linewidth=0.8)
    figure.legend(loc="outside right upper", frameon=False, fontsize=10)
    figure.savefig(target, dpi=190)


def draw_law(panel: Any, law: FrontierLaw) -> None:
    assert law.fit is not None
    x = np.geomspace(law.fit.x.min() / 1.3, law.fit.x.max() * 2, 120)
    low, high = law.fit.interval(x, LEVEL)
    panel.plot(x, law.fit.predict(x), "k--", linewidth=1.5, label="law through the frontier")
    panel.fill_between(x, low, high, color="black", alpha=0.08, linewidth=0, label="its 90 % interval")


def draw_runs(panel: Any, points: list[Point], look: PlotStyle) -> None:
    """Large markers: endless new images; small ones: 2,048 images."""
    groups: dict[tuple[str, int], list[Point]] = {}
    for point in points:
        groups.setdefault((point.facts.model, point.facts.images), []).append(point)
    for (model, images), group in sorted(groups.items(), key=lambda item: item[1][0].facts.forward):
        group.sort(key=lambda point: point.facts.compute)
        x, y = [p.facts.compute for p in group], [p.error for p in group]
        endless = images == 0
        label = f"width × depth {model.replace('x', ' × ')}, {'endless' if endless else f'{images:,}'} images"
        panel.plot(
            x, y, "o:" if endless else "s:", color=look.colours[model], ms=8 if endless else 5,
            mfc=look.colours[model] if endless else "white", linewidth=1, label=label, zorder=3,
        )  # fmt: skip


def draw_forecast(panel: Any, results: Results) -> None:
    told = results.forecast
    if not told or told["mean"] is None:
        return
    bars = np.array([[told["mean"] - told["low"]], [told["high"] - told["mean"]]])
    panel.errorbar(
        told["compute"] * 1.12, told["mean"], bars, fmt="D", ms=6, color="black", mfc="white", capsize=4,
        zorder=4, label="forecast of the largest run\n(made before its result; 90 %)",
    )  # fmt: skip


def draw_baselines(panel: Any, results: Results) -> None:
    """What needs no training, of ten examples a class."""
    best: dict[str, float] = {}
    for floor in results.floors:
        if (floor.dataset, floor.shots) == results.tasks()[0]:
            best[floor.name] = min(floor.error, best.get(floor.name, 1.0))
    for style, (name, error) in zip(("-.", (0, (1, 1))), sorted(best.items())):
        label = f"{name} ({100 * error:.1f} %)"
        panel.axhline(error, color="0.5", linestyle=style, linewidth=1.2, label=label)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
