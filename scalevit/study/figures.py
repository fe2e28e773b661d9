"""The paper's figures 2, 3, 4 and 7 drawn from a table of runs: PNG and SVG, and a CSV of what they show.

Conventions of the paper: models from small to large run from blue to red, larger markers saw more unique
images, a thin dotted line joins the durations of one model and data size, a black dashed line is the law.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scalevit.schedule import lr_at
from scalevit.study.results import LEVEL, Law, Point, Results, law_of

Rows = list[dict[str, Any]]

#: Inches of one panel.
WIDE, HIGH = 4.6, 3.6


@dataclass(frozen=True)
class Look:
    """Which colour a model has and how large a data size's marker is."""

    colours: Mapping[str, Any]
    areas: Mapping[int, float]

    def of(self, point: Point) -> dict[str, Any]:
        return {"color": self.colours[point.facts.model], "s": self.areas[point.facts.images]}


@dataclass
class Sheet:
    """One figure on its way to disk: its panels and the rows that were drawn into them."""

    figure: Any
    panels: Sequence[Any]
    rows: Rows = field(default_factory=list)


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw every figure that the results can fill, for the study's own task; gives the files written."""
    tasks = results.tasks()
    if not tasks:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    points = results.of(tasks[0])
    law, look = law_of(points), look_of(points)
    written: list[Path] = []
    for name, figure in FIGURES.items():
        sheet = figure(results, points, law, look)
        written += _save(sheet, folder / name) if sheet else []
    return written


def look_of(points: Sequence[Point]) -> Look:
    """Colours along matplotlib's coolwarm by forward FLOPs, darkened so that its middle shows on white;
    marker areas by unique images."""
    from matplotlib import colormaps

    size = {point.facts.model: point.facts.forward for point in points}
    models = sorted(size, key=size.__getitem__)
    ramp = colormaps["coolwarm"](np.linspace(0, 1, max(2, len(models)))) * (0.85, 0.85, 0.85, 1)
    images = sorted({point.facts.images for point in points}, key=lambda n: n or float("inf"))
    return Look(dict(zip(models, ramp)), {n: 18.0 + 26.0 * rank for rank, n in enumerate(images)})


def _sheet(panels: int, rows: int = 1) -> Sheet:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE * panels, HIGH * rows), layout="constrained")
    axes = figure.subplots(rows, panels, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    return Sheet(figure, [*axes.flat])


def _save(sheet: Sheet, stem: Path) -> list[Path]:
    paths = [stem.with_suffix(suffix) for suffix in (".png", ".svg", ".csv")]
    sheet.figure.savefig(paths[0], dpi=160)
    sheet.figure.savefig(paths[1], metadata={"Date": None})
    columns = [*dict.fromkeys(key for row in sheet.rows for key in row)]
    with paths[2].open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(sheet.rows)
    return paths


# --------------------------------------------------------------------------- what panels are made of


def _scatter(
    sheet: Sheet, panel: Any, x: Callable[[Point], float], points: Iterable[Point], look: Look
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
        sheet.rows += [_row("run", x(p), p.error, p) for p in line]


def _row(what: str, x: float, y: float, point: Point | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {"what": what, "x": x, "error": y}
    if point is not None:
        facts = point.facts
        row |= {
            "run": facts.run, "model": facts.model, "recipe": facts.recipe, "images": facts.images,
            "steps": facts.steps, "seed": facts.seed, "spread": point.spread, "dataset": point.dataset,
            "shots": point.shots,
        }  # fmt: skip
    return row


def _axes(panel: Any, x: str, y: str) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, PercentFormatter

    panel.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
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


def _models(panel: Any, look: Look) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", ls="", color=colour, label=name) for name, colour in look.colours.items()
    ]
    panel.legend(handles=handles, frameon=False, fontsize=8, title="model", title_fontsize=8)


def _law(sheet: Sheet, panel: Any, law: Law) -> None:
    if law.fit is None:
        panel.set_title(law.verdict, fontsize=8)
        return
    x = np.geomspace(law.fit.x.min() / 1.5, law.fit.x.max() * 3, 120)
    y, (low, high) = law.fit.predict(x), law.fit.interval(x, LEVEL)
    panel.plot(x, y, "k--", linewidth=1.2)
    panel.fill_between(x, low, high, color="black", alpha=0.08, linewidth=0)
    panel.set_title(equation(law), fontsize=9)
    sheet.rows += [_row("law", float(a), float(b)) for a, b in zip(x, y)]


def equation(law: Law) -> str:
    """The fitted law as people write it, with C in units of the cheapest run on the frontier."""
    assert law.fit is not None
    fit, unit = law.fit, law.frontier[0].facts.compute
    a = fit.params["a"] * unit ** -fit.params["b"]
    delay = f" + {fit.params['d'] / unit:.2g}" if "d" in fit.params else ""
    base = f"(C{delay})" if delay else "C"
    floor = f" + {fit.params['c']:.2g}" if "c" in fit.params else ""
    return f"E = {a:.2g} {base}^−{fit.params['b']:.2g}{floor},  C in {unit:.2g} FLOPs"


def _best(
    sheet: Sheet, panel: Any, key: Callable[[Point], float], points: Sequence[Point], look: Look
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
    sheet.rows += [_row("best", key(p), p.error, p) for p in chosen]


def _task(points: Sequence[Point]) -> str:
    return f"{points[0].dataset} {points[0].shots}-shot error"


# --------------------------------------------------------------------------- the figures


def compute(results: Results, points: Sequence[Point], law: Law, look: Look) -> Sheet:
    """Figure 2: error against compute with the law, then the best of each model size and each data size."""
    sheet = _sheet(3)
    main, sizes, data = sheet.panels
    _scatter(sheet, main, lambda p: p.facts.compute, points, look)
    _law(sheet, main, law)
    _forecast(sheet, main, results)
    _axes(main, "training compute (FLOPs)", _task(points))
    _models(main, look)
    _best(sheet, sizes, lambda p: p.facts.forward / 1e6, points, look)
    _axes(sizes, "model size (forward MFLOPs an image)", _task(points))
    _best(sheet, data, lambda p: float(p.facts.unique), points, look)
    _axes(data, "unique images", _task(points))
    return sheet


def _forecast(sheet: Sheet, panel: Any, results: Results) -> None:
    """The interval that was forecast for the largest run, beside what it then did."""
    told = results.forecast
    if not told or told["mean"] is None:
        return
    error = np.array([[told["mean"] - told["low"]], [told["high"] - told["mean"]]])
    panel.errorbar(
        told["compute"], told["mean"], error, fmt="D", ms=4, color="black", mfc="white", capsize=3, zorder=2
    )
    sheet.rows.append(
        _row("forecast", told["compute"], told["mean"]) | {"low": told["low"], "high": told["high"]}
    )


def seen(results: Results, points: Sequence[Point], law: Law, look: Look) -> Sheet:
    """Figure 3: error against images seen, on the most unique images; large models need fewer samples."""
    sheet = _sheet(1)
    most = max(look.areas, key=lambda n: n or float("inf"))
    _scatter(
        sheet, sheet.panels[0], lambda p: p.facts.seen, [p for p in points if p.facts.images == most], look
    )
    _axes(sheet.panels[0], "images seen", _task(points))
    _models(sheet.panels[0], look)
    return sheet


def data_size(results: Results, points: Sequence[Point], law: Law, look: Look) -> Sheet:
    """Figure 4: compute, model size and data size where unique images run short."""
    sheet = _sheet(2)
    _scatter(sheet, sheet.panels[0], lambda p: p.facts.unique, points, look)
    _axes(sheet.panels[0], "unique images", _task(points))
    _models(sheet.panels[0], look)
    _scatter(sheet, sheet.panels[1], lambda p: p.facts.seen / p.facts.unique, points, look)
    _axes(sheet.panels[1], "how often each image was seen", _task(points))
    return sheet


def schedules(results: Results, points: Sequence[Point], law: Law, look: Look) -> Sheet:
    """Figure 7: the score of the largest model's runs above the learning rates that led to it."""
    sheet = _sheet(1, rows=2)
    score, rates = sheet.panels
    largest = max(points, key=lambda p: (p.facts.forward, p.facts.images or float("inf"))).facts
    family = [p for p in points if (p.facts.model, p.facts.images) == (largest.model, largest.images)]
    _scatter(sheet, score, lambda p: p.facts.steps, family, look)
    score.set(xlabel="steps", ylabel=_task(points), title=largest.model)
    for point in family:
        plan = point.facts.schedule
        steps = np.unique(np.linspace(0, plan.steps, 200).astype(int))
        rate = [lr_at(plan, int(step)) for step in steps]
        label = f"{point.facts.recipe} {plan.name} {plan.steps}".strip()
        rates.plot(steps, rate, linewidth=1.2, label=label)
        sheet.rows += [
            {"what": "rate", "run": point.facts.run, "x": int(s), "rate": r} for s, r in zip(steps, rate)
        ]
    rates.set(xlabel="steps", ylabel="learning rate", xlim=score.get_xlim())
    rates.legend(frameon=False, fontsize=7)
    score.sharex(rates)
    rates.set_xlim(0, None)
    return sheet


def decays(results: Results, points: Sequence[Point], law: Law, look: Look) -> Sheet | None:
    """Figure 5, left: accuracy over the head's and the body's weight decay; only where both were varied."""
    head, body = (sorted({getattr(p.facts, key) for p in points}) for key in ("head_decay", "body_decay"))
    if len(head) < 2 or len(body) < 2:
        return None
    sheet = _sheet(1)
    panel, scores = sheet.panels[0], np.full((len(head), len(body)), np.nan)
    for point in points:
        at = head.index(point.facts.head_decay), body.index(point.facts.body_decay)
        scores[at] = np.nanmax([scores[at], 1 - point.error])
        sheet.rows.append(_row("run", point.facts.body_decay, point.error, point) | {"head": head[at[0]]})
    panel.imshow(scores, cmap="viridis", origin="lower", aspect="auto")
    panel.grid(False)
    panel.set(xlabel="weight decay of the body", ylabel="weight decay of the head")
    panel.set_title(f"{_task(points).removesuffix(' error')} accuracy (%)", fontsize=9)
    panel.set_xticks(range(len(body)), [f"{value:g}" for value in body])
    panel.set_yticks(range(len(head)), [f"{value:g}" for value in head])
    middle = np.nanmean(scores)
    for (i, j), score in np.ndenumerate(scores):
        colour = "white" if score < middle else "black"
        panel.text(j, i, f"{100 * score:.1f}", ha="center", va="center", fontsize=8, color=colour)
    return sheet


FIGURES: dict[str, Callable[[Results, Sequence[Point], Law, Look], Sheet | None]] = {
    "figure2_compute": compute,
    "figure3_images_seen": seen,
    "figure4_data_size": data_size,
    "figure5_decay": decays,
    "figure7_schedules": schedules,
}
