"""Figures: each has its data beside it, and the data are the runs'."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from pretend_study import law, write

from scalevit.study.launch.study_folder import SPEC
from scalevit.study.report import figures, plots, results
from scalevit.study.report.frontier_law import frontier_law
from scalevit.study.report.held_out_forecast import forecast_held_out


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "demo"
    nodes = write(folder)
    forecast_held_out(folder, results.grid.read_spec(folder / SPEC), nodes)
    found = results.read_results(folder)
    return found, figures.draw(found, folder / "figures")


def rows(drawn, name):
    path = next(path for path in drawn[1] if path.name == f"{name}.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def shown(found, points, beside=()):
    points = [*points]
    return plots.FigureInput(found, points, frontier_law(points), plots.plot_style(points), beside)


def test_every_figure_is_a_picture_for_screens_two_for_papers_and_a_table(drawn):
    names = {path.name for path in drawn[1]}
    drawn_here = {*figures.FIGURES} - {"figure5_decay", "figure5_recipes"}
    assert names == {f"{name}.{kind}" for name in drawn_here for kind in ("png", "svg", "pdf", "csv")}
    assert all(path.stat().st_size > 100 for path in drawn[1])
    assert all(path.read_bytes()[:4] == b"%PDF" for path in drawn[1] if path.suffix == ".pdf")


def test_figure_1_is_the_best_run_of_each_model_by_examples_a_class_and_the_floors(drawn):
    table = rows(drawn, "figure1_shots")
    assert {row["run"] for row in table if row["what"] == "run"} == {
        f"{model}-fresh-600" for model in ("32x2", "64x3", "96x4")
    }
    pixels = {int(row["x"]): float(row["error"]) for row in table if row["what"] == "raw pixels"}
    assert pixels == pytest.approx({1: 0.4, 10: 0.4})


def test_figure_6_holds_every_run_of_the_largest_models_by_steps(drawn):
    table = rows(drawn, "figure6_more_images")
    expected = {p.facts.run: (p.facts.steps, p.error) for p in drawn[0].of(("digits", 10))}
    assert {row["run"]: (int(row["x"]), float(row["error"])) for row in table} == expected


def test_figure_9_fits_a_law_to_every_task(drawn):
    table = rows(drawn, "figure9_tasks")
    assert {(row["dataset"], row["shots"]) for row in table if row["what"] == "run"} == {
        ("digits", "1"), ("digits", "10"),
    }  # fmt: skip
    assert sum(row["what"] == "law" for row in table) == 2 * 120


def test_figure_5_ranks_recipes_by_their_mean_over_seeds(drawn):
    found = drawn[0]
    top = [p for p in found.of(("digits", 10)) if p.facts.steps == 600][:4]
    named = [
        replace(p, error=error, facts=replace(p.facts, recipe=recipe))
        for p, (recipe, error) in zip(top, [("a", 0.3), ("b", 0.1), ("a", 0.5), ("b", 0.12)])
    ]
    sheet = figures.recipes(shown(found, named))
    means = [(row["recipe"], row["error"]) for row in sheet.rows if row["what"] == "mean"]
    assert means == [("b", pytest.approx(0.11)), ("a", pytest.approx(0.4))]
    assert figures.recipes(shown(found, found.of(("digits", 10)))) is None


def test_points_of_other_origin_stand_beside_on_the_same_task_only(drawn):
    found = drawn[0]
    other = replace(found, title="elsewhere", points=tuple(replace(p, error=0.7) for p in found.points))
    sheet = figures.compute(shown(found, found.of(("digits", 1)), beside=[other]))
    others = [row for row in sheet.rows if row["what"] == "elsewhere"]
    assert len(others) == 18 and {(row["shots"], row["error"]) for row in others} == {(1, 0.7)}


def test_figure_2_holds_every_run_the_law_and_the_forecast(drawn):
    table = rows(drawn, "figure2_compute")
    runs = {row["run"]: row for row in table if row["what"] == "run"}
    for point in drawn[0].of(("digits", 10)):
        assert float(runs[point.facts.run]["x"]) == pytest.approx(point.facts.compute)
        assert float(runs[point.facts.run]["error"]) == pytest.approx(point.error)
    curve = [(float(row["x"]), float(row["error"])) for row in table if row["what"] == "law"]
    inside = [(x, y) for x, y in curve if 2e11 < x < 1e13]
    assert [y for _, y in inside] == pytest.approx([law(x) for x, _ in inside], rel=0.05)
    assert sum(row["what"] == "forecast" for row in table) == 1


def test_figure_2_keeps_the_best_run_of_each_model(drawn):
    best = [row for row in rows(drawn, "figure2_compute") if row["what"] == "best"]
    sizes = [row for row in best if row["model"] and float(row["x"]) < 1e3]
    assert {row["run"] for row in sizes} == {"32x2-fresh-600", "64x3-fresh-600", "96x4-fresh-600"}


def test_figure_3_shows_only_the_most_unique_images(drawn):
    assert {row["images"] for row in rows(drawn, "figure3_images_seen")} == {"0"}


def test_figure_7_draws_the_rates_that_were_used(drawn):
    table = [row for row in rows(drawn, "figure7_schedules") if row["what"] == "rate"]
    of = {row["run"]: [] for row in table}
    for row in table:
        of[row["run"]].append((int(row["x"]), float(row["rate"])))
    short, long = of["96x4-fresh-300"], of["96x4-fresh-600"]
    assert short[-1] == (300, 0) and long[-1] == (600, 0)
    assert np.interp(150, *zip(*short)) == pytest.approx(np.interp(150, *zip(*long)), rel=1e-2)


def test_figure_5_maps_the_accuracy_of_every_pair_of_decays_where_both_were_varied(drawn, tmp_path):
    found, point = drawn[0], drawn[0].of(("digits", 10))[0]
    assert figures.decays(shown(found, [point])) is None
    grid = [(head, body) for head in (0.0, 3.0) for body in (0.1, 1.0)]
    points = [
        replace(
            point, error=0.1 + head + body / 10, facts=replace(point.facts, head_decay=head, body_decay=body)
        )
        for head, body in grid
    ]
    sheet = figures.decays(shown(found, points))
    assert {(row["head"], row["x"]): row["error"] for row in sheet.rows} == pytest.approx(
        {(head, body): 0.1 + head + body / 10 for head, body in grid}
    )
    scores = sheet.panels[0].images[0].get_array()
    assert scores[1, 0] == pytest.approx(1 - 0.1 - 3.0 - 0.01)


def test_models_run_from_blue_to_orange_and_more_images_are_larger(drawn):
    look = plots.plot_style(drawn[0].of(("digits", 10)))
    assert [*look.colours] == ["32x2", "64x3", "96x4"]
    blue, red = look.colours["32x2"], look.colours["96x4"]
    assert blue[2] > blue[0] and red[0] > red[2]
    assert look.areas[2048] < look.areas[0]


def test_nothing_to_draw_draws_nothing(tmp_path):
    empty = results.Results("t", (), (), (), {}, {})
    assert figures.draw(empty, tmp_path / "f") == [] and not (tmp_path / "f").exists()
