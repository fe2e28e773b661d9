"""Attention, softmax(q kᵀ / √d) v, by the implementation that is faster on the device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from scalevit.kernels.fake_device import is_cpu


def dot_product_attention(
    q: Float[Tensor, "b h m e"], k: Float[Tensor, "b h n e"], v: Float[Tensor, "b h n e"]
) -> Float[Tensor, "b h m e"]:
    """Scaled dot-product attention: (b, heads, m, e) queries over n keys and values, no mask, no dropout."""
    if prefers_matmul(q.device, v.dtype):
        return matmul_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def prefers_matmul(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether two batched matrix products beat the fused kernel: measured on a CPU, they are several times
    faster in bf16 and a little slower in fp32 (benchmarks/attention.py). Accelerators: the fused kernel."""
    return is_cpu(device) and dtype == torch.bfloat16


def matmul_attention(
    q: Float[Tensor, "b h m e"], k: Float[Tensor, "b h n e"], v: Float[Tensor, "b h n e"]
) -> Float[Tensor, "b h m e"]:
    """Attention as two batched matrix products. The scale goes into the queries: m × e numbers, not m × n."""
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
    return scores.softmax(dim=-1).to(v.dtype) @ v
