"""One HTML page of a study, a run, or several studies: self-contained, offline, interactive.

The page is a template, a style sheet and a script beside this file, with the results inside as JSON.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from scalevit import __version__
from scalevit.schedule import lr_at
from scalevit.study.forecast import forecast
from scalevit.study.results import LEVEL, Facts, Floor, Law, Point, Results, law_of, pareto

#: Points of a learning-rate curve in the page.
RATES = 60

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

#: What the page's script knows of a run.
FACTS = (
    "run", "model", "recipe", "images", "unique", "seed", "steps", "batch", "seen", "compute", "parameters",
    "forward", "parent",
)  # fmt: skip

Task = tuple[str, int]


def write(studies: Sequence[Results], path: Path) -> Path:
    """Write the page of one or several studies; gives its path."""
    html = render(studies)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(html)
    draft.replace(path)
    return path


def render(studies: Sequence[Results]) -> str:
    """The page as text. Raises ValueError when there is nothing to show."""
    import jinja2

    if not any(study.facts for study in studies):
        raise ValueError("nothing to report: no run's folder (run.yaml and records.jsonl) was found")
    here = resources.files("scalevit.study")
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = page.from_string((here / "report.html.j2").read_text())
    payload = json.dumps(
        _clean([_study(study, index) for index, study in enumerate(studies)]), allow_nan=False
    )
    return template.render(
        title=" · ".join(study.title for study in studies), studies=[_head(study) for study in studies],
        style=(here / "report.css").read_text(), script=(here / "report.js").read_text(),
        data=payload.replace("<", "\\u003c"), version=__version__, made=time.strftime("%Y-%m-%d %H:%M %Z"),
    )  # fmt: skip


def _clean(value: Any) -> Any:
    """JSON has no NaN and no infinity; and nobody reads more than five digits from a page."""
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_clean(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


# --------------------------------------------------------------------------- the page's data


def _study(results: Results, index: int) -> dict[str, Any]:
    tasks = results.tasks()
    return {
        "title": results.title,
        "tasks": [{"key": _key(task), "name": task_name(task)} for task in tasks],
        "laws": {_key(task): _law(results, task) for task in tasks},
        "runs": [_run(results, facts, index) for facts in results.facts],
        "floors": [_floor(floor) for floor in results.floors],
        "forecast": results.forecast,
    }


def _key(task: Task) -> str:
    return f"{task[0]}|{task[1]}"


def task_name(task: Task) -> str:
    """digits, 10-shot."""
    return f"{task[0]} {task[1]}-shot" if task[1] else task[0]


def _floor(floor: Floor) -> dict[str, Any]:
    task = _key((floor.dataset, floor.shots))
    return {
        "name": floor.name,
        "model": floor.model,
        "task": task,
        "error": floor.error,
        "spread": floor.spread,
    }


def _run(results: Results, facts: Facts, study: int) -> dict[str, Any]:
    about = results.about.get(facts.run, {})
    mine = [point for point in results.points if point.facts is facts]
    steps = np.unique(np.linspace(0, facts.steps, RATES).astype(int)).tolist()
    return {
        **{key: getattr(facts, key) for key in FACTS},
        "study": study, "seconds": about.get("seconds"), "speed": about.get("images_per_second"),
        "errors": {_key((p.dataset, p.shots)): [p.error, p.spread, p.draws] for p in mine},
        "curve": results.curves.get(facts.run, ()),
        "rates": [[step, lr_at(facts.schedule, step)] for step in steps],
    }  # fmt: skip


def _law(results: Results, task: Task) -> dict[str, Any]:
    law = law_of(results.of(task))
    if law.fit is None:
        return {"verdict": law.verdict, "curve": []}
    x = np.geomspace(law.fit.x.min() / 1.5, law.fit.x.max() * 10, 80)
    low, high = law.fit.interval(x, LEVEL)
    return {"verdict": law.verdict, "curve": np.stack([x, law.fit.predict(x), low, high], 1).tolist()}


# --------------------------------------------------------------------------- what the page says


def _head(results: Results) -> dict[str, Any]:
    """What the template prints without a script: cards, sentences, provenance."""
    return {
        "title": results.title,
        "cards": cards(results),
        "summary": summary(results),
        "about": provenance(results),
    }


def percent(error: float) -> str:
    return f"{100 * error:.1f}%"


def _interval(low: float, high: float) -> str:
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def summary(results: Results) -> list[str]:
    """The results in sentences, each with its numbers and their intervals."""
    tasks = results.tasks()
    sentences = [_extent(results)]
    if tasks:
        points = results.of(tasks[0])
        law = law_of(points)
        sentences += [_frontier(tasks[0], law), _law_words(law), _forecast_words(results, points)]
        sentences += [_recipe_words(tasks[0], points), _floor_words(results, points), _next(law)]
    if results.bill and results.bill.share < 1:
        bill = results.bill
        sentences.append(
            f"Durations shared their trunks: {number(bill.shared)} FLOPs were trained instead of "
            f"{number(bill.separate)}, {bill.share:.0%} of the cost of separate runs."
        )
    return [sentence for sentence in [*sentences, results.note] if sentence]


def _span(values: Sequence[float], unit: str = "") -> str:
    low, high = min(values), max(values)
    ends = number(low) if low == high else f"{number(low)} to {number(high)}"
    return f"{ends}{unit}"


def number(value: float) -> str:
    """Two or three digits as people write them: 0.046, 600, 1.1 × 10¹³."""
    if 1e-3 <= abs(value) < 1e5 or value == 0:
        return f"{value:,.0f}" if value == round(value) and abs(value) >= 1000 else f"{value:.3g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPT)}"


def _formula(formula: str) -> str:
    return formula.replace("x", "C").replace("^-b", "⁻ᵇ").replace("^b", "ᵇ")


def _extent(results: Results) -> str:
    runs = results.facts
    if not runs:
        return ""
    models = {facts.model for facts in runs}
    sizes = {facts.images for facts in runs}
    return (
        f"{len(runs)} run{'s' * (len(runs) > 1)} of {len(models)} model{'s' * (len(models) > 1)} "
        f"({_span([f.parameters / 1e6 for f in runs], ' M parameters')}) on {len(sizes)} data "
        f"size{'s' * (len(sizes) > 1)} for {_span([f.steps for f in runs], ' steps')}: "
        f"{_span([f.compute for f in runs], ' training FLOPs')}."
    )


def _frontier(task: Task, law: Law) -> str:
    if not law.frontier:
        return ""
    first, last = law.frontier[0], law.frontier[-1]
    if first is last:
        return f"{task_name(task)} error of {last.facts.run}: {_measured(last)}."
    factor, compute = first.error / last.error, last.facts.compute / first.facts.compute
    return (
        f"On the frontier the {task_name(task)} error falls from {percent(first.error)} ({first.facts.run}) "
        f"to {_measured(last)} ({last.facts.run}): a factor {factor:.1f} for {compute:.0f} times the compute."
    )


def _recipe_words(task: Task, points: Sequence[Point]) -> str:
    """What is compared, best first: mean over the longest runs' seeds, spread between seeds."""
    longest = max(point.facts.steps for point in points)
    errors: dict[str, list[float]] = {}
    for point in points:
        if point.facts.steps == longest:
            errors.setdefault(point.facts.recipe, []).append(point.error)
    if not 1 < len(errors) <= 20:
        return ""
    ranked = sorted(errors, key=lambda recipe: float(np.mean(errors[recipe])))
    told = ", ".join(f"{name} {_seeds(errors[name])}" for name in ranked)
    return f"{task_name(task)} error after {longest:,} steps, by recipe: {told}."


def _seeds(errors: Sequence[float]) -> str:
    mean = percent(float(np.mean(errors)))
    return mean if len(errors) < 2 else f"{mean} ± {100 * np.std(errors, ddof=1):.1f} over {len(errors)} runs"


def _measured(point: Point) -> str:
    return f"{percent(point.error)} ± {100 * point.spread:.1f} over {point.draws} draws"


def _law_words(law: Law) -> str:
    if law.fit is None:
        return f"No law is claimed: {law.verdict}."
    fit, ranges = law.fit, law.fit.ranges(LEVEL)
    low, high = ranges["b"]
    words = (
        f"The law through {len(law.frontier)} frontier points, E = {_formula(fit.form.formula)}, has the "
        f"exponent b = {fit.params['b']:.2f} [{low:.2f}, {high:.2f}]"
    )
    if "c" in ranges:
        words += f" and the floor c = {percent(fit.floor)} {_interval(*ranges['c'])}"
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
        f"at {percent(told['mean'])} {_interval(told['low'], told['high'])}"
    )
    truth = _truth(told, points)
    if truth is None:
        return f"{words}; its result is not there yet."
    inside = "inside" if told["low"] <= truth.error <= told["high"] else "OUTSIDE"
    return f"{words}; it came out at {percent(truth.error)}, {inside} the {told['level']:.0%} interval."


def _floor_words(results: Results, points: Sequence[Point]) -> str:
    """The largest run beside what needs no training; noise is two standard deviations of the difference."""
    if not points:
        return ""
    top = max(points, key=lambda p: (p.facts.compute, p.facts.unique))
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
    return f"What needs no training, beside {percent(top.error)} of the largest run: {', '.join(said)}."


def _next(law: Law) -> str:
    x, y = [p.facts.compute for p in law.frontier], [p.error for p in law.frontier]
    if len(x) < 4:
        return ""
    try:
        made = forecast(x, y, [10 * max(x)], level=LEVEL)
    except ValueError:
        return ""
    mean, low, high = (float(np.ravel(v)[0]) for v in (made.mean, made.low, made.high))
    last = law.frontier[-1]
    return (
        f"Your next 10× of compute ({number(10 * max(x))} FLOPs): forecast {percent(mean)} "
        f"{_interval(low, high)} after {percent(last.error)} now, if model, images and duration grow "
        "together along the frontier."
    )


def cards(results: Results) -> list[dict[str, str]]:
    """The three or four numbers to see first."""
    tasks = results.tasks()
    if not tasks:
        return []
    points = results.of(tasks[0])
    law, best = law_of(points), pareto(points)
    found = []
    if best:
        note = f"{best[-1].facts.model} · ± {100 * best[-1].spread:.1f} over {best[-1].draws} draws"
        found.append(
            {"what": f"best {task_name(tasks[0])} error", "value": percent(best[-1].error), "note": note}
        )
    if law.fit is not None:
        low, high = law.fit.ranges(LEVEL)["b"]
        note = f"{LEVEL:.0%} interval {low:.2f} to {high:.2f}"
        found.append({"what": "exponent of compute", "value": f"−{law.fit.params['b']:.2f}", "note": note})
    settled = _settled(results, points)
    if settled:
        told, truth = settled
        inside = "inside" if told["low"] <= truth.error <= told["high"] else "outside"
        note = f"came out at {percent(truth.error)}: {inside} {_interval(told['low'], told['high'])}"
        found.append({"what": "forecast of the largest run", "value": percent(told["mean"]), "note": note})
    if results.bill and results.bill.share < 1:
        note = f"{number(results.bill.shared)} instead of {number(results.bill.separate)} FLOPs"
        found.append(
            {"what": "saved by shared trunks", "value": f"{1 - results.bill.share:.0%}", "note": note}
        )
    return found


def provenance(results: Results) -> list[tuple[str, str]]:
    """Which code on which machine: each fact once, with the number of others when runs differ."""
    rows = [*results.about.values()]
    found = []
    for key in ("commit", "versions", "machine", "device", "world", "command"):
        values = [_plain(row[key]) for row in rows if row.get(key) not in (None, "")]
        distinct = sorted({*values})
        if distinct:
            more = f" and {len(distinct) - 1} more" if len(distinct) > 1 else ""
            found.append((key, distinct[0] + more))
    seconds = sum(_own_seconds(facts, results.about.get(facts.run, {})) for facts in results.facts)
    if seconds:
        found.append(("time trained", f"{seconds:,.0f} s over {len(results.facts)} processes"))
    return found


def _own_seconds(facts: Facts, about: Mapping[str, Any]) -> float:
    """A branch's clock runs on from its trunk's: only its share of the steps is its own."""
    return float(about.get("seconds") or 0) * (1 - facts.branch_step / facts.steps)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)
