"""`scalevit compare` on tables and studies: what is printed, drawn, and refused."""

import csv
import json

import numpy as np
import pandas as pd
import pretend_study
import pytest

import scalevit as sv
from scalevit.cli.main import main


def table(path, data=lambda recipe: "1k", rows=18):
    generator = np.random.default_rng(0)
    with path.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["recipe", "flops", "error", "trained_on"])
        for recipe, worth in (("adam", 1.0), ("muon", 1.5)):
            for x in np.geomspace(1e12, 1e15, rows):
                noise = np.exp(0.02 * generator.standard_normal())
                writer.writerow([recipe, x, (0.5 * (worth * x / 1e12) ** -0.2 + 0.02) * noise, data(recipe)])
    return path


COLUMNS = ["--recipe", "recipe", "--x", "flops", "--y", "error"]


def test_a_table_gives_a_verdict_a_multiplier_and_a_figure(tmp_path, capsys):
    figure = tmp_path / "deep" / "laws.svg"
    words = ["compare", str(table(tmp_path / "runs.csv")), *COLUMNS, "--out", str(figure), "--json"]
    assert main(words) == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert pair["name"] == "muon" and pair["verdict"] == "better" and pair["next"] is None
    middle = pair["multiplier"][len(pair["multiplier"]) // 2]
    assert middle["low"] <= 1.5 <= middle["high"] and middle["needs"] == pytest.approx(1 / middle["worth"])
    assert figure.read_text().lstrip().startswith("<?xml")


def test_recipes_that_differ_in_data_are_never_simply_better(tmp_path, capsys):
    path = table(tmp_path / "runs.csv", data=lambda recipe: "1k" if recipe == "adam" else "2k")
    assert main(["compare", str(path), *COLUMNS, "--data", "trained_on"]) == 0
    assert "but they differ in data as well (adam: 1k; muon: 2k)" in capsys.readouterr().out


def test_a_data_frame_is_a_table(tmp_path):
    frame = pd.read_csv(table(tmp_path / "runs.csv"))
    result = sv.compare(frame, columns=sv.CompareColumns("recipe", "flops", "error"), base="muon")
    assert result.base == "muon" and result.pairs[0].verdict.kind == "worse"


def test_two_studies_are_compared_by_their_folders(tmp_path, capsys, monkeypatch):
    pretend_study.write(tmp_path / "a")
    monkeypatch.setattr(pretend_study, "A", 0.8 * pretend_study.A)
    pretend_study.write(tmp_path / "b")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    (pair,) = data["pairs"]
    assert data["base"] == "a" and pair["name"] == "b" and data["unit"] == "training FLOPs"
    assert pair["verdict"] == "better"
    # 0.8 of the amplitude is worth a multiple of the compute: (1 / 0.8) ** (1 / B)
    middle = pair["multiplier"][len(pair["multiplier"]) // 2]
    assert middle["worth"] == pytest.approx(0.8 ** (-1 / pretend_study.B), rel=0.1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.csv"], "no such folder or file"),
        (["runs.csv"], "--recipe"),
        (["runs.csv", "--recipe", "recipe", "--x", "flops"], "--y COLUMN"),
        (["runs.csv", "--recipe", "recipes", "--x", "flops", "--y", "error"], "nearest: recipe"),
        (["runs.csv", *COLUMNS, "--base", "sgd"], "no recipe is called 'sgd'"),
        (["runs.csv", *COLUMNS, "--level", "2"], "between 0 and 1"),
        (["runs.csv", "runs.csv", *COLUMNS], "not several tables"),
        (["short.csv", *COLUMNS], "3 different computes"),
    ],
)
def test_what_cannot_be_compared_ends_in_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "runs.csv")
    table(tmp_path / "short.csv", rows=3)
    assert main(["compare", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out
