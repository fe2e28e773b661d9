"""Reports of strangers' run folders: damaged files cost themselves, links and markup do nothing."""

import base64
import csv
import json
import shutil

import pretend_study
import pytest

from scalevit import config
from scalevit.artifacts import records
from scalevit.study.report import html, plots
from scalevit.study.report.results import read_results
from scalevit.study.report.run_images import run_images
from scalevit.study.report.untrusted_text import csv_cell, plain_text


@pytest.fixture
def runs(tmp_path):
    """Two finished runs of one name that differ in their seed, each with a curve of its own."""
    folder = tmp_path / "runs"
    for seed in (0, 1):
        home = folder / f"run{seed}"
        home.mkdir(parents=True)
        short = ["schedule.steps=20", "schedule.warmup=5", "schedule.cooldown=5"]
        run = config.load("demo", [f"train.seed={seed}", *short])
        (home / "run.yaml").write_text(config.dump(run))
        base = {"run": config.run_id(run), "parent": None, "seed": seed, "shots": None, "dataset": "strokes"}
        rows = [{**base, "kind": "train", "step": s, "metric": "loss", "value": seed + 1.0} for s in (10, 20)]
        probe = {**base, "kind": "probe", "dataset": "digits", "shots": 10, "step": 20, "metric": "accuracy"}
        rows += [{**probe, "value": 0.5 + 0.1 * seed}]
        rows += [{**base, "kind": "run", "step": 20, "metric": "seconds", "value": 9.0, "memory": seed + 1.0}]
        records.append_records(home, rows)
    return folder


def page_of(folder):
    return pretend_study.payload(html.render([read_results(folder)]))[0]


def test_two_runs_of_one_name_have_their_own_curves_memory_and_labels(runs):
    shown = page_of(runs)["runs"]
    assert [run["run"] for run in shown] == ["demo (seed 0)", "demo (seed 1)"]
    assert [run["memory"] for run in shown] == [1.0, 2.0]
    assert [{loss for _, loss in run["curve"]} for run in shown] == [{1.0}, {2.0}]


def test_a_copy_of_a_run_is_told_from_it_by_its_folder(runs):
    shutil.copytree(runs / "run1", runs / "copy")
    labels = {run["run"] for run in page_of(runs)["runs"]}
    assert labels == {"demo (copy)", "demo (run0)", "demo (run1)"}


@pytest.mark.parametrize(
    "line",
    ['{"kind": "probe", "metric": "accuracy", "value": "x"}', "[" * 10_000, '{"kind": 3}', '"text"', "{"],
)
def test_a_bad_line_costs_itself_and_is_noted(runs, line):
    path = runs / "run0" / records.FILE
    path.write_text(f"{line}\n{path.read_text()}")
    found = read_results(runs)
    assert len(found.points) == 2
    assert any("no valid record" in note and "run0" in note for note in found.notes)


def test_an_unreadable_run_yaml_costs_its_run_and_is_noted(runs):
    (runs / "run0" / "run.yaml").write_text("a: [")
    found = read_results(runs)
    assert [facts.seed for facts in found.facts] == [1]
    assert any("cannot be read" in note and "run0" in note for note in found.notes)


def test_an_accuracy_above_one_is_no_result(runs):
    records.append_records(
        runs / "run0",
        [{"run": "x", "kind": "probe", "dataset": "digits", "shots": 10, "step": 20, "metric": "accuracy",
          "value": 3.0, "seed": 9}],
    )  # fmt: skip
    found = read_results(runs)
    assert sorted(point.error for point in found.points) == pytest.approx([0.4, 0.5])
    assert any("no accuracy" in note for note in found.notes)


def test_types_that_the_page_does_not_expect_are_left_out_of_it(runs):
    odd = {"run": "x", "kind": "run", "step": 20, "metric": "seconds", "value": 1.0, "memory": "<b>",
           "versions": ["torch"], "command": {"a": 1}, "images_per_second": True}  # fmt: skip
    records.append_records(runs / "run0", [odd])
    first = page_of(runs)["runs"][0]
    assert first["memory"] is None and first["speed"] is None


def test_pictures_that_are_links_or_no_png_stay_out_of_the_page(runs, tmp_path):
    secret = tmp_path / "id_rsa"
    secret.write_bytes(b"\x89PNG\r\n\x1a\nSECRET")
    folder = runs / "run0" / "pictures"
    folder.mkdir()
    (folder / "link.png").symlink_to(secret)
    (folder / "text.png").write_bytes(b"no picture")
    (folder / "own.png").write_bytes(b"\x89PNG\r\n\x1a\nown")
    shown = run_images([runs])
    assert [picture.name for picture in shown] == ["own"]
    assert b"own" in base64.b64decode(shown[0].base64)


def test_a_page_is_not_written_through_a_link(runs, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("# mine")
    (runs / "report.html").symlink_to(mine)
    html.write([read_results(runs)], runs / "report.html")
    assert mine.read_text() == "# mine" and "<html" in (runs / "report.html").read_text()


def test_names_lose_escapes_folders_and_secrets():
    assert "\x1b" not in plain_text("n\x1b]0;x\x07\nname") and "\n" not in plain_text("a\nb")
    assert plain_text("scalevit pretrain /home/ann/x/run.yaml --out /tmp/a/b") == (
        "scalevit pretrain run.yaml --out b"
    )
    assert plain_text("s3://bucket/folder/x") == "s3://bucket/folder/x"
    assert "word" not in plain_text("https://me:word@host/x")


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "\tx"])
def test_a_csv_cell_starts_no_formula(tmp_path, text):
    assert csv_cell(text) == f"'{text}" and csv_cell(-1.5) == -1.5
    sheet = plots.sheet_of(1)
    sheet.panels[0].set_title("a $\\frac{ b")
    sheet.rows.append({"run": text, "error": 0.5})
    paths = plots.save(sheet, tmp_path / "figure")
    with paths[3].open(newline="") as file:
        assert next(csv.DictReader(file))["run"] == f"'{text}"
    assert all(path.stat().st_size for path in paths)


def test_a_page_holds_no_markup_of_a_name(runs):
    text = (runs / "run0" / "run.yaml").read_text().replace("name: demo", 'name: "</script><b>x"')
    (runs / "run0" / "run.yaml").write_text(text)
    page = html.render([read_results(runs)])
    assert "</script><b>x" not in page and json.dumps("x")
