"""Pictures of laws: points, the fitted curve with its band, forecasts with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scalevit.study.laws.compute_optimal import ComputeOptimal, IsoFlop
from scalevit.study.laws.fit import Fit
from scalevit.study.laws.forecast import Forecast
from scalevit.study.laws.joint import JointLaw

SUFFIXES = (".svg", ".png", ".pdf")


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `others` are points off the frontier, `compared` a second curve drawn dashed."""

    title: str
    fit: Fit
    ahead: Forecast | None = None
    others: tuple[np.ndarray, np.ndarray] | None = None
    compared: np.ndarray | None = None


def draw(path: Path, panels: Sequence[Panel], x: str, y: str) -> None:
    """Write one picture with a panel each, three a row. ValueError for a suffix that cannot be drawn."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: a picture ends in {', '.join(SUFFIXES)}")
    from matplotlib.figure import Figure

    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(4.2 * across, 3.4 * down), layout="constrained")
    for axes, panel in zip(figure.subplots(down, across, squeeze=False).ravel(), panels):
        _panel(axes, panel)
        axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y, title=panel.title)
        axes.grid(which="both", alpha=0.2, linewidth=0.5)
    for axes in figure.axes[len(panels) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=150)


def _panel(axes, panel: Panel) -> None:
    fit, ahead = panel.fit, panel.ahead
    end = max(fit.x.max(), ahead.x.max() if ahead else 0)
    grid = np.geomspace(fit.x.min(), end, 200)
    if panel.others:
        axes.plot(*panel.others, ".", color="0.75", markersize=3)
    low, high = fit.interval(grid)
    axes.fill_between(grid, low, high, alpha=0.2, color="C0", linewidth=0)
    axes.plot(grid, fit.predict(grid), color="C0", label=f"{fit.law}: {fit.form.formula}")
    axes.plot(fit.x, fit.y, "o", color="C0", markersize=3)
    if panel.compared is not None:
        axes.plot(fit.x, panel.compared, "--", color="C1", label="printed in the paper")
    if ahead:
        reach = np.abs(np.stack([ahead.mean - ahead.low, ahead.high - ahead.mean]))
        label = f"forecast, {100 * ahead.level:.0f} %"
        axes.errorbar(ahead.x, ahead.mean, reach, fmt="s", color="C3", capsize=3, markersize=4, label=label)
    axes.legend(fontsize=7)


def draw_joint(
    path: Path, law: JointLaw, optimal: ComputeOptimal | None, profiles: IsoFlop | None,
    names: Sequence[str], y: str,
) -> None:  # fmt: skip
    """Write a picture of a joint law: measured against fitted y; y against size at each measured compute; and
    the compute-optimal size where that was asked for."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: a picture ends in {', '.join(SUFFIXES)}")
    from matplotlib.figure import Figure

    count = 3 if optimal else 2
    figure = Figure(figsize=(4.2 * count, 3.4), layout="constrained")
    axes = figure.subplots(1, count)
    compute = law.x[:, 0] * law.x[:, 1]
    fitted = law.predict(*law.x.T)
    axes[0].scatter(fitted, law.y, c=np.log(compute), s=8)
    axes[0].plot([law.y.min(), law.y.max()], [law.y.min(), law.y.max()], color="0.5", linewidth=0.8)
    axes[0].set(xlabel=f"fitted {y}", ylabel=y, title=f"{law.law}, scatter {law.spread:.2%}")
    axes[1].scatter(law.x[:, 0], law.y, c=np.log(compute), s=8)
    axes[1].set(xlabel=names[0], ylabel=y, xscale="log", title="runs, coloured by compute")
    if optimal:
        grid = np.geomspace(6 * compute.min(), max(optimal.compute.max(), 6 * compute.max()), 20)
        line = law.optimal(grid, optimal.level)
        axes[2].fill_between(grid, *line.size_interval, alpha=0.2, color="C0", linewidth=0)
        axes[2].plot(grid, line.size, color="C0", label=f"law: C^{optimal.exponent:.3f}")
        axes[2].plot(optimal.compute, optimal.size, "s", color="C3", markersize=4)
        if profiles:
            label = f"IsoFLOP profiles: C^{profiles.exponent:.3f}"
            axes[2].plot(profiles.compute, profiles.size, "o", color="C1", markersize=3, label=label)
        axes[2].set(xscale="log", yscale="log", xlabel="compute", ylabel="optimal size", title="optimum")
        axes[2].legend(fontsize=7)
    for one in axes:
        one.grid(which="both", alpha=0.2, linewidth=0.5)
    figure.savefig(path, dpi=150)
