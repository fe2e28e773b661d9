"""Figures: each has its data beside it, and the data are the runs'."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from pretend_study import law, write

from scalevit.study import figures, results


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "demo"
    nodes = write(folder)
    results.foresee(folder, results.grid.read(folder / results.SPEC), nodes)
    found = results.read(folder)
    return found, figures.draw(found, folder / "figures")


def rows(drawn, name):
    path = next(path for path in drawn[1] if path.name == f"{name}.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_figure_is_a_picture_for_screens_one_for_papers_and_a_table(drawn):
    names = {path.name for path in drawn[1]}
    drawn_here = {*figures.FIGURES} - {"figure5_decay"}
    assert names == {f"{name}.{kind}" for name in drawn_here for kind in ("png", "svg", "csv")}
    assert all(path.stat().st_size > 100 for path in drawn[1])


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
    law, look = results.law_of([point]), figures.look_of([point])
    assert figures.decays(found, [point], law, look) is None
    grid = [(head, body) for head in (0.0, 3.0) for body in (0.1, 1.0)]
    points = [
        replace(
            point, error=0.1 + head + body / 10, facts=replace(point.facts, head_decay=head, body_decay=body)
        )
        for head, body in grid
    ]
    sheet = figures.decays(found, points, law, look)
    assert {(row["head"], row["x"]): row["error"] for row in sheet.rows} == pytest.approx(
        {(head, body): 0.1 + head + body / 10 for head, body in grid}
    )
    scores = sheet.panels[0].images[0].get_array()
    assert scores[1, 0] == pytest.approx(1 - 0.1 - 3.0 - 0.01)


def test_models_run_from_blue_to_red_and_more_images_are_larger(drawn):
    look = figures.look_of(drawn[0].of(("digits", 10)))
    assert [*look.colours] == ["32x2", "64x3", "96x4"]
    blue, red = look.colours["32x2"], look.colours["96x4"]
    assert blue[2] > blue[0] and red[0] > red[2]
    assert look.areas[2048] < look.areas[0]


def test_nothing_to_draw_draws_nothing(tmp_path):
    empty = results.Results("t", (), (), (), {}, {})
    assert figures.draw(empty, tmp_path / "f") == [] and not (tmp_path / "f").exists()
