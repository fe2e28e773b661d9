"""Optimizer steps by kernels in Triton's interpreter against the same steps in plain PyTorch; prints the
largest errors as JSON. Run by test_kernels.py with TRITON_INTERPRET=1, which must stand before that."""

import copy
import json
from itertools import product

import torch

from scalevit import config, optim
from scalevit.config.run import Model
from scalevit.kernels.triton import launch
from scalevit.model.vit import ViT

RATE = 1e-2
# heads of 32 (factored per head), patches of 32 (factored) and of 8, an odd number of classes
MODELS = {
    "heads": Model(width=96, depth=1, mlp=50, heads=3, patch=8, image=64, classes=37, pool="map"),
    "patches": Model(width=32, depth=1, mlp=32, heads=1, patch=32, image=32, classes=10, pool="gap"),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


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


def off(a, b):
    """Largest difference, of the largest number."""
    return ((a.float() - b.float()).abs().max() / b.float().abs().max()).item()


def case(shape, name, dtype, switch):
    """The largest errors of kernels; `switch` turns them on and off."""
    plain = ViT(MODELS[shape], seed=3)
    start, fused = copy.deepcopy(plain), copy.deepcopy(plain)
    switch(False)
    wanted = walk(plain, name, dtype)
    switch(True)
    found = walk(fused, name, dtype)
    errors = dict.fromkeys(("momentum", "moments", "update"), 0.0)
    for first, a, b in zip(start.parameters(), fused.parameters(), plain.parameters(), strict=True):
        ours, theirs = found.state[a], wanted.state[b]
        assert ours.keys() == theirs.keys() and ours["momentum"].dtype == dtype
        for key in ours:
            kind = "momentum" if key == "momentum" else "moments"
            errors[kind] = max(errors[kind], off(ours[key], theirs[key]))
        errors["update"] = max(errors["update"], off(a.detach() - first, b.detach() - first))
    return errors


def interpret(on):
    launch.TRITON_INTERPRETED = on


if __name__ == "__main__":
    assert launch.TRITON_INTERPRETED
    names = product(MODELS, ("adafactor", "adam", "sgd"), DTYPES)
    print(json.dumps({" ".join(words): case(*words[:2], DTYPES[words[2]], interpret) for words in names}))
