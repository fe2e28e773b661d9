"""Recomputed activations: the same numbers, and blocks that are still compiled."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from scalevit import config, mesh
from scalevit.model import ViT

MODEL = config.Model(width=32, depth=2, mlp=48, heads=2, patch=4, image=8, classes=3)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler looks at it
@pytest.mark.parametrize("how", ["selective", "full"])
def test_blocks_that_recompute_are_compiled_and_give_the_same_gradients(how):
    plain, model = ViT(MODEL, seed=0), ViT(MODEL, seed=0)
    mesh.recompute(model.blocks, how)
    torch._dynamo.reset()
    counter = CompileCounter()
    for block in model.blocks:
        block.compile(backend=counter)
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for one in (plain, model):
        one.features(images).square().sum().backward()
    assert counter.frame_count >= 1
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
