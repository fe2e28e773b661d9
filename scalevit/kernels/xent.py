"""Sigmoid cross-entropy over many classes; the only memory of the logits' size is their gradient.

b images · c classes · k right classes at most. Labels: one class an image (b); several as a list, filled up
with -1 (b, k); or how much of each class, from 0 to 1 (b, c).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scalevit.kernels.triton.launch import use_triton


def sigmoid_xent(logits: Tensor, labels: Tensor) -> Tensor:
    """Sigmoid cross-entropy (b) of logits (b, c): Σ over classes of -y log σ(x) - (1 - y) log σ(-x), in
    fp32."""
    if _has_labels(logits, labels) and use_triton(logits):
        from scalevit.kernels.triton.xent import SigmoidXent

        return SigmoidXent.apply(logits, labels)
    return sigmoid_xent_reference(logits, labels)


def _has_labels(logits: Tensor, labels: Tensor) -> bool:
    """Whether labels have one of the three forms for these logits; others PyTorch broadcasts or refuses."""
    if logits.ndim != 2 or labels.device != logits.device or labels.shape[:1] != logits.shape[:1]:
        return False
    if labels.is_floating_point():
        return labels.shape == logits.shape
    return labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] > 0)


def sigmoid_xent_reference(logits: Tensor, labels: Tensor) -> Tensor:
    """`sigmoid_xent` in plain PyTorch; sums agree within a relative 1e-5."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if labels.is_floating_point():
        labels = labels.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(dim=-1)
    # -log σ(x) = softplus(-x): a right class enters with its sign turned, so nothing cancels.
    if labels.ndim == 1:
        right = logits.gather(-1, labels[:, None].long())
        return F.softplus(logits.scatter(-1, labels[:, None].long(), -right)).sum(dim=-1)
    classes = logits.shape[-1]
    right = torch.zeros(len(logits), classes + 1, dtype=torch.bool, device=logits.device)
    right = right.scatter(-1, labels.long().where(labels >= 0, classes), True)[:, :classes]
    return F.softplus(logits.where(~right, -logits)).sum(dim=-1)
