"""Suites: what is there is probed, what is not is said, and means are means of tasks."""

import json

import numpy as np
import pytest
from PIL import Image

from scalevit.cli import main
from scalevit.config.run import Model
from scalevit.evals.datasets import open, suites
from scalevit.evals.datasets.builtin import BUILTIN
from scalevit.evals.datasets.suites import SUITES, Suite, open_suite, suite_means
from scalevit.model import weights
from scalevit.model.vit import ViT


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suites") / "model"
    weights.save(
        ViT(Model(shape="Ti/8", width=32, depth=1, mlp=64, heads=2, image=16, classes=0), seed=1), folder
    )
    return str(folder)


def write_folder(folder, support=4, query=2):
    """Stand-in of a data set in folders: two classes, dark and bright."""
    rng = np.random.default_rng(len(folder.name))
    for half, count in (("train", support), ("test", query)):
        for level, name in enumerate(("dark", "light")):
            place = folder / half / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(100 * level, 100 * level + 150, (20, 20, 3), np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")


def test_vtab_has_its_nineteen_tasks_in_three_groups():
    suite = SUITES["vtab"]
    assert [len(names) for names in suite.groups.values()] == [7, 4, 8]
    assert len(set(suite.names)) == 19 and suite.support == 1000


def test_vtab_of_stand_ins_has_means_by_group_and_says_what_is_missing(model, tmp_path, capsys):
    for name in ("dtd", "pets", "eurosat"):
        write_folder(tmp_path / name)
    words = [
        "probe",
        model,
        "--suite",
        "vtab",
        "--root",
        str(tmp_path),
        "--draws",
        "1",
        "--no-cache",
        "--json",
    ]
    assert main.main(words) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert [d["data"] for d in answer["data"]] == ["dtd", "pets", "eurosat"]
    assert answer["protocol"]["shots"] == [0]  # the whole support set
    assert err.count("left out: no ") == 16 and "dtd: 8 support images; vtab has 1000" in err
    own = {m["group"]: m for m in answer["suite"]["means"] if m["model"] and not m["floor"]}
    by_task = {r["data"]: r["mean"] for r in answer["results"] if r["model"] and not r["floor"]}
    assert {g: m["tasks"] for g, m in own.items()} == {"natural": 2, "specialised": 1, "all": 3}
    assert own["natural"]["mean"] == pytest.approx((by_task["dtd"] + by_task["pets"]) / 2)
    assert own["all"]["mean"] == pytest.approx(sum(by_task.values()) / 3)


def test_the_papers_sets_in_any_form(model, tmp_path, capsys):
    rng, y = np.random.default_rng(0), np.arange(80) % 4
    (tmp_path / "cifar100").mkdir()
    for half in ("train", "test"):
        x = rng.integers(0, 250, (80, 12, 12, 3), np.uint8)
        rows = [{"image": {"bytes": png(image)}, "label": int(label)} for image, label in zip(x, y)]
        write_table(tmp_path / "cifar100" / f"{half}.parquet", rows)
    write_folder(tmp_path / "pets", support=5)
    words = [
        "probe",
        model,
        "--suite",
        "paper",
        "--root",
        str(tmp_path),
        "--shots",
        "5",
        "--draws",
        "2",
        "--no-cache",
    ]
    assert main.main(words) == 0
    out, err = capsys.readouterr()
    assert "paper: mean accuracy in % over data sets" in out and " 2 tasks" in out
    assert err.count("left out: no ") == 2


def png(image):
    import io

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_table(path, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


def test_the_small_suite_is_what_is_installed(monkeypatch):
    def absent(name):
        raise ValueError("fashion: not installed here")

    assert SUITES["small"].names == list(BUILTIN)
    monkeypatch.setattr(open, "BUILTIN", {"digits": BUILTIN["digits"], "fashion": absent})
    monkeypatch.setitem(suites.SUITES, "small", Suite({"all": ("digits", "fashion")}, packaged=True))
    told = []
    assert [data.name for data in open_suite("small", None, told.append)] == ["digits"]
    assert told == ["left out: fashion: not installed here"]


def test_a_damaged_set_is_an_error_not_a_gap(tmp_path):
    (tmp_path / "pets" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match="pets"):
        open_suite("paper", tmp_path, lambda text: None)


def test_no_lines_no_suite_means():
    assert suite_means([], SUITES["vtab"]) == []
