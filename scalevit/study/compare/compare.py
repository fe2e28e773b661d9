"""Compare recipes: each arm against a base, verdicts corrected for their number, the runs to do next."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scalevit.study.compare.arm import Arm
from scalevit.study.compare.multiplier import Multiplier, multiplier
from scalevit.study.compare.next_nodes import NextNodes, next_nodes
from scalevit.study.compare.verdict import Verdict, holm, verdict

#: Multiples of the largest compute at which both arms are forecast.
AHEAD = (3.0, 10.0)


@dataclass(frozen=True)
class Ahead:
    """Forecast errors (mean, low, high) of both arms at one larger compute.

    chance: that B's error is the smaller one."""

    compute: float
    a: tuple[float, float, float]
    b: tuple[float, float, float]
    chance: float


@dataclass(frozen=True)
class Pair:
    """One arm against the base. per_size: the multiplier of each model that both arms trained often enough,
    at the smallest error that both reach with it: (worth, low, high). next: what to run where the verdict is
    open. notes: what weakens the comparison."""

    multiplier: Multiplier
    verdict: Verdict
    per_size: dict[Hashable, tuple[float, float, float]]
    ahead: tuple[Ahead, ...]
    next: NextNodes | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """All pairs, and for arms that could not be compared the reason. unit: of compute; task: of error."""

    base: str
    pairs: tuple[Pair, ...]
    refused: dict[str, str]
    unit: str = "compute"
    task: str = "error"


def compare_arms(
    arms: Sequence[Arm], base: str | None = None, level: float = 0.9, seed: int = 0
) -> Comparison:
    """Compare every arm with the base, the first one where none is named.

    Raises ValueError for fewer than two arms, arms of one name, an unknown base, and when no pair can be
    compared, with the reason of each."""
    names = [arm.name for arm in arms]
    if len(arms) < 2:
        raise ValueError(f"a comparison needs two recipes; found {', '.join(names) or 'none'}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two recipes are called {twice[0]!r}; give them different names")
    if base is not None and base not in names:
        raise ValueError(f"no recipe is called {base!r}; there are {', '.join(names)}")
    first = arms[names.index(base)] if base else arms[0]
    results, refused = [], {}
    for other in arms:
        if other is first:
            continue
        try:
            results.append(multiplier(first, other, level, seed))
        except ValueError as error:
            refused[other.name] = str(error)
    if not results:
        raise ValueError("; ".join(refused.values()))
    p_values = holm([result.p_value for result in results])
    pairs = tuple(_pair(result, p_value) for result, p_value in zip(results, p_values))
    return Comparison(first.name, pairs, refused)


def _pair(result: Multiplier, p_value: float) -> Pair:
    decision = _with_confounder(verdict(result, p_value), result)
    open_question = next_nodes(result) if decision.kind == "undecided" else None
    return Pair(result, decision, _per_size(result), _ahead(result), open_question, _notes(result))


def _with_confounder(decision: Verdict, result: Multiplier) -> Verdict:
    """The verdict, which says so when the recipes were trained on different data."""
    a, b = result.a, result.b
    if a.data == b.data:
        return decision
    trained_on = "; ".join(f"{arm.name}: {', '.join(sorted(arm.data)) or 'not known'}" for arm in (a, b))
    sentence = f"{decision.sentence}; but they differ in data as well ({trained_on})"
    return replace(decision, sentence=sentence)


def _per_size(result: Multiplier) -> dict[Hashable, tuple[float, float, float]]:
    out = {}
    for size in dict.fromkeys(result.a.sizes):
        if size is None:
            continue
        try:
            own = multiplier(result.a.of_size(size), result.b.of_size(size), result.level)
        except ValueError:  # too few nodes of this size, or no error that both reach with it
            continue
        out[size] = own.at(float(own.errors[-1]))
    return out


def _ahead(result: Multiplier) -> tuple[Ahead, ...]:
    from scalevit.study.laws.forecast import forecast

    largest = float(max(result.a.compute[-1], result.b.compute[-1]))
    fronts = result.a.frontier(), result.b.frontier()
    at = [largest * factor for factor in AHEAD]
    foreseen = [forecast(front.compute, front.error, at) for front in fronts]
    out = []
    for index, compute in enumerate(at):
        a, b = ((float(f.mean[index]), float(f.low[index]), float(f.high[index])) for f in foreseen)
        out.append(Ahead(compute, a, b, _chance_smaller(a, b)))
    return tuple(out)


def _chance_smaller(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    """Chance that B's error is smaller than A's, both log-normal with these 90 % intervals."""
    from scipy.special import ndtr  # slow to import

    spread = [np.log(high / low) / 2 / 1.6448536 for _, low, high in (a, b)]
    return float(ndtr((np.log(a[0]) - np.log(b[0])) / max(1e-9, float(np.hypot(*spread)))))


def _notes(result: Multiplier) -> tuple[str, ...]:
    out = [*result.a.notes, *result.b.notes]
    for arm in (result.a, result.b):
        if arm.seeds.max() == 1:
            out.append(
                f"{arm.name}: one seed each; what another seed would change is taken from the residuals"
            )
    shared = set(result.a.keys) & set(result.b.keys)
    missing = [
        f"{len(set(own.keys) - shared)} nodes of {own.name} have no counterpart in {other.name}"
        for own, other in ((result.a, result.b), (result.b, result.a))
        if set(own.keys) - shared and any(key not in own.compute for key in own.keys)
    ]
    return tuple(dict.fromkeys([*out, *missing]))
