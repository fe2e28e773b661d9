"""The learning rate of each size, found before a study begins: a small sweep, and a rule for larger sizes.

Every rate is tried for a short while on every model but the largest; the better half goes on for as long
again. A parabola through the best three losses over ln rate gives a model's optimum; a straight line through
the optima over ln FLOPs of an image gives the largest model's, as larger models want smaller rates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from scalevit.artifacts import records
from scalevit.study.design import grid
from scalevit.study.design.spec import Spec, Variant

#: A rate is first tried for this share of the study's shortest duration; what survives, for twice that.
TRIAL_SHARE = 0.5
#: Share of the rates that go on.
SURVIVE = 0.5
#: Bounds of the rule's exponent: a larger model never gets a higher rate.
EXPONENTS = (-1.0, 0.0)
#: Loss rows that are averaged at the end of a run.
AVERAGED_ROWS = 4


@dataclass(frozen=True)
class SweptRate:
    """A model's learning rate. how: swept; edge: swept, but the best was the sweep's first or last; or
    transferred from smaller models. losses: of each rate that was tried to the end."""

    model: str
    lr: float
    how: Literal["swept", "edge", "transferred"]
    losses: Mapping[str, float]


def first_round(spec: Spec, rates: Sequence[float]) -> Spec:
    """The sweep's first half: every rate, briefly, on the models that are swept."""
    if len({*rates}) < 3 or min(rates) <= 0:
        raise ValueError(f"--rates: at least three positive rates make a sweep, found {list(rates)}")
    steps = max(2, round(TRIAL_SHARE * min(spec.durations)))
    recipes = tuple(Variant(f"lr{rate:g}", (f"schedule.lr={rate!r}",)) for rate in sorted({*rates}))
    overrides = (*spec.overrides, f"schedule.warmup={min(steps // 5, _warmup(spec))}")
    return Spec(
        f"{spec.name} rates", spec.base, overrides, swept_models(spec), recipes, spec.images[-1:], (steps,),
        cooldown=spec.cooldown, seeds=spec.seeds[:1], dataset=spec.dataset, shots=spec.shots,
    )  # fmt: skip


def _warmup(spec: Spec) -> int:
    return grid.expand(spec)[0].run.schedule.warmup


def swept_models(spec: Spec) -> tuple[Variant, ...]:
    """All models but the one that costs most, where two remain to draw a line through."""
    size = {node.model: grid.step_flops(node.run) for node in grid.expand(spec)}
    models = sorted(spec.models, key=lambda model: size.get(model.name, 0.0))
    return tuple(models[:-1] if len(models) > 2 else models)


def second_round(sweep: Spec, folder: Path) -> Spec:
    """The sweep with its better half going on for as long again."""
    longer = 2 * sweep.durations[0]
    wide = replace(sweep, added_durations=(longer,))
    brief, kept = grid.expand(sweep), []
    onward = {(n.model, n.recipe): n.name for n in grid.expand(wide) if n.duration == longer}
    losses = {node.name: final_loss(folder / "runs" / node.name) for node in brief}
    for model in {node.model for node in brief}:
        mine = sorted((n for n in brief if n.model == model), key=lambda node: losses[node.name])
        kept += [onward[n.model, n.recipe] for n in mine[: max(3, math.ceil(SURVIVE * len(mine)))]]
    return replace(wide, only=(*(node.name for node in brief), *sorted(kept)))


def final_loss(home: Path) -> float:
    """The last training losses' mean; infinite when there are none or they are no numbers."""
    rows = [row for row in records.read_records(home) if row["kind"] == "train" and row["metric"] == "loss"]
    values = [row["value"] for row in sorted(rows, key=lambda row: row["step"])][-AVERAGED_ROWS:]
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if values and len(known) == len(values) else math.inf


def choose_rates(spec: Spec, sweep: Spec, folder: Path) -> tuple[list[SweptRate], float | None]:
    """The rate of every model of the study, and the exponent of the rule when there is one."""
    nodes = [
        node for node in grid.expand(sweep) if node.duration == max(*sweep.durations, *sweep.added_durations)
    ]
    size = {node.model: grid.step_flops(node.run) for node in grid.expand(spec)}
    found: list[SweptRate] = []
    for model in dict.fromkeys(node.model for node in nodes):
        mine = [node for node in nodes if node.model == model]
        found.append(
            best_rate(model, {n.run.schedule.lr: final_loss(folder / "runs" / n.name) for n in mine})
        )
    rest = [model for model in size if model not in {rate.model for rate in found}]
    if not rest:
        return found, None
    x = np.log([size[rate.model] for rate in found])
    y = np.log([rate.lr for rate in found])
    exponent = float(np.clip(np.polyfit(x, y, 1)[0], *EXPONENTS)) if len(found) > 1 else 0.0
    middle = float(np.mean(y - exponent * x))
    moved = [
        SweptRate(
            model, float(f"{math.exp(middle + exponent * math.log(size[model])):.3g}"), "transferred", {}
        )
        for model in rest
    ]
    return [*found, *moved], exponent


def best_rate(model: str, losses: Mapping[float, float]) -> SweptRate:
    """The bottom of the parabola through the best rate and its neighbours. Raises ValueError when every run
    diverged."""
    rates = sorted(losses)
    values = [losses[rate] for rate in rates]
    low = int(np.argmin(values))
    if not math.isfinite(values[low]):
        raise ValueError(f"--rates: every rate diverged on {model}; try smaller ones than {rates[0]:g}")
    told = {f"{rate:g}": loss for rate, loss in zip(rates, values)}
    near = slice(low - 1, low + 2)
    if low in (0, len(rates) - 1) or not np.all(np.isfinite(values[near])):
        return SweptRate(model, rates[low], "edge", told)
    x = np.log(rates[near])
    bend, slope, _ = np.polyfit(x - x[1], values[near], 2)
    lr = math.exp(x[1] + float(np.clip(-slope / (2 * bend), x[0] - x[1], x[2] - x[1])))
    return SweptRate(model, float(f"{lr:.3g}"), "swept", told)


def apply_rates(spec: Spec, rates: Sequence[SweptRate], exponent: float | None) -> Spec:
    """The study with each model at its rate, and a note that says how it was found."""
    lr = {rate.model: rate.lr for rate in rates}
    models = tuple(
        Variant(model.name, (*model.overrides, f"schedule.lr={lr[_name(spec, model)]!r}"))
        for model in spec.models
    )
    return replace(
        spec, models=models, note=" ".join(filter(None, (spec.note, rates_sentence(rates, exponent))))
    )


def _name(spec: Spec, model: Variant) -> str:
    return next(node.model for node in grid.expand(replace(spec, models=(model,))))


def rates_sentence(rates: Sequence[SweptRate], exponent: float | None) -> str:
    """What was chosen, and how, in one sentence."""
    parts = [f"{rate.model} {rate.lr:g} ({_how(rate)})" for rate in rates]
    rule = f"; rate ∝ FLOPs^{exponent:.2f} beyond the swept models" if exponent is not None else ""
    return f"Learning rates: {', '.join(parts)}{rule}."


def _how(rate: SweptRate) -> str:
    return "the sweep's edge: try rates beyond it" if rate.how == "edge" else rate.how
