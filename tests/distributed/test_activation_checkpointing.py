"""Activation checkpointing: the same gradients, and blocks that are still compiled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: In a process of its own: the compiler does not see through the checks of shapes that tests add. The truth
#: is the same model in float64. Processors round fp32 differently, so the error may be a few times
#: that of the same passes without checkpointing, or of a few units in the last place.
PROGRAM = """
import copy, sys, torch
from torch._dynamo.testing import CompileCounter
from scalevit import config
from scalevit.distributed import parallelize
from scalevit.model.vit import ViT

words = config.Model(width=32, depth=2, mlp=48, heads=2, patch=4, image=8, classes=3)
plain, model, counter = ViT(words, seed=0), ViT(words, seed=0), CompileCounter()
truth = copy.deepcopy(plain).double()
parallelize.checkpoint_activations(model.blocks, sys.argv[1])
for block in model.blocks:
    block.compile(backend=counter, fullgraph=True)
images = torch.linspace(-1, 1, 384).view(2, 3, 8, 8)
for one in (plain, model, truth):
    one.features(images.to(next(one.parameters()).dtype)).square().sum().backward()
checked = 0
for right, a, b in zip(truth.parameters(), plain.parameters(), model.parameters(), strict=True):
    assert (a.grad is None) == (b.grad is None)
    if a.grad is None:
        continue
    error, usual = ((one.grad - right.grad).abs().max().item() for one in (b, a))
    unit = torch.finfo(torch.float32).eps * right.grad.abs().max().item()
    assert error <= 4 * usual + 4 * unit, (error, usual, unit)
    checked += 1
print(counter.frame_count, checked)
"""


@pytest.mark.parametrize("how", ["selective", "full"])
def test_blocks_that_recompute_are_compiled_and_give_the_same_gradients(how):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", PROGRAM, how]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    frames, checked = map(int, done.stdout.split())
    assert frames == 1 and checked > 20
