"""Speeds of a bench file: taken as they are for the same model, carried over by FLOP/s for others."""

import json

import pytest

from scalevit.cli import main
from scalevit.config.load import load
from scalevit.config.model_sizes import shape
from scalevit.study.planning.measured_speeds import read_bench
from scalevit.study.planning.plan import plan


def row(model, speed, **other):
    return {
        "model": model, "image": 224, "precision": "bf16", "work": "train", "candidate": "scalevit",
        "images_per_second": speed, "ceiling_gflops": 600_000.0, **other,
    }  # fmt: skip


ROWS = [
    row("Ti/16", 8000.0), row("L/16", 600.0), row("L/16", 700.0, candidate="scalevit compiled"),
    row("L/16", 900.0, candidate="timm"), row("S/16", 9000.0, work="infer"),
]  # fmt: skip


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({"device": "NVIDIA H100 80GB HBM3", "rows": ROWS, "missing": {}}))
    return path


def test_the_same_model_gets_its_own_speed(file):
    run = load("paper/L16")
    made = plan(run, device_name="l4", devices=8, bench=read_bench(file))
    assert made.device.name == "h100" and made.speed.images_per_second == 600
    assert made.hours == pytest.approx(made.images / 600 / 8 / 3600)
    assert "bench.json" in made.speed.source
    assert (
        plan(load("paper/L16", ["train.compile=true"]), bench=read_bench(file)).speed.images_per_second == 700
    )


def test_another_model_gets_flops_per_second_between_its_neighbours(file):
    flops, bench = (lambda name: shape(name).flops()), read_bench(file)
    found, source = bench.images_per_second(load("paper/B16"), shape("B/16"))
    low, high = 8000 * flops("Ti/16"), 600 * flops("L/16")
    assert min(low, high) < found * flops("B/16") < max(low, high)
    assert "FLOP/s of" in source
    larger, _ = bench.images_per_second(load("paper/g14"), shape("g/14"))
    assert larger * flops("g/14") == pytest.approx(high)


def test_what_was_not_measured_is_said(file):
    source = read_bench(file).images_per_second(load("paper/L16", ["train.precision=fp32"]), shape("L/16"))[1]
    assert "no row with precision fp32" in source


def test_a_machine_that_no_table_knows_is_measured_by_its_own_ceiling(tmp_path, capsys):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({"model": {"device": "Some CPU", "rows": [row("Ti/16", 12.0)]}}))
    assert main.main(["plan", "paper/Ti16", "--bench", str(path)]) == 0
    text = capsys.readouterr().out
    assert "on each Some CPU" in text and "12 images/s" in text and "energy unknown" in text
    assert main.main(["plan", "--bench", str(path), "--days", "3000", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["plan"]["kilowatt_hours"] is None
    assert told["budget"]["device"] == "Some CPU"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not a file of `scalevit bench model --json`"),
        ("[1, 2]", "no rows"),
        ('{"rows": [3]}', "a row lacks model"),
        (json.dumps({"rows": [row("Ti/16", 0)]}), "is not above 0"),
        (json.dumps({"rows": [row("Ti/16", 5.0, work="infer")]}), "no row of work=train"),
        (json.dumps({"rows": [row("Xi/16", 5.0)]}), "Xi/16"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, capsys, content, said):
    path = tmp_path / "bench.json"
    path.write_text(content)
    assert main.main(["plan", "demo", "--bench", str(path)]) == 2
    told = capsys.readouterr().err
    assert said in told and len(told.splitlines()) == 1


def test_another_device_is_refused(file, capsys):
    assert main.main(["plan", "demo", "--bench", str(file), "--gpu", "a100"]) == 2
    assert "was measured on NVIDIA H100" in capsys.readouterr().err
    assert main.main(["plan", "demo", "--bench", str(file), "--gpu", "h100"]) == 0
