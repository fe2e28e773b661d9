"""The doctor's figures against direct measurements, and its advice against made-up machines."""

import time

import numpy as np
import pytest
import torch

from scalevit.cli import main
from scalevit.data.crops import train_view
from scalevit.data.procedural.hashing import key
from scalevit.kernels.cpu import build
from scalevit.tools import doctor
from scalevit.tools.bench.data import photographs

FACTS = {
    "torch": "2", "device": "cpu", "cores": 2, "threads": 2, "gflops": {"fp32": 100.0, "bf16": 400.0},
    "compile_fails": None, "native_kernels": True, "openmp_spinning": "bounded",
    "packages": dict.fromkeys(doctor.EXTRAS, True),
}  # fmt: skip


def test_the_median_is_of_calls_after_a_warm_one(monkeypatch):
    """By a clock of its own: the first call, which warms up, takes longest and does not count."""
    now, lasts = [0.0], iter([100.0, 2.0, 1.0, 9.0, *[3.0] * 100])

    def work():
        now[0] += next(lasts)

    monkeypatch.setattr(doctor.time, "perf_counter", lambda: now[0])
    assert doctor.median_seconds(work, least=3, most=1.5) == 2.0
    assert doctor.median_seconds(work, least=1, most=9.0) == 3.0
    assert now[0] == 112 + 4 * 3.0  # three calls of three seconds after a warm one, and then time is up


def test_matrix_products_agree_with_a_plain_loop():
    ours = doctor.matmul_gflops(torch.float32, torch.device("cpu"))
    left, right = torch.randn(512, 512), torch.randn(512, 512)
    plain = 2 * 512**3 / doctor.median_seconds(lambda: left @ right, most=0.3) / 1e9
    assert plain / 4 < ours < plain * 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "train.precision=bf16: matrix products run 4.0 ×"),
        ({"gflops": {"fp32": 100.0, "bf16": 50.0}}, "train.precision=fp32"),
        ({"threads": 1}, "torch uses 1 of 2 cores"),
        ({"packages": {"simplejpeg": False}}, 'pip install "scalevit[jpeg]"'),
        ({"native_kernels": False}, "a C compiler"),
        ({"compile_fails": "no C++ compiler"}, "does not work here: no C++ compiler"),
    ],
)
def test_advice_follows_from_the_facts(change, said):
    assert any(said in line for line in doctor.advice({**FACTS, **change}))


def test_a_good_machine_needs_no_advice():
    assert doctor.advice({**FACTS, "gflops": {"fp32": 100.0, "bf16": 120.0}}) == []


@pytest.mark.parametrize(
    ("flags", "path"),
    [
        ({"avx512f", "avx512_bf16"}, "AVX512-bf16"),
        ({"avx512_bf16", "amx_bf16"}, "AMX"),
        ({"avx2"}, "emulated in fp32"),
    ],
)
def test_the_bf16_path_follows_from_the_processors_flags(monkeypatch, flags, path):
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: flags)
    assert doctor.bf16_path(torch.device("cpu")) == path


def test_reading_agrees_with_the_bench_of_data():
    jpegs, draw = photographs(8), iter(range(10**6))
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < 0.5:
        train_view(jpegs[done % 8], "", 224, int(key(0, np.array([next(draw)]))[0]))
        done += 1
    assert 0.2 < doctor.decode_speed() / (done / (time.perf_counter() - began)) < 5


def test_a_folder_that_cannot_be_written_has_no_speed(tmp_path):
    assert min(doctor.disk_speed(tmp_path)) > 0
    assert doctor.disk_speed(tmp_path / "absent") == (0.0, 0.0)


def test_a_compiler_that_fails_is_told_in_one_line(monkeypatch):
    def fail(function):
        raise RuntimeError("InvalidCxxCompiler: none\nmore")

    monkeypatch.setattr(torch, "compile", fail)
    assert doctor.compile_error(torch.device("cpu")) == "InvalidCxxCompiler: none"
    monkeypatch.setattr(torch, "compile", lambda function: torch.zeros_like)
    assert doctor.compile_error(torch.device("cpu")) == "a small function came out wrong"


def test_the_command_examines_a_run(capsys):
    assert main.main(["doctor", "demo", "train.batch=8", "model.depth=1"]) == 0
    text = capsys.readouterr().out
    for said in (
        "GFLOP/s",
        "bf16: ",
        "a second and core",
        "MB/s read",
        f"native kernels   {'built' if build.library() else 'none'}",
        "compile ",
        "demo: limited by",
    ):
        assert said in text
