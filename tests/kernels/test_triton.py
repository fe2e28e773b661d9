"""Triton kernels, run by the interpreter, against their twins in float64, and twins against the rest."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scalevit.kernels import xent
from scalevit.kernels.triton.launch import use_triton
from scalevit.model import losses

HERE = Path(__file__).parents[1] / "support"
ROOT = HERE.parents[1]
#: Of the largest number. The interpreter rounds to bf16 towards zero: one unit in the last place.
TOLERANCES = {"float32": 2e-5, "bfloat16": 2**-7}


def interpreted(script):
    """Errors of every case, by name."""
    if sys.platform != "linux":
        pytest.skip("Triton exists for Linux")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "SCALEVIT_NATIVE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(HERE / script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found():
    return interpreted("interpreted_kernels.py")


@pytest.mark.parametrize("kind", ["gelu", "norm", "add_norm", "xent"])
def test_kernels_are_their_twins_in_value_and_gradient(found, kind):
    cases = {name: case for name, case in found.items() if name.startswith(f"{kind} ")}
    assert len(cases) >= 6
    for name, case in cases.items():
        for off, dtype in zip(case["off"], case["dtypes"], strict=True):
            assert off <= TOLERANCES[dtype], (name, case)


def test_kernels_give_the_same_bits_twice(found):
    assert all(case["repeatable"] for case in found.values())


@pytest.mark.parametrize("way", ["plain", "compiled", "full", "selective"])
def test_a_block_with_kernels_is_the_block(found, way):
    """As torch runs, traces and recomputes it; bf16 rounds at other places."""
    assert found[f"block fp32 {way}"]["off"][0] < 1e-5
    assert found[f"block bf16 {way}"]["off"][0] < 2e-2


def test_optimizers_take_the_same_steps():
    cases = interpreted("interpreted_updates.py")
    assert len(cases) == 12
    for name, off in cases.items():
        # with fp32 momentum nothing is cut; Adam's twin debiases by another way
        exact = name.endswith("fp32")
        assert off["moments"] <= 3e-6, name
        assert off["momentum"] <= (3e-6 if exact else 2**-6), name
        assert off["update"] <= (3e-5 if exact else 2**-6), name


def test_a_cpu_uses_none_of_them_and_never_imports_triton():
    program = (
        "import sys, torch; from scalevit.config.run import Model; from scalevit.model.vit import ViT; "
        "from scalevit.model.losses import sigmoid_xent; "
        "model = ViT(Model(shape='mu/16', image=32, classes=3)); "
        "sigmoid_xent(model(torch.zeros(1, 3, 32, 32)), torch.zeros(1, dtype=torch.long)).backward(); "
        "assert 'triton' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert not use_triton(torch.zeros(1))


def test_lists_of_labels_are_multi_hot_labels():
    logits = 5 * torch.randn(3, 9, generator=torch.Generator().manual_seed(0)).double()
    lists = torch.tensor([[1, 2, -1], [-1, -1, -1], [8, 0, 8]])
    hot = torch.tensor([[0, 1, 1] + [0] * 6, [0] * 9, [1] + [0] * 7 + [1]]).double()
    torch.testing.assert_close(
        xent.sigmoid_xent_reference(logits, lists), xent.sigmoid_xent_reference(logits, hot)
    )
    torch.testing.assert_close(losses.sigmoid_xent(logits, lists), losses.sigmoid_xent(logits, hot))
