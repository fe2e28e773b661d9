"""Losses against the authors' numbers, and single against multi-hot labels."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from scalevit.model import losses

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")


@pytest.mark.parametrize("name", ["sigmoid_xent", "softmax_xent"])
def test_losses_are_the_authors(name):
    logits, labels = torch.from_numpy(GOLDEN["logits"]), torch.from_numpy(GOLDEN["labels"])
    each = getattr(losses, f"{name}_each")(logits, labels)
    np.testing.assert_allclose(each, GOLDEN[name], rtol=1e-5, atol=1e-5)
    assert getattr(losses, name)(logits, labels).item() == pytest.approx(GOLDEN[name].mean(), rel=1e-5)


@pytest.mark.parametrize("name", ["sigmoid", "softmax"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_single_labels_equal_one_hot_in_value_and_gradient(name, scale):
    logits = (scale * torch.randn(6, 9, generator=torch.Generator().manual_seed(0))).requires_grad_()
    labels = torch.arange(6) % 9
    single = losses.LOSSES[name](logits, labels)
    hot = losses.LOSSES[name](logits, torch.nn.functional.one_hot(labels, 9).float())
    assert single.item() == pytest.approx(hot.item(), rel=1e-6)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (single, hot)))


def test_a_head_of_zeros_starts_at_the_bias():
    """Classifier kernel zero and bias -10: every class is off, the right one costs 10 (paper App. C)."""
    loss = losses.sigmoid_xent(torch.full((4, 100), -10.0), torch.zeros(4, dtype=torch.long))
    assert loss.item() == pytest.approx(
        99 * math.log1p(math.exp(-10)) + 10 + math.log1p(math.exp(-10)), rel=1e-6
    )


def test_losses_are_computed_in_fp32():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    for loss in losses.LOSSES.values():
        assert loss(logits, torch.arange(3)).dtype == torch.float32
