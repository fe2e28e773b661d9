"""Summary of a study in sentences: method, results, their uncertainty, and the next budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scalevit.study.design.downstream import FINETUNED_SUFFIX
from scalevit.study.laws.interval import coverage_words
from scalevit.study.report.frontier_law import (
    FrontierLaw,
    compute_helps,
    frontier_law,
    pareto,
    varies_compute,
)
from scalevit.study.report.next_budget import BUDGET_FACTOR, forecast_text
from scalevit.study.report.number_format import Task, formula_text, interval, number, percent, span, task_name
from scalevit.study.report.recipe_table import mean_over_seeds, recipe_sentence
from scalevit.study.report.results import LEVEL, Point, Results


def summary(results: Results) -> list[str]:
    """The results in sentences, each with its numbers and their intervals."""
    told = [sentence for _, sentences in sections(results) for sentence in sentences]
    return [*told, *filter(None, [recipe_sentence(results)])]


def sections(results: Results) -> list[tuple[str, list[str]]]:
    """(heading, sentences): what was done and learnt, how sure that is, what is next, what is missing."""
    tasks = results.tasks()
    task = tasks[0] if tasks else ("", 0)
    points = results.of(task)
    law, sizes = frontier_law(points), varies_compute(points)
    if results.origin:
        return [("What it shows", [_frontier(task, law), _law_words(law)])] if law.fit else []
    told = {
        "What was done": [
            _extent(results), _asked(task) if tasks else "", _bill_words(results), results.note,
        ],
        "What was learnt": [
            _frontier(task, law) if sizes else "", _law_words(law) if sizes else "",
            _halving(law), _data_words(points),
        ],
        "How sure this is": [
            _floor_words(results, points), _forecast_words(results, points) if sizes else "",
            _seed_words(points),
        ],
        f"What {BUDGET_FACTOR} times the compute would buy": [_next(law)],
        "What is missing": list(results.notes),
    }  # fmt: skip
    kept = [(name, [sentence for sentence in sentences if sentence]) for name, sentences in told.items()]
    return [(name, sentences) for name, sentences in kept if sentences]


def headline(results: Results) -> str:
    """The main result in one sentence."""
    tasks = results.tasks()
    if results.origin:
        return f"{len(results.facts)} external runs: {results.origin}"
    if not tasks:
        return "No run has a result yet."
    points, name = results.of(tasks[0]), task_name(tasks[0])
    best = pareto(points)
    if not best:
        return f"No run has a {name} error that can be compared."
    if len(points) == 1:
        only = best[0]
        return f"After {only.facts.steps:,} steps, the {name} error of {only.facts.run} is {_measured(only)}."
    if not varies_compute(points):
        return _compared(name, points)
    if not compute_helps(points):
        return (
            f"More training did not lower the {name} error here: the best run, {best[-1].facts.run} with "
            f"{percent(best[-1].error)}, used {best[-1].facts.compute / points[-1].facts.compute:.0%} of the "
            "largest compute."
        )
    law = frontier_law(points)
    ahead = forecast_text(law.frontier) if law.fit else ""
    words = (
        f"The {name} error fell from {percent(best[0].error)} to {percent(best[-1].error)} with "
        f"{number(best[-1].facts.compute / best[0].facts.compute)} times the compute"
    )
    return f"{words}; {BUDGET_FACTOR} times more should bring {ahead}." if ahead else f"{words}."


def _compared(name: str, points: Sequence[Point]) -> str:
    """The best of what was tried at one compute, and the others' range."""
    errors: dict[str, list[float]] = {}
    for point in points:
        errors.setdefault(point.facts.recipe or point.facts.run, []).append(point.error)
    first, *others = sorted(errors, key=lambda recipe: float(np.mean(errors[recipe])))
    if not others:
        return f"The {name} error of {first} is {mean_over_seeds(errors[first])}."
    means = [float(np.mean(errors[recipe])) for recipe in others]
    ends = percent(means[0]) if len(means) == 1 else f"{percent(means[0])} to {percent(means[-1])}"
    return (
        f"Of {len(errors)} recipes, {first} has the lowest {name} error, {mean_over_seeds(errors[first])}; "
        f"the other{'s reach' if len(means) > 1 else ' reaches'} {ends}."
    )


def _asked(task: Task) -> str:
    """How the error is measured."""
    if task[0].endswith(FINETUNED_SUFFIX):
        return (
            f"Each trained network is trained further on the labelled images of {task[0].split()[0]}; "
            "the error is the share of the set's other images that it then gets wrong."
        )
    if not task[1]:
        return ""
    return (
        f"Each trained network is frozen and shown {task[1]} labelled image{'s' * (task[1] > 1)} a class of "
        f"{task[0]}; a ridge regression on its features then names the rest. "
        "The share it gets wrong is the error, so it says how good the features are, not how good a fit is."
    )


def _bill_words(results: Results) -> str:
    bill = results.cost
    if not bill or bill.share >= 1:
        return ""
    return (
        f"Runs of different durations shared their trunks, so training took {number(bill.shared)} FLOPs "
        f"instead of {number(bill.separate)}: {bill.share:.0%} of the cost of separate runs."
    )


def _halving(law: FrontierLaw) -> str:
    if law.fit is None:
        return ""
    floor = " that lies above the floor" if "c" in law.fit.params else ""
    left = BUDGET_FACTOR ** -law.fit.params["b"]
    return f"{BUDGET_FACTOR} times the compute leaves {left:.0%} of the error{floor}."


def _data_words(points: Sequence[Point]) -> str:
    """What fewer unique images cost, at the largest model and longest duration that has both."""
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        facts = point.facts
        groups.setdefault((facts.compute, facts.model, facts.recipe, facts.seed), []).append(point)
    both = [group for group in groups.values() if len({p.facts.images for p in group}) > 1]
    if not both:
        return ""
    group = sorted(max(both, key=lambda g: g[0].facts.compute), key=lambda p: p.facts.images or math.inf)
    few, many = group[0], group[-1]
    least, most = (
        f"{p.facts.images:,} unique images" if p.facts.images else "all new images" for p in (few, many)
    )
    return (
        f"With {least} instead of {most}, {many.facts.model} after {many.facts.steps:,} steps ends at "
        f"{percent(few.error)} instead of {percent(many.error)}."
    )


def _seed_words(points: Sequence[Point]) -> str:
    """How much of a difference between two runs is chance, as far as seeds were repeated."""
    if len(points) < 2:
        return ""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for point in points:
        facts = point.facts
        groups.setdefault((facts.model, facts.recipe, facts.images, facts.steps), []).append(point.error)
    spreads = [float(np.std(errors, ddof=1)) for errors in groups.values() if len(errors) > 1]
    if spreads:
        together = float(np.sqrt(np.mean(np.square(spreads))))
        return (
            f"Runs that differ only in their seed differ by {100 * together:.1f} points (standard deviation)."
        )
    spread = float(np.median([point.spread for point in points]))
    return (
        f"Each run has one seed, so the variation between seeds is unknown. The draws of the few-shot images "
        f"alone vary by {100 * spread:.1f} points (standard deviation)."
    )


def _extent(results: Results) -> str:
    runs = results.facts
    if not runs:
        return ""
    models = {facts.model for facts in runs}
    sizes = {facts.images for facts in runs}
    return (
        f"{len(runs)} run{'s' * (len(runs) > 1)} of {len(models)} model{'s' * (len(models) > 1)} "
        f"({span([f.parameters / 1e6 for f in runs], ' M parameters')}) on {len(sizes)} data "
        f"size{'s' * (len(sizes) > 1)} for {span([f.steps for f in runs], ' steps')}: "
        f"{span([f.compute for f in runs], ' training FLOPs')}."
    )


def _frontier(task: Task, law: FrontierLaw) -> str:
    if not law.frontier:
        return ""
    first, last = law.frontier[0], law.frontier[-1]
    if first is last:
        return f"{task_name(task)} error of {last.facts.run}: {_measured(last)}."
    factor, compute = first.error / last.error, last.facts.compute / first.facts.compute
    return (
        f"On the frontier the {task_name(task)} error falls from {percent(first.error)} ({first.facts.run}) "
        f"to {_measured(last)} ({last.facts.run}): a factor {factor:.1f} for {number(compute)} times the "
        "compute."
    )


def _measured(point: Point) -> str:
    if point.draws < 2:
        return percent(point.error)
    return f"{percent(point.error)} ± {100 * point.spread:.1f} over {point.draws} draws"


def _law_words(law: FrontierLaw) -> str:
    if law.fit is None:
        return f"No law is fitted: {law.verdict}."
    fit, ranges = law.fit, law.fit.ranges(LEVEL)
    low, high = ranges["b"]
    words = (
        f"The law through {len(law.frontier)} frontier points, E = {formula_text(fit.form.formula)}, has the "
        f"exponent b = {fit.params['b']:.2f} [{low:.2f}, {high:.2f}]"
    )
    if "c" in ranges:
        words += f" and the floor c = {percent(fit.floor)} {interval(*ranges['c'])}"
    weak = f" Weak: {law.verdict}." if law.verdict else ""
    return f"{words} ({LEVEL:.0%} bootstrap intervals).{weak}"


def _when(told: Mapping[str, Any]) -> str:
    return str(told["made"])[:16].replace("T", " ")


def _truth(told: Mapping[str, Any], points: Sequence[Point]) -> Point | None:
    return next((point for point in points if point.facts.run == told["run"]), None)


def _settled(results: Results, points: Sequence[Point]) -> tuple[Mapping[str, Any], Point] | None:
    """The forecast and what then came out; None while either is missing."""
    told = results.forecast
    if not told or told["mean"] is None:
        return None
    truth = _truth(told, points)
    return None if truth is None else (told, truth)


def _forecast_words(results: Results, points: Sequence[Point]) -> str:
    told = results.forecast
    if not told:
        return ""
    if told["mean"] is None:
        return f"No forecast of {told['run']} could be made: {told['why_not']}."
    words = (
        f"From the smaller runs alone, written down at {_when(told)} before its result was read, "
        f"{told['run']} ({told['reach']:.1f} times their largest compute) was forecast "
        f"at {percent(told['mean'])} {interval(told['low'], told['high'])}"
    )
    truth = _truth(told, points)
    if truth is None:
        return f"{words}; its result is not there yet."
    inside = "inside" if told["low"] <= truth.error <= told["high"] else "OUTSIDE"
    return f"{words}; it came out at {percent(truth.error)}, {inside} the {told['level']:.0%} interval."


def _floor_words(results: Results, points: Sequence[Point]) -> str:
    """Baselines (raw pixels, untrained network) against the largest run; noise is two standard deviations."""
    if not points:
        return ""
    grows = varies_compute(points)
    top = max(points, key=lambda p: (p.facts.compute, p.facts.unique) if grows else (-p.error, 0))
    task = (top.dataset, top.shots)
    floors = [f for f in results.floors if (f.dataset, f.shots) == task and f.model in ("", top.facts.model)]
    if not floors:
        return ""
    said = []
    for floor in floors:
        noise = 2 * math.hypot(floor.spread, top.spread)
        gap = floor.error - top.error
        verdict = "beaten" if gap > noise else "NOT beaten" if gap < 0 else "beaten, but within the noise"
        said.append(f"{floor.name} {percent(floor.error)} ± {100 * floor.spread:.1f} ({verdict})")
    which = "the largest run" if grows else "the best run" if len(points) > 1 else "this run"
    return f"Baselines without training, against {percent(top.error)} of {which}: {', '.join(said)}."


def _next(law: FrontierLaw) -> str:
    if len(law.frontier) < 4 or law.fit is None:
        return ""
    ahead, last = forecast_text(law.frontier), law.frontier[-1]
    if not ahead:
        return ""
    return (
        f"With {BUDGET_FACTOR} times the compute ({number(BUDGET_FACTOR * last.facts.compute)} FLOPs) the "
        f"error is forecast to fall from {percent(last.error)} to {ahead}, when model, images and duration "
        f"grow together along the frontier. The brackets are a {LEVEL:.0%} interval for a new measurement; "
        f"{coverage_words(BUDGET_FACTOR)}."
    )


def cards(results: Results) -> list[dict[str, str]]:
    """The three or four main numbers."""
    tasks = results.tasks()
    if not tasks or results.origin:
        return []
    points = results.of(tasks[0])
    law, best = frontier_law(points), pareto(points)
    found = []
    if best:
        who = " ".join(filter(None, (best[-1].facts.model, best[-1].facts.recipe)))
        note = f"{who} · ± {100 * best[-1].spread:.1f} over {best[-1].draws} draws"
        found.append(
            {
                "what": f"{'best ' * (len(points) > 1)}{task_name(tasks[0])} error",
                "value": percent(best[-1].error),
                "note": note,
            }
        )
    if law.fit is not None:
        low, high = law.fit.ranges(LEVEL)["b"]
        note = f"{LEVEL:.0%} interval {low:.2f} to {high:.2f}"
        found.append({"what": "exponent of compute", "value": f"−{law.fit.params['b']:.2f}", "note": note})
    settled = _settled(results, points)
    if settled:
        told, truth = settled
        inside = "inside" if told["low"] <= truth.error <= told["high"] else "outside"
        note = f"came out at {percent(truth.error)}: {inside} {interval(told['low'], told['high'])}"
        found.append({"what": "forecast of the largest run", "value": percent(told["mean"]), "note": note})
    if results.cost and results.cost.share < 1:
        note = f"{number(results.cost.shared)} instead of {number(results.cost.separate)} FLOPs"
        found.append(
            {"what": "saved by shared trunks", "value": f"{1 - results.cost.share:.0%}", "note": note}
        )
    return found
