"""Errors expected by a study of one's own."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pretend_study import SPEC, write

from scalevit import config
from scalevit.cli import main
from scalevit.study.planning import expected_error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("mine") / "mine"
    write(home)
    return home


def test_a_studys_own_runs_are_expected_as_they_ended(folder):
    laws = expected_error.study_laws(folder)
    assert next(iter(laws.tasks)) == "digits_10shot"
    from scalevit.study.report import results

    found = results.read_results(folder)
    held = []
    for point in found.of(("digits", 10)):
        run = config.load(f"{point.facts.folder}/run.yaml")
        told = laws.predict_run(
            "digits_10shot", run.model.resolve(), run.model, point.facts.seen, point.facts.unique
        )
        assert told.error == pytest.approx(point.error, rel=0.12)
        held.append(told.low < point.error < told.high)
    assert np.mean(held) > 0.75


def test_a_plan_says_that_the_study_spoke(folder, capsys):
    run = next(path for path in sorted((folder / "runs").iterdir())) / "run.yaml"
    assert main.main(["plan", str(run), "--study", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["expected"]) == {"digits_1shot", "digits_10shot"}
    assert told["expected_from"].endswith(f"runs of {folder}")
    assert main.main(["plan", "paper/G14", "--study", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "imagenet" not in text and "extrapolate beyond the" in text


def test_the_best_shape_stays_near_what_the_study_saw(folder, capsys):
    laws = expected_error.study_laws(folder)
    assert main.main(["plan", "--study", str(folder), "--gpus", "8", "--days", "0.5"]) == 2
    assert "say nothing" in capsys.readouterr().err
    assert laws.largest < 1e9


def test_a_study_without_repeated_images_knows_nothing_of_them(tmp_path):
    write(tmp_path / "fresh", replace(SPEC, images=(0,)))
    laws = expected_error.study_laws(tmp_path / "fresh")
    assert laws.tasks["digits_10shot"].form.inputs == 2
    assert any("seen again" in note for note in laws.notes)


@pytest.mark.parametrize("what", ["empty", "two models"])
def test_a_study_that_carries_no_law_is_said_to(tmp_path, capsys, what):
    folder = tmp_path / "few"
    folder.mkdir()
    if what == "two models":
        write(folder, replace(SPEC, models=SPEC.models[:2]))
    assert main.main(["plan", "demo", "--study", str(folder)]) == 2
    told = capsys.readouterr().err
    assert "no law: " in told and len(told.splitlines()) == 1
    assert ("2 groups" in told) == (what == "two models")


def test_papers_laws_take_arrays():
    laws = expected_error.paper_laws()
    errors = laws.errors("imagenet_10shot", np.array([1e10, 1e11]), np.array([[1e9], [1e10]]), 3e9)
    assert errors.shape == (2, 2) and np.all(np.diff(errors, axis=0) < 0)
