"""The doctor's figures against direct measurements, and its advice against made-up machines."""

import time

import pytest
import torch

from scalevit import cli, doctor
from scalevit.config import load

FACTS = {
    "torch": "2", "device": "cpu", "cores": 2, "threads": 2, "gflops": {"fp32": 100.0, "bf16": 400.0},
    "copy_gb_per_second": 30.0, "disk_mb_per_second": 100.0, "compiler": True,
    "packages": dict.fromkeys(doctor.EXTRAS, True),
}  # fmt: skip


def test_the_clock_measures_what_passes():
    assert doctor.seconds(lambda: time.sleep(0.02), most=0.1) == pytest.approx(0.02, rel=0.5)


def test_matrix_products_agree_with_a_plain_loop():
    ours = doctor.matmul_gflops(torch.float32, torch.device("cpu"))
    left, right = torch.randn(512, 512), torch.randn(512, 512)
    plain = 2 * 512**3 / doctor.seconds(lambda: left @ right, most=0.3) / 1e9
    assert plain / 4 < ours < plain * 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "train.precision=bf16: matrix products run 4.0 ×"),
        ({"gflops": {"fp32": 100.0, "bf16": 50.0}}, "train.precision=fp32"),
        ({"threads": 1}, "torch uses 1 of 2 cores"),
        ({"packages": {"simplejpeg": False}}, 'pip install "scalevit[jpeg]"'),
        ({"compiler": False}, "no C++ compiler"),
    ],
)
def test_advice_follows_from_the_facts(change, said):
    assert any(said in line for line in doctor.advice({**FACTS, **change}))


def test_a_good_machine_needs_no_advice():
    assert doctor.advice({**FACTS, "gflops": {"fp32": 100.0, "bf16": 120.0}}) == []


def test_the_slower_side_is_named():
    run = load("demo", ["train.batch=8"])
    slow_data = {
        "step_seconds": 0.1,
        "batch_seconds": 0.3,
        "images_per_second": 20.0,
        "limited_by": "the data",
    }
    assert "limited by the data" in doctor.verdict(run, slow_data)
    assert "data.workers=1 should give 1.33 ×" in doctor.verdict(run, slow_data)


def test_the_command_examines_a_run(capsys):
    assert cli.main(["doctor", "demo", "train.batch=8", "model.depth=1"]) == 0
    text = capsys.readouterr().out
    assert "GFLOP/s" in text
    assert "demo: limited by" in text
