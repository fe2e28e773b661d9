"""The paper's figures 1 to 7 and 9 drawn from runs: PNG, SVG and PDF, and a CSV of what they show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from scalevit.config.lr_schedule import lr_at
from scalevit.study.report import plots
from scalevit.study.report.frontier_law import frontier_law
from scalevit.study.report.plots import FigureInput, Sheet
from scalevit.study.report.results import Point, Results


def draw(results: Results, folder: Path, beside: Sequence[Results] = ()) -> list[Path]:
    """Draw every figure that the results can fill, for the study's own task; gives the files written.
    beside: external results, drawn where they have the same task."""
    tasks = results.tasks()
    if not tasks:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    points = results.of(tasks[0])
    shown = FigureInput(results, points, frontier_law(points), plots.plot_style(points), beside)
    written: list[Path] = []
    for name, figure in FIGURES.items():
        sheet = figure(shown)
        written += plots.save(sheet, folder / name) if sheet else []
    return written


def shots(shown: FigureInput) -> Sheet | None:
    """Figure 1: error against examples a class, the best run of each model beside baselines without training;
    only where a data set was probed with several."""
    data = shown.task[0]
    tasks = sorted(shots for dataset, shots in shown.results.tasks() if dataset == data and shots)
    if len(tasks) < 2:
        return None
    sheet = plots.sheet_of(1)
    best: dict[str, Point] = {}
    for point in shown.points:
        model = point.facts.model
        best[model] = min(point, best.get(model, point), key=lambda p: p.error)
    kept = {point.facts.run for point in best.values()}
    found = [p for n in tasks for p in shown.results.of((data, n)) if p.facts.run in kept]
    plots.scatter(sheet, sheet.panels[0], lambda p: p.shots, found, shown.look)
    plots.plot_floors(sheet, sheet.panels[0], [f for f in shown.results.floors if f.dataset == data])
    plots.axes(sheet.panels[0], "examples a class", f"{data} error")
    sheet.panels[0].set_xticks(tasks, [str(n) for n in tasks])
    plots.models(sheet.panels[0], shown.look)
    return sheet


def compute(shown: FigureInput) -> Sheet:
    """Figure 2: error against compute with the law, then the best of each model size and each data size."""
    sheet = plots.sheet_of(3)
    main, sizes, data = sheet.panels
    plots.scatter(sheet, main, lambda p: p.facts.compute, shown.points, shown.look)
    plots.plot_law(sheet, main, shown.law)
    plots.plot_forecast(sheet, main, shown.results)
    plots.plot_external(sheet, main, shown)
    plots.axes(main, "training compute (FLOPs)", plots.task_label(shown.points))
    plots.models(main, shown.look)
    plots.plot_best(sheet, sizes, lambda p: p.facts.forward / 1e6, shown.points, shown.look)
    plots.axes(sizes, "model size (forward MFLOPs an image)", plots.task_label(shown.points))
    plots.plot_best(sheet, data, lambda p: float(p.facts.unique), shown.points, shown.look)
    plots.axes(data, "unique images", plots.task_label(shown.points))
    return sheet


def seen(shown: FigureInput) -> Sheet:
    """Figure 3: error against images seen, on the most unique images; large models need fewer samples."""
    sheet = plots.sheet_of(1)
    most = max(shown.look.areas, key=lambda n: n or math.inf)
    kept = [p for p in shown.points if p.facts.images == most]
    plots.scatter(sheet, sheet.panels[0], lambda p: p.facts.seen, kept, shown.look)
    plots.axes(sheet.panels[0], "images seen", plots.task_label(shown.points))
    plots.models(sheet.panels[0], shown.look)
    return sheet


def data_size(shown: FigureInput) -> Sheet:
    """Figure 4: compute, model size and data size where unique images run short."""
    sheet = plots.sheet_of(2)
    plots.scatter(sheet, sheet.panels[0], lambda p: p.facts.unique, shown.points, shown.look)
    plots.axes(sheet.panels[0], "unique images", plots.task_label(shown.points))
    plots.models(sheet.panels[0], shown.look)
    plots.scatter(sheet, sheet.panels[1], lambda p: p.facts.seen / p.facts.unique, shown.points, shown.look)
    plots.axes(sheet.panels[1], "how often each image was seen", plots.task_label(shown.points))
    return sheet


def schedules(shown: FigureInput) -> Sheet | None:
    """Figure 7: the score of the largest model's runs above the learning rates that led to it; only of runs
    whose schedule is known."""
    if not any(point.facts.schedule for point in shown.points):
        return None
    sheet = plots.sheet_of(1, rows=2)
    score, rates = sheet.panels
    largest = max(shown.points, key=lambda p: (p.facts.forward, p.facts.images or math.inf)).facts
    family = [p for p in shown.points if (p.facts.model, p.facts.images) == (largest.model, largest.images)]
    plots.scatter(sheet, score, lambda p: p.facts.steps, family, shown.look)
    score.set(xlabel="steps", ylabel=plots.task_label(shown.points), title=largest.model)
    for point in family:
        plan = point.facts.schedule
        if plan is None:
            continue
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


#: Which of a run's facts figure 5 lays out.
DECAYS = ("head_decay", "body_decay")


def _both_decays(shown: FigureInput) -> bool:
    return all(len({getattr(p.facts, key) for p in shown.points}) > 1 for key in DECAYS)


def decays(shown: FigureInput) -> Sheet | None:
    """Figure 5, left: accuracy over the head's and the body's weight decay; only where both were varied."""
    if not _both_decays(shown):
        return None
    head, body = (sorted({getattr(p.facts, key) for p in shown.points}) for key in DECAYS)
    sheet = plots.sheet_of(1)
    panel, scores = sheet.panels[0], np.full((len(head), len(body)), np.nan)
    for point in shown.points:
        at = head.index(point.facts.head_decay), body.index(point.facts.body_decay)
        scores[at] = np.nanmax([scores[at], 1 - point.error])
        sheet.rows.append(
            plots.row("run", point.facts.body_decay, point.error, point) | {"head": head[at[0]]}
        )
    panel.imshow(scores, cmap="viridis", origin="lower", aspect="auto")
    panel.grid(False)
    panel.set(xlabel="weight decay of the body", ylabel="weight decay of the head")
    panel.set_title(f"{plots.task_label(shown.points).removesuffix(' error')} accuracy (%)", fontsize=9)
    panel.set_xticks(range(len(body)), [f"{value:g}" for value in body])
    panel.set_yticks(range(len(head)), [f"{value:g}" for value in head])
    middle = np.nanmean(scores)
    for (i, j), score in np.ndenumerate(scores):
        colour = "white" if score < middle else "black"
        panel.text(j, i, f"{100 * score:.1f}", ha="center", va="center", fontsize=8, color=colour)
    return sheet


def recipes(shown: FigureInput) -> Sheet | None:
    """Figure 5, right: each recipe's longest runs, a mark a seed and a line at their mean, best first; only
    where recipes are few enough to be told apart."""
    longest = max(point.facts.steps for point in shown.points)
    errors: dict[str, list[Point]] = {}
    for point in shown.points:
        if point.facts.steps == longest:
            errors.setdefault(point.facts.recipe, []).append(point)
    if not 2 <= len(errors) <= 12 or _both_decays(shown):
        return None
    ranked = sorted(errors, key=lambda name: float(np.mean([p.error for p in errors[name]])))
    sheet = plots.sheet_of(1)
    panel = sheet.panels[0]
    for place, name in enumerate(ranked):
        for point in errors[name]:
            panel.scatter(place, point.error, edgecolor="black", linewidth=0.3, **shown.look.of(point))
            sheet.rows.append(plots.row("run", place, point.error, point))
        mean = float(np.mean([p.error for p in errors[name]]))
        panel.hlines(mean, place - 0.25, place + 0.25, color="black", linewidth=1.2)
        sheet.rows.append(plots.row("mean", place, mean) | {"recipe": name})
    panel.set_xticks(range(len(ranked)), [name or "base" for name in ranked], rotation=30 * (len(ranked) > 5))
    panel.set(ylabel=plots.task_label(shown.points), title=f"after {longest:,} steps")
    panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    plots.models(panel, shown.look)
    return sheet


#: Models that figure 6 shows, and panels of figure 9.
MODELS, TASKS = 3, 8


def growth(shown: FigureInput) -> Sheet | None:
    """Figure 6: what more unique images are worth while training goes on, a panel for each of the largest
    models and a line a number of images; only where that number was varied."""
    counts = sorted(shown.look.areas, key=lambda n: n or math.inf)
    models = [*shown.look.colours][-MODELS:]
    if len(counts) < 2:
        return None
    from matplotlib import colormaps

    colours = dict(zip(counts, colormaps["viridis"](np.linspace(0, 0.85, len(counts)))))
    sheet, errors = plots.sheet_of(len(models)), [p.error for p in shown.points if p.error > 0]
    for panel, model in zip(sheet.panels, models):
        for count in counts:
            mine = [p for p in shown.points if (p.facts.model, p.facts.images) == (model, count)]
            label = f"{count:,}" if count else "all new"
            plots.line(sheet, panel, lambda p: p.facts.steps, mine, colours[count], label)
        panel.set(title=model, ylim=(min(errors) / 1.15, max(errors) * 1.15))
        plots.axes(panel, "steps", plots.task_label(shown.points))
    sheet.panels[0].legend(frameon=False, fontsize=8, title="unique images", title_fontsize=8)
    return sheet


def tasks(shown: FigureInput) -> Sheet | None:
    """Figure 9: every task across compute with a law of its own; only where there are several."""
    found = shown.results.tasks()[:TASKS]
    if len(found) < 2:
        return None
    across = min(4, len(found))
    sheet = plots.sheet_of(across, rows=-(-len(found) // across))
    for panel, task in zip(sheet.panels, found):
        points = shown.results.of(task)
        law, look = frontier_law(points), plots.plot_style(points)
        plots.scatter(sheet, panel, lambda p: p.facts.compute, points, look)
        plots.plot_law(sheet, panel, law)
        plots.axes(panel, "training compute (FLOPs)", plots.task_label(points))
    for panel in sheet.panels[len(found) :]:
        panel.set_visible(False)
    return sheet


FIGURES: dict[str, Callable[[FigureInput], Sheet | None]] = {
    "figure1_shots": shots,
    "figure2_compute": compute,
    "figure3_images_seen": seen,
    "figure4_data_size": data_size,
    "figure5_decay": decays,
    "figure5_recipes": recipes,
    "figure6_more_images": growth,
    "figure7_schedules": schedules,
    "figure9_tasks": tasks,
}
