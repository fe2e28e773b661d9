"""Losses: sigmoid and softmax cross-entropy, summed over classes, averaged over the batch, in fp32.

Labels are either single, as integers (b,), or multi-hot, as floats (b, c), which may be soft; the sigmoid
loss takes several as integers, too, filled up with -1 (b, k).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from scalevit.kernels import xent

Labels = Int[Tensor, " b"] | Float[Tensor, "b c"]


def sigmoid_xent_each(
    logits: Float[Tensor, "b c"], labels: Labels | Int[Tensor, "b k"]
) -> Float[Tensor, " b"]:
    """Sigmoid cross-entropy per image: the sum over classes of -y log σ(x) - (1 - y) log σ(-x) (paper App.
    C)."""
    return xent.sigmoid_xent(logits, labels)


def softmax_xent_each(logits: Float[Tensor, "b c"], labels: Labels) -> Float[Tensor, " b"]:
    """Softmax cross-entropy per image: -Σ y log softmax(x), with y divided equally among several right
    classes. Without a right class the loss is 0."""
    logits = logits.float()
    if labels.is_floating_point():
        target = labels / labels.sum(dim=-1, keepdim=True).clamp_min(1.0)
        return -(target * F.log_softmax(logits, dim=-1)).sum(dim=-1)
    return F.cross_entropy(logits, labels.long(), reduction="none")


def sigmoid_xent(logits: Float[Tensor, "b c"], labels: Labels | Int[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Sigmoid cross-entropy: the mean over the batch of `sigmoid_xent_each`."""
    return sigmoid_xent_each(logits, labels).mean()


def softmax_xent(logits: Float[Tensor, "b c"], labels: Labels) -> Float[Tensor, ""]:
    """Softmax cross-entropy: the mean over the batch of `softmax_xent_each`."""
    return softmax_xent_each(logits, labels).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sigmoid": sigmoid_xent, "softmax": softmax_xent}
