"""Native kernels against their twins in float64, and what happens where they cannot be built."""

import math
import os
import stat
import subprocess
import sys
from itertools import product
from pathlib import Path

import interpreted_kernels
import interpreted_updates
import machine
import pytest
import torch
from torch.nn import functional as F

from scalevit import optim
from scalevit.config.run import Model
from scalevit.kernels import gelu, norm
from scalevit.kernels.cpu import dispatch
from scalevit.kernels.updates import can_update
from scalevit.model.attention import Block
from scalevit.optim import base

ROOT = Path(__file__).parents[2]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Of the largest number: fp32's and bf16's rounding.
TOLERANCES = {"float32": 2e-6, "bfloat16": 2**-8}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="native kernels are built on Linux")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Tensors of any size are worth a call."""
    machine.require_native()
    monkeypatch.setattr(dispatch, "MIN_ELEMENTS", 0)


def assert_close(name, found):
    for off, dtype in zip(found["off"], found["dtypes"], strict=True):
        assert off <= TOLERANCES[dtype], (name, found)
    assert found["repeatable"], name


def test_kernels_are_their_twins_in_value_and_gradient():
    count = 0
    for name, found in [*interpreted_kernels.gelus(), *interpreted_kernels.norms()]:
        assert_close(name, found)
        count += 1
    assert count == 18


@pytest.mark.parametrize("name", ["adafactor", "adam", "sgd"])
def test_optimizers_take_the_same_steps(monkeypatch, name):
    def switch(on):
        monkeypatch.setattr(base, "can_update", can_update if on else lambda parameter: False)

    for shape, dtype in product(interpreted_updates.MODELS, DTYPES):
        off = interpreted_updates.case(shape, name, DTYPES[dtype], switch)
        assert off["moments"] <= 1e-6, (shape, dtype)
        assert off["momentum"] <= (1e-6 if dtype == "fp32" else 2**-6), (shape, dtype)
        assert off["update"] <= (3e-5 if dtype == "fp32" else 2**-6), (shape, dtype)


@pytest.mark.parametrize(
    ("make", "dtypes"),
    [(optim.Adafactor, DTYPES), (optim.SGD, DTYPES), (optim.Adam, ["fp32"])],  # torch's fused Adam wants fp32
)
def test_parameters_may_move_and_be_of_other_dtypes(monkeypatch, make, dtypes):
    """Addresses are looked up once; what torch moves or keeps in fewer bits must not be written as it was."""

    def walk(kernels):
        monkeypatch.setattr(base, "can_update", can_update if kernels else lambda parameter: False)
        draw = torch.Generator().manual_seed(0)
        found = [
            torch.nn.Parameter(torch.randn(64, 48, generator=draw).to(dtype))
            for dtype in map(DTYPES.get, dtypes)
        ]
        made, old = make(found, lr=0.1), found[0].data
        for step in range(3):
            for parameter in found:
                parameter.grad = torch.randn(64, 48, generator=draw).to(parameter.dtype)
            made.step()
            if step == 0:
                found[0].data = found[0].data.clone()
                kept = old.clone()
        assert torch.equal(old, kept)
        return found

    for ours, plain in zip(walk(True), walk(False), strict=True):
        torch.testing.assert_close(
            ours, plain, rtol=2e-2 if ours.dtype == torch.bfloat16 else 1e-4, atol=1e-3
        )


def blocks_results(monkeypatch, precision, native_ones):
    monkeypatch.setattr(dispatch, "MIN_ELEMENTS", 0 if native_ones else 1 << 60)
    made, draw = (
        Block(Model(shape="Ti/16", width=48, depth=1, mlp=72, heads=3)),
        torch.Generator().manual_seed(1),
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.2, generator=draw)
    x = torch.randn(2, 9, 48, generator=draw).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        y = made(x)
    (y * torch.linspace(0, 1, 48)).sum().backward()
    return [y, x.grad, *(p.grad for p in made.parameters())]


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-6), ("bf16", 2e-2)])
def test_a_block_with_kernels_is_the_block(monkeypatch, precision, allowed):
    ours = blocks_results(monkeypatch, precision, True)
    plain = blocks_results(monkeypatch, precision, False)
    assert len(ours) == 14
    for a, b in zip(ours, plain, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).norm() <= allowed * b.norm()
    assert any(not torch.equal(a, b) for a, b in zip(ours, plain))  # they did run


def everything(threads, numbers):
    """Outputs and gradients on so many threads."""
    torch.set_num_threads(threads)
    try:
        h, bias, x, weight = (one.clone().requires_grad_() for one in numbers)
        layer = interpreted_kernels.Layer(
            torch.nn.Parameter(weight.detach()), torch.nn.Parameter(bias.detach())
        )
        found = [gelu.bias_gelu(h, bias), *norm.add_norm(x, h, layer)]
        sum((one.float() * one.float()).sum() for one in found).backward()
        return [*found, h.grad, bias.grad, x.grad, layer.weight.grad]
    finally:
        torch.set_num_threads(1)


def test_the_bits_do_not_depend_on_threads():
    draw = torch.Generator().manual_seed(0)
    sizes = [(3, 70, 100), (100,), (3, 70, 100), (100,)]
    numbers = [torch.randn(size, generator=draw) for size in sizes]
    for one, two in zip(everything(1, numbers), everything(2, numbers), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_lost(bad, dtype):
    """A guard stops at it, so that kernels must pass it on, and only to where it belongs."""
    x = torch.randn(5, 48).to(DTYPES[dtype])
    x[1, 7] = bad
    wanted = F.gelu(x.double(), approximate="tanh")
    assert torch.equal(gelu.bias_gelu(x, torch.zeros(48)).isfinite(), wanted.isfinite())
    _, y = norm.norm(x, torch.nn.LayerNorm(48).to(DTYPES[dtype]))
    assert y.isnan().any(dim=1).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_numbers_give_what_float64_gives(dtype):
    x = torch.tensor([[-1e30, -200, -90, -20, -5, -1e-30, 0, 1e-30, 5, 20, 90, 200, 1e30]]).to(DTYPES[dtype])
    wanted = F.gelu(x.double(), approximate="tanh")
    ours = gelu.bias_gelu(x, torch.zeros(x.shape[-1]))
    torch.testing.assert_close(ours.double(), wanted, rtol=TOLERANCES[str(x.dtype)[6:]], atol=1e-6)


def step_of(environment, folder):
    """Losses of two steps of a small run, and what was said, in a process with this environment."""
    program = (
        "import torch, warnings; warnings.simplefilter('always')\n"
        "from scalevit import optim; from scalevit.config.run import Model, Optimizer\n"
        "from scalevit.model.vit import ViT\n"
        "from scalevit.kernels.cpu import dispatch; dispatch.MIN_ELEMENTS = 0\n"
        "model = ViT(Model(shape='mu/16', image=32, classes=3)); made = optim.build(Optimizer(), model)\n"
        "x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))\n"
        "for _ in range(3):\n"
        "    [g['lr'].fill_(1e-2) for g in made.param_groups]\n"
        "    loss = model(x).square().mean(); made.zero_grad(); loss.backward(); made.step()\n"
        "    print(loss.item())\n"
        "from scalevit.kernels.cpu import build; print(build.library() is not None)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SCALEVIT_CACHE": str(folder), **environment}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    *losses, native_ones = done.stdout.split()
    return [float(loss) for loss in losses], native_ones == "True", done.stderr


def test_without_a_working_compiler_plain_pytorch_takes_the_same_steps(tmp_path):
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho no space left >&2; exit 1\n")
    broken.chmod(0o755)
    losses, native_ones, said = step_of({}, tmp_path)
    assert native_ones and not said
    built = list((tmp_path / "native").iterdir())
    assert [one.suffix for one in built] == [".so"]
    assert stat.S_IMODE((tmp_path / "native").stat().st_mode) == 0o700
    for environment, told in (
        ({"CC": str(broken)}, "no space left"),
        ({"CC": "no-such-cc"}, ""),
        ({"SCALEVIT_NATIVE": "0"}, ""),
    ):
        plain, there, said = step_of(environment, tmp_path)
        assert not there
        assert (told in said and said.count("native kernels") == 1) if told else not said
        assert plain == pytest.approx(losses, rel=1e-5)
    assert list((tmp_path / "native").iterdir()) == built


def test_what_torch_sees_through_is_left_to_torch():
    x, bias = torch.randn(3, 48), torch.zeros(48)
    rows = torch.func.vmap(lambda row: gelu.bias_gelu(row, bias))(x)
    torch.testing.assert_close(rows, F.gelu(x, approximate="tanh"))


def test_a_folder_that_others_may_write_to_is_not_trusted(tmp_path):
    (tmp_path / "native").mkdir()
    (tmp_path / "native").chmod(0o777)
    _, native_ones, said = step_of({}, tmp_path)
    assert not native_ones and "can be written by others" in said
    assert list((tmp_path / "native").iterdir()) == []
