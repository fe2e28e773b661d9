"""What the figures are made of: a sheet of panels, points in their colours, laws, axes, and the rows drawn.

Colours are the report page's: models from small to large run from blue to orange. As in the paper, larger
markers saw more unique images, a thin dotted line joins the durations of one model and data size, a black
dashed line is the law.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scalevit.artifacts.atomic_write import atomic_path
from scalevit.study.report.frontier_law import FrontierLaw
from scalevit.study.report.number_format import task_name
from scalevit.study.report.results import LEVEL, Floor, Point, Results
from scalevit.study.report.untrusted_text import csv_cell

Rows = list[dict[str, Any]]

#: The colours of page/state.js: small to large, told apart by those who see no red or no green.
RAMP = ("#2f5fc4", "#7a4fb8", "#b5478f", "#cf5640", "#c77700")

#: Inches of one panel.
WIDE, HIGH = 4.6, 3.6


@dataclass(frozen=True)
class PlotStyle:
    """Which colour a model has and how large a data size's marker is."""

    colours: Mapping[str, Any]
    areas: Mapping[int, float]

    def of(self, point: Point) -> dict[str, Any]:
        return {"color": self.colours[point.facts.model], "s": self.areas[point.facts.images]}


@dataclass(frozen=True)
class FigureInput:
    """What a figure is drawn from: the points of one task with their law and look, the results they belong
    to, and external results to draw beside them."""

    results: Results
    points: Sequence[Point]
    law: FrontierLaw
    look: PlotStyle
    beside: Sequence[Results] = ()

    @property
    def task(self) -> tuple[str, int]:
        return self.points[0].dataset, self.points[0].shots


@dataclass
class Sheet:
    """One figure on its way to disk: its panels and the rows that were drawn into them."""

    figure: Any
    panels: Sequence[Any]
    rows: Rows = field(default_factory=list)


def plot_style(points: Sequence[Point]) -> PlotStyle:
    """Colours by forward FLOPs, marker areas by unique images."""
    from matplotlib.colors import LinearSegmentedColormap

    size = {point.facts.model: point.facts.forward for point in points}
    models = sorted(size, key=size.__getitem__)
    ramp = LinearSegmentedColormap.from_list("sizes", RAMP)(np.linspace(0, 1, max(2, len(models))))
    images = sorted({point.facts.images for point in points}, key=lambda n: n or float("inf"))
    return PlotStyle(dict(zip(models, ramp)), {n: 18.0 + 26.0 * rank for rank, n in enumerate(images)})


def sheet_of(panels: int, rows: int = 1) -> Sheet:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE * panels, HIGH * rows), layout="constrained")
    axes = figure.subplots(rows, panels, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    return Sheet(figure, [*axes.flat])


def save(sheet: Sheet, stem: Path) -> list[Path]:
    """Write the sheet as PNG for screens, SVG and PDF for papers, and CSV of its values."""
    paths = [stem.with_suffix(suffix) for suffix in (".png", ".svg", ".pdf", ".csv")]
    _draw_names_as_they_are(sheet.figure)
    options: list[dict[str, Any]] = [
        {"dpi": 160}, {"metadata": {"Date": None}}, {"metadata": {"CreationDate": None}},
    ]  # fmt: skip
    for path, option in zip(paths, options):
        with atomic_path(path) as temporary:
            sheet.figure.savefig(temporary, **option)
        sheet.figure.set_layout_engine("none")  # laid out once
    columns = [*dict.fromkeys(key for row in sheet.rows for key in row)]
    with atomic_path(paths[3]) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in sheet.rows)
    return paths


def _draw_names_as_they_are(figure: Any) -> None:
    """Take no `$` in titles, labels and legends for the begin of a formula; only ticks of numbers may hold
    formulas."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter

    numbers: set[Text] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if not isinstance(axis.get_major_formatter(), FixedFormatter):
                numbers |= {*axis.get_ticklabels(), *axis.get_ticklabels(minor=True)}
    for text in figure.findobj(Text):
        text.set_parse_math(text in numbers)


# --------------------------------------------------------------------------- what panels are made of


def scatter(
    sheet: Sheet, panel: Any, x: Callable[[Point], float], points: Iterable[Point], look: PlotStyle
) -> None:
    """Points in their colours, and the durations of one model, data size, recipe and seed joined."""
    lines: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        facts = point.facts
        lines.setdefault((facts.model, facts.images, facts.recipe, facts.seed), []).append(point)
    for line in lines.values():
        line.sort(key=x)
        values, errors = [x(p) for p in line], [p.error for p in line]
        style = look.of(line[0])
        panel.plot(values, errors, ":", color=style["color"], linewidth=0.9)
        panel.errorbar(
            values, errors, [p.spread for p in line], fmt="none", ecolor=style["color"], alpha=0.35
        )
        panel.scatter(values, errors, edgecolor="black", linewidth=0.3, zorder=3, **style)
        sheet.rows += [row("run", x(p), p.error, p) for p in line]


def line(
    sheet: Sheet, panel: Any, x: Callable[[Point], float], points: Sequence[Point], colour: Any, label: str
) -> None:
    """The mean error at each x, joined, with every point behind it."""
    means = {at: [p.error for p in points if x(p) == at] for at in sorted({x(p) for p in points})}
    if means:
        panel.plot(
            [*means],
            [float(np.mean(e)) for e in means.values()],
            "o-",
            color=colour,
            ms=4,
            lw=1.2,
            label=label,
        )
        panel.plot([x(p) for p in points], [p.error for p in points], ".", color=colour, ms=3, alpha=0.5)
    sheet.rows += [row("run", x(p), p.error, p) for p in points]


def row(what: str, x: float, y: float, point: Point | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {"what": what, "x": x, "error": y}
    if point is not None:
        facts = point.facts
        row |= {
            "run": facts.run, "model": facts.model, "recipe": facts.recipe, "images": facts.images,
            "steps": facts.steps, "seed": facts.seed, "spread": point.spread, "dataset": point.dataset,
            "shots": point.shots,
        }  # fmt: skip
    return row


def axes(panel: Any, x: str, y: str) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, PercentFormatter

    low, high = panel.get_ylim()
    positive = high > 0 and any(error > 0 for error in _drawn_errors(panel))
    panel.set(xscale="log", yscale="log" if positive else "linear", xlabel=x, ylabel=y)
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    left, right = panel.get_xlim()
    if right / left < 300:
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.xaxis.set_minor_formatter(NullFormatter())
    low, high = panel.get_ylim()
    ticks = [
        t for t in (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9) if low <= t <= high
    ]
    panel.set_yticks(ticks)
    panel.yaxis.set_minor_formatter(NullFormatter())


def _drawn_errors(panel: Any) -> list[float]:
    """Heights of the points and lines in a panel."""
    lines = [y for line in panel.lines for y in line.get_ydata()]
    return [*lines, *(y for drawn in panel.collections for _, y in drawn.get_offsets())]


def models(panel: Any, look: PlotStyle) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", ls="", color=colour, label=name) for name, colour in look.colours.items()
    ]
    handles += [made for made in panel.lines if not made.get_label().startswith("_")]
    panel.legend(handles=handles, frameon=False, fontsize=8, title="model", title_fontsize=8)


def plot_law(sheet: Sheet, panel: Any, law: FrontierLaw) -> None:
    if law.fit is None:
        panel.set_title(law.verdict, fontsize=8)
        return
    x = np.geomspace(law.fit.x.min() / 1.5, law.fit.x.max() * 3, 120)
    y, (low, high) = law.fit.predict(x), law.fit.interval(x, LEVEL)
    panel.plot(x, y, "k--", linewidth=1.2)
    panel.fill_between(x, low, high, color="black", alpha=0.08, linewidth=0)
    panel.set_title(equation(law), fontsize=9)
    sheet.rows += [row("law", float(a), float(b)) for a, b in zip(x, y)]


def equation(law: FrontierLaw) -> str:
    """The fitted law as people write it, with C in units of the cheapest run on the frontier."""
    assert law.fit is not None
    fit, unit = law.fit, law.frontier[0].facts.compute
    a = fit.params["a"] * unit ** -fit.params["b"]
    share = fit.params.get("d", 0.0) / unit
    delay = f" + {share:.2g}" if share > 0.005 else ""
    base = f"(C{delay})" if delay else "C"
    floor = f" + {fit.params['c']:.2g}" if "c" in fit.params else ""
    return f"E = {a:.2g} {base}^−{fit.params['b']:.2g}{floor},  C in {unit:.2g} FLOPs"


def plot_best(
    sheet: Sheet, panel: Any, key: Callable[[Point], float], points: Sequence[Point], look: PlotStyle
) -> None:
    """All runs grey, the best of each value of `key` coloured and joined (figure 2, right column)."""
    panel.scatter([key(p) for p in points], [p.error for p in points], color="0.8", s=14)
    best: dict[float, Point] = {}
    for point in points:
        if key(point) not in best or point.error < best[key(point)].error:
            best[key(point)] = point
    chosen = [best[value] for value in sorted(best)]
    panel.plot([key(p) for p in chosen], [p.error for p in chosen], "--", color="0.4", linewidth=0.9)
    for point in chosen:
        panel.scatter(key(point), point.error, edgecolor="black", linewidth=0.3, zorder=3, **look.of(point))
    sheet.rows += [row("best", key(p), p.error, p) for p in chosen]


def task_label(points: Sequence[Point]) -> str:
    return f"{task_name((points[0].dataset, points[0].shots))} error"


def plot_forecast(sheet: Sheet, panel: Any, results: Results) -> None:
    """The interval that was forecast for the largest run, beside what it then did."""
    told = results.forecast
    if not told or told["mean"] is None:
        return
    error = np.array([[told["mean"] - told["low"]], [told["high"] - told["mean"]]])
    panel.errorbar(
        told["compute"], told["mean"], error, fmt="D", ms=4, color="black", mfc="white", capsize=3, zorder=2
    )
    sheet.rows.append(
        row("forecast", told["compute"], told["mean"]) | {"low": told["low"], "high": told["high"]}
    )


def plot_floors(sheet: Sheet, panel: Any, floors: Iterable[Floor]) -> None:
    """Baselines without training, across examples a class; of several untrained networks the best."""
    named: dict[str, dict[int, float]] = {}
    for floor in floors:
        line = named.setdefault(floor.name, {})
        line[floor.shots] = min(floor.error, line.get(floor.shots, 1.0))
    for style, (name, line) in zip(("--", "-.", ":"), sorted(named.items())):
        shots = sorted(line)
        panel.plot(shots, [line[n] for n in shots], style, color="0.45", linewidth=1, label=name)
        sheet.rows += [row(name, n, line[n]) for n in shots]


def plot_external(sheet: Sheet, panel: Any, shown: FigureInput) -> None:
    """Points of external results on the same task, grey and open, each table with a marker of its own."""
    for marker, other in zip("sD^v", shown.beside):
        points = [p for p in other.of(shown.task) if math.isfinite(p.facts.compute)]
        if points:
            x, y = [p.facts.compute for p in points], [p.error for p in points]
            panel.plot(x, y, marker, mec="0.35", mfc="none", ms=4, ls="", label=other.title, zorder=1)
            sheet.rows += [row(other.title, p.facts.compute, p.error, p) for p in points]
