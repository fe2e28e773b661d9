"""What the page on the ablations says is what the records that were kept hold."""

from pathlib import Path

import numpy as np
import pytest

from scalevit.study.report import external

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "ablations.md").read_text()
TASK = ("digits", 10)


def longest(name):
    """The ten-shot points of a study's longest runs."""
    points = external.read(ROOT / "benchmarks" / "ablations" / f"{name}.csv").of(TASK)
    assert points
    return [p for p in points if p.facts.steps == max(q.facts.steps for q in points)]


def section(name):
    return PAGE.split(f"## `{name}`")[1].split("\n## ")[0]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("heads", {"token": "class token", "gap": "mean (GAP)", "map": "attention (MAP)"}),
        (
            "optimizers",
            {"sgd": "SGD", "adam": "Adam, rate", "adam-bf16": "Adam, bf16", "adafactor": "Adafactor"},
        ),
    ],
)
def test_means_and_spreads_over_seeds(name, rows):
    for recipe, title in rows.items():
        errors = [100 * p.error for p in longest(name) if p.facts.recipe == recipe]
        line = next(line for line in section(name).splitlines() if line.startswith(f"| {title}"))
        assert f"{np.mean(errors):.1f} % ± {np.std(errors, ddof=1):.1f}" in line


def test_bytes_of_the_optimizers_state():
    """As the table says, and as a study of today counts them."""
    from scalevit.config.memory import optimizer_bytes
    from scalevit.study.design import grid

    runs = {node.recipe: node.run for node in grid.expand(grid.load("optimizers"))}
    shown = [line.split(" | ")[2] for line in section("optimizers").splitlines() if " MB " in line]
    order = ("sgd", "adam", "adam-bf16", "adafactor")
    counted = [optimizer_bytes(runs[name], runs[name].model.resolve()) / 1e6 for name in order]
    assert shown == [f"{size:.2f} MB" for size in counted]


def test_the_heat_map_of_decays():
    table = [line for line in section("head-decay").splitlines() if line.startswith("| **")]
    shown = [float(cell.strip(" *")) for line in table for cell in line.strip("|").split("|")[1:]]
    of = {p.facts.recipe: 100 * p.error for p in longest("head-decay")}
    order = sorted(of, key=lambda name: [float(part.strip("headboy")) for part in name.split("_")])
    assert shown == [round(of[name], 1) for name in order] and len(shown) == 16


def test_errors_by_schedule():
    for point in longest("schedules"):
        name = {"rsqrt": "reciprocal\nsquare root"}.get(point.facts.recipe, point.facts.recipe)
        words = " ".join(section("schedules").split())
        assert f"{' '.join(name.split())} {100 * point.error:.1f} %" in words


@pytest.mark.parametrize(("name", "column"), [("sample-efficiency", "seen"), ("data-size", "images")])
def test_tables_of_models(name, column):
    points = external.read(ROOT / "benchmarks" / "ablations" / f"{name}.csv").of(TASK)
    points = points if column == "seen" else longest(name)
    for model in {p.facts.model for p in points}:
        mine = sorted((getattr(p.facts, column), p.error) for p in points if p.facts.model == model)
        line = next(
            line for line in section(name).splitlines() if line.startswith(f"| {model.replace('x', ' × ')}")
        )
        assert line.strip("| ").split(" | ")[1:] == [f"{100 * error:.1f}" for _, error in mine]
