"""Figure of a comparison: the laws of both arms, and the multiplier against error with its band."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalevit.study.compare.compare import Comparison, Pair

#: Colours that are told apart with any colour vision (Okabe and Ito 2008); the base comes first.
COLOURS = ("#444444", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def draw(comparison: Comparison) -> Any:
    """A matplotlib figure: left error against compute, right how much compute each arm is worth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    laws, worth = figure.subplots(1, 2)
    for index, pair in enumerate(comparison.pairs):
        if index == 0:
            _draw_arm(laws, pair, 0, COLOURS[0])
        colour = COLOURS[1 + index % (len(COLOURS) - 1)]
        _draw_arm(laws, pair, 1, colour)
        _draw_worth(worth, pair, colour)
    laws.set(xscale="log", yscale="log", xlabel=comparison.unit, ylabel=comparison.task)
    laws.legend(frameon=False)
    worth.axhline(1.0, color=COLOURS[0], linewidth=1)
    worth.set(
        xscale="log", yscale="log", xlabel=f"{comparison.task} that both reach",
        ylabel=f"worth, in compute of {comparison.base}",
    )  # fmt: skip
    worth.invert_xaxis()
    worth.legend(frameon=False)
    for axes in (laws, worth):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_arm(axes: Any, pair: Pair, which: int, colour: str) -> None:
    result = pair.multiplier
    arm = (result.a, result.b)[which]
    front = arm.frontier()
    inside = np.isin(arm.compute, front.compute)
    axes.plot(arm.compute[~inside], arm.error[~inside], "o", color=colour, alpha=0.25, markersize=4)
    axes.plot(front.compute, front.error, "o", color=colour, markersize=5)
    x = np.geomspace(front.compute[0], front.compute[-1], 100)
    axes.plot(x, result.curve(which, x), color=colour, label=arm.name)


def _draw_worth(axes: Any, pair: Pair, colour: str) -> None:
    result = pair.multiplier
    axes.fill_between(result.errors, result.band_low, result.band_high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(result.errors, result.worth, color=colour, label=result.b.name)
