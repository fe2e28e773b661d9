"""One HTML page of a study, a run, or several studies: self-contained, offline, interactive.

The page is a template, a style sheet and scripts in the folder `page`, with the results inside as JSON.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np

from scalevit import __version__
from scalevit.artifacts.atomic_write import atomic_write_text
from scalevit.config.lr_schedule import lr_at
from scalevit.study.report.frontier_law import frontier_law
from scalevit.study.report.next_budget import next_budget
from scalevit.study.report.number_format import Task, task_name
from scalevit.study.report.recipe_table import recipe_table
from scalevit.study.report.results import LEVEL, Floor, Results, RunFacts
from scalevit.study.report.run_images import Picture
from scalevit.study.report.summary import cards, headline, sections

#: Points of a learning-rate curve in the page.
RATES = 60

#: The page's scripts, in the order in which they need each other.
SCRIPTS = ("state", "save", "chart", "figures", "plots", "tables", "controls")

#: What the page's script knows of a run.
FACTS = (
    "run", "model", "recipe", "images", "unique", "seed", "steps", "batch", "seen", "compute", "parameters",
    "forward", "parent", "head_decay", "body_decay",
)  # fmt: skip


def write(studies: Sequence[Results], path: Path, pictures: Sequence[Picture] = ()) -> Path:
    """Write the page of one or several studies, with pictures if there are any; gives its path."""
    html = render(studies, pictures)
    atomic_write_text(path, html)
    return path


def render(studies: Sequence[Results], pictures: Sequence[Picture] = ()) -> str:
    """The page as text. Raises ValueError when there is nothing to show."""
    import jinja2

    if not any(study.facts for study in studies):
        raise ValueError("nothing to report: no run's folder (run.yaml and records.jsonl) was found")
    here = resources.files("scalevit.study.report") / "page"
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = page.from_string((here / "page.html.j2").read_text())
    payload = json.dumps(
        _json_safe([_study(study, index) for index, study in enumerate(studies)]), allow_nan=False
    )
    return template.render(
        title=" · ".join(study.title for study in studies), kind=_kind(studies),
        studies=[_page_text(study) for study in studies],
        pictures=pictures, style=(here / "page.css").read_text(), script=_script(here),
        data=payload.replace("<", "\\u003c"), version=__version__, made=time.strftime("%Y-%m-%d %H:%M %Z"),
    )  # fmt: skip


def _kind(studies: Sequence[Results]) -> str:
    """What the page is of, for its first line."""
    runs = sum(len(study.facts) for study in studies)
    return "A Vision Transformer's run" if runs == 1 else "Scaling study of Vision Transformers"


def _script(here: Traversable) -> str:
    """The scripts as one function, so that their names are nobody else's."""
    body = "\n".join((here / f"{name}.js").read_text() for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{body}}})();'


def _json_safe(value: Any) -> Any:
    """JSON has no NaN and no infinity; and nobody reads more than five digits from a page."""
    if isinstance(value, Mapping):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_json_safe(item) for item in value]
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
        "own": not results.origin,
    }


def _key(task: Task) -> str:
    return f"{task[0]}|{task[1]}"


def _floor(floor: Floor) -> dict[str, Any]:
    task = _key((floor.dataset, floor.shots))
    return {
        "name": floor.name,
        "model": floor.model,
        "task": task,
        "error": floor.error,
        "spread": floor.spread,
    }


def _run(results: Results, facts: RunFacts, study: int) -> dict[str, Any]:
    about = results.about.get(facts.id, {})
    mine = [point for point in results.points if point.facts is facts]
    steps = np.unique(np.linspace(0, facts.steps, RATES).astype(int)).tolist() if facts.schedule else []
    unknown = {key: None for key in ("images", "steps") if results.origin and not getattr(facts, key)}
    return {
        **{key: getattr(facts, key) for key in FACTS}, **unknown,
        "study": study, "seconds": about.get("seconds"), "speed": about.get("images_per_second"),
        "memory": about.get("memory"),
        "errors": {_key((p.dataset, p.shots)): [p.error, p.spread, p.draws] for p in mine},
        "curve": results.curves.get(facts.id, ()),
        "rates": [[step, lr_at(facts.schedule, step)] for step in steps] if facts.schedule else [],
    }  # fmt: skip


def _law(results: Results, task: Task) -> dict[str, Any]:
    law = frontier_law(results.of(task))
    if law.fit is None:
        return {"verdict": law.verdict, "curve": []}
    x = np.geomspace(law.fit.x.min() / 1.5, law.fit.x.max() * 10, 80)
    low, high = law.fit.interval(x, LEVEL)
    return {"verdict": law.verdict, "curve": np.stack([x, law.fit.predict(x), low, high], 1).tolist()}


# --------------------------------------------------------------------------- what the page says


def _page_text(results: Results) -> dict[str, Any]:
    """What the template prints without a script: cards, sentences, provenance."""
    return {
        "title": results.title,
        "cards": cards(results),
        "headline": headline(results),
        "sections": sections(results),
        "plan": next_budget(results),
        "recipes": recipe_table(results),
        "about": provenance(results),
    }


#: What a run says about itself, and what readers call it.
ABOUT = {
    "commit": "commit", "versions": "versions", "machine": "machine", "device": "device",
    "world": "processes a run", "command": "command",
}  # fmt: skip


def provenance(results: Results) -> list[tuple[str, str]]:
    """Which code on which machine: each fact once, with the number of others when runs differ."""
    rows = [*results.about.values()]
    found = [("from", results.origin)] if results.origin else []
    for key, name in ABOUT.items():
        values = [_plain(row[key]) for row in rows if row.get(key) not in (None, "")]
        distinct = sorted({*values})
        if distinct:
            more = f" and {len(distinct) - 1} more" if len(distinct) > 1 else ""
            found.append((name, distinct[0] + more))
    seconds = sum(
        _own_seconds(facts, results.about[facts.id]) for facts in results.facts if facts.id in results.about
    )
    if seconds:
        found.append(("time trained", f"{seconds:,.0f} s over {len(results.facts)} runs"))
    return found


def _own_seconds(facts: RunFacts, about: Mapping[str, Any]) -> float:
    """A branch's clock runs on from its trunk's: only its share of the steps is its own."""
    return float(about.get("seconds") or 0) * (1 - facts.branch_step / facts.steps)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)
