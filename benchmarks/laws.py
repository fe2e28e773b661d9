"""How well forecasts hold on curves that had no part in choosing them: settings chosen by leaving families
out.

    OMP_NUM_THREADS=1 python benchmarks/laws.py --curves learning_curves.csv --tasks openclip_tasks.csv \
        --isoflops isoflops.csv [--candidates all] [--json]

Families of curves: the public benchmark of arXiv 2209.06640 (`--curves`: domain, task, model, x, y, train),
the error-against-compute frontiers of tasks, cut at 3, 10 and 30 times (`--tasks`: task, gmacs, error),
losses of language models (`--isoflops`: source, dataset, params, tokens, budget, loss, outlier) as slices
of one size and as the best loss of each budget, the tables of arXiv 2106.04560 that the package carries,
and planted laws. A file that is not given leaves its families out.

Settings are the extrapolators (forward selection over the candidates, for the least mean ln of RMSLE over
that of the best single candidate of each family) and the constants of the interval (least loss under
Student's t). Every family is scored with the settings that the families of other origin chose. """

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from law_families import (
    ORIGIN,
    Task,
    benchmark_tasks,
    isoflop_tasks,
    paper_tasks,
    planted_tasks,
    task_frontiers,
)
from scipy.optimize import minimize

from scalevit.study.laws.backtest import (
    MEMBERS,
    Extrapolator,
    ScaledCurve,
    average_points,
    backtest_cuts,
    fit_members,
    predict_members,
    scale_curve,
)
from scalevit.study.laws.fit import fit, sorted_points, student_quantile
from scalevit.study.laws.interval import (
    CONSTANTS,
    DEGREES,
    LARGEST,
    IntervalConstants,
    scatter,
    trend,
    variance_formula,
)
from scalevit.study.laws.joint import forecast_joint
from scalevit.study.laws.related import DEPTHS, FARTHEST_MISS, HALF_TRUST, HORIZON, POWER

Array = np.ndarray
#: Points to forecast that a curve counts with.
MOST_AHEAD = 12
#: Distances, as times the last x, by which coverage is printed.
BINS = (1.5, 2.5, 6.0, 15.0, 40.0)
#: What 90 % intervals shall hold of the curves that choose: more than asked, since others are less alike.
HELD = 0.92
PLANTED_JOINT = 40
CHUNK = 24


# --------------------------------------------------------------------------- forecasts of all candidates


def candidates(which: str) -> tuple[Extrapolator, ...]:
    """Those to choose from: laws, recencies and strengths of the prior."""
    recencies = (0.2, 0.35, 0.7, 1.2, 2.5) if which == "all" else (0.7, 1.2, 2.5)
    strengths = (0.0, 0.25, 1.0, 4.0, 16.0) if which == "all" else (0.0, 0.25, 1.0, 16.0)
    kinds = [(law, recency) for law in ("M2", "M3", "saturating") for recency in recencies]
    grid = [Extrapolator(*kind, strength) for kind in kinds for strength in strengths]
    return tuple(dict.fromkeys([*grid, *MEMBERS]))


@dataclass(frozen=True)
class Record:
    """A curve, all members' errors (m, n) at ln distances (n,), and their values at its points (m, k)."""

    own: ScaledCurve
    error: Array
    distance: Array
    local: Array


def forecast_tasks(
    tasks: Sequence[Task], members: Sequence[Extrapolator]
) -> list[tuple[Record, list[Record]]]:
    """Of every task: the forecast of the later measurements, and the back-tests of the curve."""
    records: list[tuple[Record, list[Record]]] = []
    for begin in range(0, len(tasks), CHUNK):
        jobs: list[tuple[int, ScaledCurve, ScaledCurve, Array, Array]] = []
        for index, task in enumerate(tasks[begin : begin + CHUNK]):
            own = scale_curve(*sorted_points(task.x, task.y, None))
            short = average_points(own)
            chosen = np.unique(np.linspace(0, len(task.x_new) - 1, MOST_AHEAD).astype(int))
            distance = np.log(task.x_new[chosen] / own.x0)
            jobs.append((index, own, short, distance, np.log(task.y_new[chosen] / own.y0)))
            reach = 2.0 ** np.round(np.log2(np.clip(np.exp(distance.max()), 2, 16)))
            cuts = backtest_cuts(short, [reach**depth for depth in DEPTHS], HORIZON * np.log(reach))
            jobs += [(index, before, before, distance, truth) for before, distance, truth in cuts]
        _, theta = fit_members([job[2] for job in jobs], (), members)
        chunk: list[list[Record]] = [[] for _ in tasks[begin : begin + CHUNK]]
        for row, (index, own, _, distance, truth) in enumerate(jobs):
            error = np.clip(predict_members(members, theta, row, distance), -5, 5) - truth
            chunk[index].append(Record(own, error, distance, predict_members(members, theta, row, own.u)))
        records += [(one[0], one[1:]) for one in chunk]
    return records


# --------------------------------------------------------------------------- choosing


class Protocol:
    """Errors of all candidates on all tasks, and the settings that some of the families choose."""

    def __init__(self, tasks: Sequence[Task], members: Sequence[Extrapolator]):
        self.tasks, self.members = tasks, members
        self.records = forecast_tasks(tasks, members)
        self.family = np.array([task.family for task in tasks])
        self.families = list(dict.fromkeys(self.family.tolist()))
        self.tests = np.array([len(tests) for _, tests in self.records])
        self.misses = np.stack([_misses(tests, len(members)) for _, tests in self.records])
        self.errors = np.concatenate([record.error for record, _ in self.records], axis=1)
        counts = np.array([len(record.distance) for record, _ in self.records])
        self.begin, self.curve = np.cumsum(counts) - counts, np.repeat(np.arange(len(tasks)), counts)
        self.distance = np.concatenate([record.distance for record, _ in self.records])
        single = np.sqrt(np.add.reduceat(self.errors**2, self.begin, axis=1) / counts)
        self.best = {name: float(single[:, self.family == name].mean(axis=1).min()) for name in self.families}
        #: Large families count more than small ones, but not in proportion; points share their curve's
        #: weight.
        sizes = {name: np.sum(self.family == name) for name in self.families}
        self.importance = {name: min(1.0, float(np.sqrt(sizes[name] / 20))) for name in self.families}
        self.point_weight = (1 / np.sqrt([sizes[name] for name in self.family]) / counts)[self.curve]
        self.counts = counts

    def mixture(self, chosen: Sequence[int]) -> Array:
        """Weights (tasks, chosen) by each curve's own back-tests."""
        total = self.misses[:, chosen] + 1e-9
        power = POWER * self.tests / (self.tests + HALF_TRUST)
        weights = (total / total.min(axis=1, keepdims=True)) ** -power[:, None]
        return weights / weights.sum(axis=1, keepdims=True)

    def rmsle(self, chosen: Sequence[int]) -> dict[str, float]:
        """Mean over a family's curves of the root mean square error of ln y."""
        error = np.einsum("ns,sn->n", self.mixture(chosen)[self.curve], self.errors[list(chosen)])
        each = np.sqrt(np.add.reduceat(error**2, self.begin) / self.counts)
        return {name: float(each[self.family == name].mean()) for name in self.families}

    def select(self, families: Sequence[str], most: int = 7) -> list[int]:
        """Forward selection of extrapolators for these families."""

        def loss(chosen: list[int]) -> float:
            found = self.rmsle(chosen)
            weights = [self.importance[name] for name in families]
            return float(
                np.average([np.log(found[name] / self.best[name]) for name in families], weights=weights)
            )

        chosen: list[int] = []
        lowest = np.inf
        while len(chosen) < most:
            value, index = min((loss([*chosen, i]), i) for i in range(len(self.members)) if i not in chosen)
            if value > lowest - 0.002:
                break
            lowest = value
            chosen.append(index)
        return chosen

    def features(self, chosen: Sequence[int]) -> tuple[Array, ...]:
        """Of forecasts and of back-tests, point by point: the formula's inputs, the mixture's error, and
        which curve and which back-test it is."""
        mixture, ahead, back = self.mixture(chosen), [], []
        for index, (record, tests) in enumerate(self.records):
            ahead.append(_features(record, chosen, mixture[index], index, 0))
            back += [
                _features(test, chosen, mixture[index], index, len(back) + i) for i, test in enumerate(tests)
            ]
        return np.concatenate(ahead, axis=1), np.concatenate(back, axis=1)

    def deviation(self, features: tuple[Array, ...], constants: IntervalConstants) -> Array:
        """Standard deviation of every forecast point."""
        ahead, back = features
        inner, outer = variance_formula(*back[:5], constants)
        test, first = back[7].astype(int), np.unique(back[7].astype(int), return_index=True)[1]
        ratio = np.bincount(test, back[5] ** 2) / np.bincount(test, inner + outer)
        ratio = np.clip(ratio, 0, LARGEST)
        curve = back[6].astype(int)[first]
        total = constants.trust + np.bincount(curve, ratio, minlength=len(self.tasks))
        scale = total / (constants.trust + np.bincount(curve, minlength=len(self.tasks)))
        inner, outer = variance_formula(*ahead[:5], constants)
        return np.sqrt(inner + scale[self.curve] * outer)

    def fit_constants(self, features: tuple[Array, ...], families: Sequence[str]) -> IntervalConstants:
        """Least loss under Student's t over the points of these families; then all scaled so that 90 %
        intervals hold `HELD`."""
        kept = np.isin(self.family[self.curve], list(families))
        weight, error = self.point_weight[kept], features[0][5][kept]
        start = np.log([1.0, 0.6, 0.06, 0.001, 4.0, 0.015, 3.0])

        def loss(logs: Array) -> float:
            spread = self.deviation(features, IntervalConstants(*np.exp(logs)))[kept]
            density = np.log(spread) + (DEGREES + 1) / 2 * np.log1p((error / spread) ** 2 / DEGREES)
            return float(np.sum(weight * density) + 0.05 * np.sum((logs - start) ** 2))

        corners = np.vstack([start, start + 0.5 * np.eye(len(start))])
        options = {"maxiter": 1500, "xatol": 0.01, "fatol": 0.005, "initial_simplex": corners}
        a, b, c, e, m, h, trust = np.exp(minimize(loss, start, method="Nelder-Mead", options=options).x)
        constants = IntervalConstants(a, b, c, e, m, h, trust)
        size = np.abs(error) / self.deviation(features, constants)[kept]
        order = np.argsort(size)
        held = np.cumsum(weight[order]) / weight.sum()
        factor = size[order][np.searchsorted(held, HELD)] / student_quantile(DEGREES, 0.95)
        return IntervalConstants(a * factor, b * factor, c * factor, e * factor, m, h * factor, trust)

    def intervals(self, features: tuple[Array, ...], constants: IntervalConstants, family: str) -> dict:
        """Coverage and width of 90 % intervals, whole and by distance, beside the narrowest symmetric
        interval of one width (in ln y) at each distance that holds as many."""
        kept = self.family[self.curve] == family
        half = student_quantile(DEGREES, 0.95) * self.deviation(features, constants)[kept]
        error, distance, weight = features[0][5][kept], self.distance[kept], self.point_weight[kept]
        inside, last, rows = np.abs(error) <= half, 0.0, []
        for times in BINS:
            near = (
                (distance > np.log(last)) & (distance <= np.log(times)) if last else distance <= np.log(times)
            )
            if near.any():
                oracle = 2 * float(np.quantile(np.abs(error[near]), 0.9))
                rows.append((times, float(np.average(inside[near], weights=weight[near])), int(near.sum()),
                             float(2 * half[near].mean()), oracle))  # fmt: skip
            last = times
        return {
            "coverage": float(np.average(inside, weights=weight)), "bins": rows,
            "width": float(np.average(2 * half, weights=weight)),
            "bias": float(np.average(error, weights=weight)),
        }  # fmt: skip


def _misses(tests: Sequence[Record], members: int) -> Array:
    """Mean over back-tests of each member's squared error, in units of the median member's."""
    if not tests:
        return np.ones(members)
    squared = [np.mean(np.clip(test.error, -FARTHEST_MISS, FARTHEST_MISS) ** 2, axis=1) for test in tests]
    return np.mean([one / (np.median(one) + 1e-14) for one in squared], axis=0)


def _features(record: Record, chosen: Sequence[int], weights: Array, index: int, test: int) -> Array:
    values = record.error[list(chosen)]
    mean = weights @ values
    count = np.ones(len(mean))
    noise = scatter(record.own, weights @ record.local[list(chosen)])
    slope, different = abs(min(0.0, trend(record.own))), len(np.unique(record.own.u))
    distance = np.maximum(record.distance, 0)
    spread = weights @ (values - mean) ** 2
    return np.stack([noise * count, slope * count, distance, spread, different * count, mean, index * count,
                     test * count])  # fmt: skip


# --------------------------------------------------------------------------- other measurements


def planted_joint(level: float) -> dict:
    """Joint laws of FLOPs and images, 7 x 8 runs with 2 % noise, forecast beyond both: by kind of law."""
    flops, seen = (a.ravel() for a in np.meshgrid(np.geomspace(1e9, 1e11, 7), np.geomspace(1e7, 1e9, 8)))
    new = np.array([[2e11, 2e9], [4e11, 4e9], [3e10, 4e9], [4e11, 3e8]])
    found = {}
    for kind, share in (("sum", 0.0), ("crossed", 0.2)):
        inside, widths = [], []
        for seed in range(PLANTED_JOINT):
            random = np.random.default_rng(seed)
            size, images, floor = random.uniform((0.2, 0.2, 0.02), (0.5, 0.5, 0.1))

            def law(x: Array, size=size, images=images, floor=floor, share=share) -> Array:
                a, b = (x[:, 0] / 1e9) ** -size, (x[:, 1] / 1e7) ** -images
                return 0.25 * a + 0.35 * b + share * a * b + floor

            x = np.stack([flops, seen], axis=1)
            y, truth = (law(one) * np.exp(0.02 * random.normal(size=len(one))) for one in (x, new))
            ahead = forecast_joint(x, y, new, level)
            inside.append((ahead.low <= truth) & (truth <= ahead.high))
            widths.append(np.log(ahead.high / ahead.low))
        found[kind] = {"coverage": float(np.mean(inside)), "width": float(np.mean(widths))}
    return found


def speed() -> dict:
    """One fit of the saturating law with 1000 bootstrap replicates, by number of points; processor time, best
    of three."""
    found = {}
    for count in (30, 70, 600):
        x = np.geomspace(1, 1e4, count)
        y = (0.6 * (x + 0.5) ** -0.35 + 0.1) * np.exp(0.03 * np.random.default_rng(0).normal(size=count))
        times = []
        for _ in range(3):
            start = time.process_time()
            fit(x, y, bootstrap=1000)
            times.append(time.process_time() - start)
        found[f"fit_{count}_points_s"] = min(times)
    return found


# --------------------------------------------------------------------------- the table


def measure(protocol: Protocol) -> list[dict]:
    """A row a family: blind, and with what the package has now."""
    rows, chosen_by = [], {}
    shipped = [list(protocol.members).index(member) for member in MEMBERS]
    now, features_now = protocol.rmsle(shipped), protocol.features(shipped)
    for family in protocol.families:
        others = tuple(name for name in protocol.families if ORIGIN[name] != ORIGIN[family])
        if others not in chosen_by:
            chosen = protocol.select(others)
            features = protocol.features(chosen)
            chosen_by[others] = chosen, features, protocol.fit_constants(features, others)
        chosen, features, constants = chosen_by[others]
        rows.append({
            "family": family, "curves": int(np.sum(protocol.family == family)), "best": protocol.best[family],
            "rmsle": protocol.rmsle(chosen)[family], "now": now[family],
            **protocol.intervals(features, constants, family),
            "now_interval": protocol.intervals(features_now, CONSTANTS, family),
            "members": [str(protocol.members[i]) for i in chosen], "constants": astuple(constants),
        })  # fmt: skip
    return rows


def print_table(rows: Sequence[dict]) -> None:
    print(
        "settings chosen by the families of other origin; in brackets what the package has now (all families)"
    )
    print(f"{'family':<18}curves  best   blind          coverage     width          bias    "
          "by distance: coverage (points, width / oracle)")  # fmt: skip
    for row in rows:
        bins = "  ".join(f"≤{t:g}×: {c:.2f} ({n}, {w:.3f}/{o:.3f})" for t, c, n, w, o in row["bins"])
        held = row["now_interval"]
        print(
            f"{row['family']:<18}{row['curves']:>5} {row['best']:.4f} {row['rmsle']:.4f} [{row['now']:.4f}]"
            f"  {row['coverage']:.3f} [{held['coverage']:.3f}]  {row['width']:.3f} [{held['width']:.3f}]"
            f"  {row['bias']:+.3f}  {bins}"
        )
    print("blind coverage over families, by distance: " + ", ".join(
        f"≤{times:g}×: {np.mean([c for row in rows for t, c, *_ in row['bins'] if t == times]):.3f}"
        for times in BINS
    ))  # fmt: skip
    for members in dict.fromkeys((tuple(row["members"]), row["constants"]) for row in rows):
        print("chosen: " + "; ".join(members[0]) + " | " + " ".join(f"{value:.3g}" for value in members[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("curves", "tasks", "isoflops"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--candidates", choices=("few", "all"), default="few")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    args = parser.parse_args()
    tasks = [*(benchmark_tasks(args.curves) if args.curves else []),
             *(task_frontiers(args.tasks) if args.tasks else []),
             *(isoflop_tasks(args.isoflops) if args.isoflops else []),
             *paper_tasks(), *planted_tasks()]  # fmt: skip
    protocol = Protocol(tasks, candidates(args.candidates))
    rows = measure(protocol)
    everything = protocol.select(protocol.families)
    features = protocol.features([list(protocol.members).index(member) for member in MEMBERS])
    constants = protocol.fit_constants(features, protocol.families)
    joint, times = planted_joint(0.9), speed()
    if args.json:
        print(json.dumps({"families": rows, "planted_joint": joint, "speed": times}, indent=2))
        return
    print_table(rows)
    print("all families choose: " + "; ".join(str(protocol.members[i]) for i in everything))
    print("constants of all families for the package's members: "
          + " ".join(f"{value:.4g}" for value in astuple(constants)))  # fmt: skip
    for kind, row in joint.items():
        print(f"planted joint laws, {kind}: {row['coverage']:.3f} of {4 * PLANTED_JOINT} inside, "
              f"width {row['width']:.4f}")  # fmt: skip
    print("one fit with 1000 replicates: " + ", ".join(f"{k} {v:.2f}" for k, v in times.items()))


if __name__ == "__main__":
    main()
