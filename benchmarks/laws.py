"""How well laws forecast: extrapolation error, coverage and width of 90 % intervals, speed.

    OMP_NUM_THREADS=1 python benchmarks/laws.py --curves learning_curves.csv [--json]

The CSV is the public benchmark of arXiv 2209.06640 with the columns domain, task, model, x, y, train (1: to
fit, 0: to forecast). Of each curve, the error is the root mean square of ln forecast - ln truth on the points
to forecast; then the mean over curves. Related curves are the training parts of the same domain's curves that
do not share the data set (image) or the model (language) with the one forecast.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np

from scalevit.study.laws.fit import fit
from scalevit.study.laws.forecast import forecast
from scalevit.study.laws.joint import forecast_joint

IMAGE, LANGUAGE = ("IC",), ("LM", "NMT")
PLANTED, PLANTED_NOISE, PLANTED_JOINT = 200, 0.01, 40


def read(path: Path) -> dict[tuple[str, str, str], tuple[np.ndarray, ...]]:
    """Curve -> (x, y) to fit and (x, y) to forecast, each x once."""
    found: dict[tuple[str, str, str], dict[float, tuple[float, bool]]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            points = found.setdefault((row["domain"], row["task"], row["model"]), {})
            points.setdefault(float(row["x"]), (float(row["y"]), row["train"] == "1"))
    curves = {}
    for key, points in found.items():
        x = np.array(sorted(points))
        y, train = (np.array([points[value][i] for value in x]) for i in (0, 1))
        curves[key] = (x[train], y[train], x[~train], y[~train])
    return curves


def unrelated(key: tuple[str, str, str]) -> tuple[str, str]:
    """What two curves must not share to be related: the data set of images, the model of language."""
    domain, task, model = key
    return domain, task.split("_")[0] if domain == "IC" else model


def measure(curves: dict, related: bool, level: float) -> list[dict]:
    """One row a curve."""
    rows = []
    for key, (x, y, x_new, y_new) in curves.items():
        others = [
            curve[:2] for other, curve in curves.items()
            if other[0] == key[0] and unrelated(other) != unrelated(key)
        ]  # fmt: skip
        start = time.process_time()
        found = forecast(x, y, x_new, level, others if related else [])
        seconds = time.process_time() - start
        inside = (found.low <= y_new) & (y_new <= found.high)
        rows.append({
            "domain": key[0], "curve": " ".join(key[1:]), "points": len(y_new), "inside": int(inside.sum()),
            "rmsle": float(np.sqrt(np.mean(np.log(found.mean / y_new) ** 2))),
            "width": float(np.mean(np.log(found.high / found.low))), "seconds": seconds,
        })  # fmt: skip
    return rows


def summary(rows: list[dict], domains: tuple[str, ...]) -> dict:
    """Means over the curves of some domains; coverage over curves and over points."""
    kept = [row for row in rows if row["domain"] in domains]
    return {
        "curves": len(kept),
        "rmsle": float(np.mean([row["rmsle"] for row in kept])),
        "coverage_curves": float(np.mean([row["inside"] / row["points"] for row in kept])),
        "coverage_points": sum(row["inside"] for row in kept) / sum(row["points"] for row in kept),
        "width": float(np.mean([row["width"] for row in kept])),
        "slowest_s": max(row["seconds"] for row in kept),
    }


def planted(level: float) -> dict:
    """Laws a (x + d)^-b + c with known noise: do intervals hold a new measurement at 2x and 4x?"""
    inside, widths = [], []
    for seed in range(PLANTED):
        random = np.random.default_rng(seed)
        b, c, d = random.uniform(0.2, 0.8), random.uniform(0.0, 0.2), random.uniform(0.1, 3)
        points = int(random.integers(12, 40))
        x = np.append(np.geomspace(1, 300, points), [600, 1200])
        y = (0.6 * (x + d) ** -b + c) * np.exp(PLANTED_NOISE * random.normal(size=len(x)))
        found = forecast(x[:-2], y[:-2], x[-2:], level)
        inside += [(found.low <= y[-2:]) & (y[-2:] <= found.high)]
        widths += [np.log(found.high / found.low)]
    near, far = np.mean(inside, axis=0)
    return {"coverage": float(np.mean(inside)), "coverage_2x": float(near), "coverage_4x": float(far),
            "width": float(np.mean(widths)), "laws": PLANTED}  # fmt: skip


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

            def law(x: np.ndarray, size=size, images=images, floor=floor, share=share) -> np.ndarray:
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
    for points in (30, 70, 600):
        x = np.geomspace(1, 1e4, points)
        y = (0.6 * (x + 0.5) ** -0.35 + 0.1) * np.exp(0.03 * np.random.default_rng(0).normal(size=points))
        times = []
        for _ in range(3):
            start = time.process_time()
            fit(x, y, bootstrap=1000)
            times.append(time.process_time() - start)
        found[f"fit_{points}_points_s"] = min(times)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--level", type=float, default=0.9)
    parser.add_argument("--json", action="store_true", help="every curve, as JSON")
    args = parser.parse_args()
    curves = read(args.curves)
    modes = {"related": measure(curves, True, args.level), "single": measure(curves, False, args.level)}
    law, joint, times = planted(args.level), planted_joint(args.level), speed()
    if args.json:
        print(json.dumps({"modes": modes, "planted": law, "planted_joint": joint, "speed": times}, indent=2))
        return
    head = ("rmsle", 9), ("cover/curve", 13), ("cover/point", 13), ("width", 8), ("slowest", 10)
    print(f"{'mode':<9}{'domain':<10}curves" + "".join(f"{name:>{wide}}" for name, wide in head))
    for mode, rows in modes.items():
        for name, domains in (("IC", IMAGE), ("LM", ("LM",)), ("NMT", ("NMT",)), ("language", LANGUAGE)):
            s = summary(rows, domains)
            print(
                f"{mode:<9}{name:<10}{s['curves']:>6}{s['rmsle']:>9.4f}{s['coverage_curves']:>13.3f}"
                f"{s['coverage_points']:>13.3f}{s['width']:>8.4f}{s['slowest_s']:>8.1f}s"
            )
    print(
        f"planted laws: {law['coverage']:.3f} of {2 * law['laws']} new measurements inside "
        f"(2x {law['coverage_2x']:.3f}, 4x {law['coverage_4x']:.3f}), width {law['width']:.4f}"
    )
    for kind, row in joint.items():
        print(
            f"planted joint laws, {kind}: {row['coverage']:.3f} of {4 * PLANTED_JOINT} inside, "
            f"width {row['width']:.4f}"
        )
    print("one fit with 1000 replicates: " + ", ".join(f"{k} {v:.2f}" for k, v in times.items()))


if __name__ == "__main__":
    main()
