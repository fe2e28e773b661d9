"""What computes in which dtype, and what a device promises."""

import os
import subprocess
import sys

import pytest
import torch

from scalevit.config.devices import DEVICES, peak_from_driver
from scalevit.train.precision import autocast_for, deterministic_algorithms, peak_flops

CPU = torch.device("cpu")


def test_bf16_computes_products_in_bf16_and_keeps_fp32_inputs():
    left = torch.randn(8, 8)
    with autocast_for("bf16", CPU):
        assert (left @ left).dtype == torch.bfloat16
    with autocast_for("fp32", CPU):
        assert (left @ left).dtype == torch.float32
    assert left.dtype == torch.float32


@pytest.mark.parametrize(
    ("driver", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Some Future Chip", None),
    ],
)
def test_peaks_are_found_by_the_name_that_a_driver_gives(driver, peak):
    assert peak_from_driver(driver) == peak
    assert len(DEVICES) >= 10


def test_a_cpu_promises_no_peak():
    assert peak_flops("bf16", CPU) is None


#: Without the checks of shapes that pytest adds, which the compiler cannot see through.
WHOLE = """
import torch
from scalevit.config.run import Model
from scalevit.model.vit import ViT
from scalevit.train.precision import autocast_for

for pool in ("gap", "map"):
    model = ViT(Model(shape="mu/16", depth=1, image=32, pool=pool, classes=4))
    traced = torch.compile(model, backend="eager", fullgraph=True)
    images = torch.zeros(2, 3, 32, 32)
    for precision in ("fp32", "bf16"):
        with autocast_for(precision, torch.device("cpu")):
            assert torch.allclose(traced(images), model(images), atol=1e-3)
"""


def test_the_compiler_sees_a_model_as_one_piece():
    """Each piece more is a call and its copies: cut into five, a block lost a tenth of its speed."""
    done = subprocess.run([sys.executable, "-c", WHOLE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_run_that_does_not_compile_loads_no_compiler(tmp_path):
    """It would take a second of every start."""
    words = ["pretrain", "demo", "model.depth=1", "train.batch=8", "schedule.steps=3", "schedule.warmup=1"]
    words += ["schedule.cooldown=1", "probe.datasets=[]", "--out", str(tmp_path / "run")]
    code = f"import sys; from scalevit.cli.main import main; code = main({words}); print(code, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, last = done.stdout.splitlines()
    assert last.split()[0] == "0"
    assert not {"torch._dynamo", "torch._inductor", "sympy"} & {*last.split()}


@pytest.mark.slow
def test_a_run_is_compiled_once_and_never_again(tmp_path):
    """Probed on the way, in several micro-batches: torch tells of every function that it
    compiles again or cuts into pieces, and tells nothing."""
    words = [
        "demo", "model.depth=2", "model.image=16", "train.precision=bf16", "train.compile=true",
        "train.batch=8", "train.micro_batch=4", "data.images=0", "schedule.steps=8", "schedule.warmup=2",
        "schedule.cooldown=2", "train.eval_every=4", "probe.datasets=[digits]", "probe.draws=1",
    ]  # fmt: skip
    command = [sys.executable, "-m", "scalevit", "pretrain", *words, "--out", str(tmp_path / "run")]
    environment = {**os.environ, "TORCH_LOGS": "recompiles,graph_breaks,graph_code"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr
    assert "TRACED GRAPH" in done.stderr
    assert "Recompiling function" not in done.stderr and "Graph break" not in done.stderr


def test_reproducible_lasts_as_long_as_its_context(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for wanted in (False, True):
        with deterministic_algorithms(wanted):
            assert torch.are_deterministic_algorithms_enabled() == wanted
        assert not torch.are_deterministic_algorithms_enabled()
