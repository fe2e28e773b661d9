"""Recomputed activations: the same gradients, and blocks that are still compiled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: In a process of its own: the compiler does not look through the checks of shapes that tests add.
PROGRAM = """
import sys, torch
from torch._dynamo.testing import CompileCounter
from scalevit import config
from scalevit.distributed import parallelize
from scalevit.distributed import world as mesh
from scalevit.model.vit import ViT

words = config.Model(width=32, depth=2, mlp=48, heads=2, patch=4, image=8, classes=3)
plain, model, counter = ViT(words, seed=0), ViT(words, seed=0), CompileCounter()
parallelize.recompute(model.blocks, sys.argv[1])
for block in model.blocks:
    block.compile(backend=counter, fullgraph=True)
for one in (plain, model):
    one.features(torch.linspace(-1, 1, 384).view(2, 3, 8, 8)).square().sum().backward()
for a, b in zip(plain.parameters(), model.parameters(), strict=True):
    assert (a.grad is None) == (b.grad is None)
    if a.grad is not None:
        torch.testing.assert_close(a.grad, b.grad)
print(counter.frame_count)
"""


@pytest.mark.parametrize("how", ["selective", "full"])
def test_blocks_that_recompute_are_compiled_and_give_the_same_gradients(how):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", PROGRAM, how]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 1
