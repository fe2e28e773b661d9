"""Optimizer steps by Triton's kernels, in its interpreter, beside the same steps in plain PyTorch."""

import copy

import pytest
import torch

from scalevit import config, kernels, optim
from scalevit.config import Model
from scalevit.model import ViT

RATE = 1e-2
# heads of 32 (factored per head) and of odd numbers, patches of 32 and of 8, an odd number of classes
MODELS = {
    "MAP": Model(width=96, depth=1, mlp=50, heads=3, patch=8, image=64, classes=37, pool="map"),
    "wide patches": Model(width=32, depth=1, mlp=32, heads=1, patch=32, image=32, classes=10, pool="gap"),
}


def walk(model, name, dtype, count=2):
    made = optim.build(config.Optimizer(name=name), model)
    for group in made.param_groups:
        group["momentum_dtype"] = dtype
    for step in range(count):
        for group in made.param_groups:
            group["lr"].fill_(RATE)
        for place, parameter in enumerate(model.parameters()):
            draw = torch.Generator().manual_seed(100 * step + place)
            scale = torch.linspace(0.1, 2, parameter.shape[-1])
            parameter.grad = torch.randn(parameter.shape, generator=draw) * scale
        made.step()
    return made


@pytest.mark.parametrize("shape", MODELS)
@pytest.mark.parametrize("name", ["adafactor", "adam", "sgd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_take_the_same_steps(shape, name, dtype, monkeypatch):
    plain = ViT(MODELS[shape], seed=3)
    fused = copy.deepcopy(plain)
    wanted = walk(plain, name, dtype)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernels.usable(torch.ones(1))
    found = walk(fused, name, dtype)
    # the interpreter cuts where it should round to bf16: every entry may be a step off
    rtol = 2e-6 if dtype == torch.float32 else 2**-7
    for (where, a), b in zip(plain.named_parameters(), fused.parameters(), strict=True):
        ours, theirs = found.state[b], wanted.state[a]
        assert ours.keys() == theirs.keys() and ours["momentum"].dtype == dtype
        largest = theirs["momentum"].abs().max().item()
        for key in ours.keys() - {"momentum"}:
            torch.testing.assert_close(ours[key], theirs[key], rtol=2e-6, atol=0, msg=f"{where} {key}")
        torch.testing.assert_close(ours["momentum"], theirs["momentum"], rtol=rtol, atol=rtol * largest)
        # Adam's updates are near one, however small its momentum
        torch.testing.assert_close(a, b, rtol=2e-6, atol=RATE * rtol * max(largest, 2) + 1e-6, msg=where)
