"""Attention, forward and backward, by torch's fused kernel, by two matrix products and, where a CPU has it,
by our kernel: python benchmarks/attention.py

Decides `scalevit.kernels.attention.prefers_products`. Milliseconds of CPU time, best of several, one thread
unless
OMP_NUM_THREADS says otherwise; on a GPU wall time after synchronising.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from scalevit.kernels.attention import matmul_attention
from scalevit.kernels.cpu import dispatch
from scalevit.kernels.cpu.attention import self_attention

#: batch, tokens, heads, head dimension: the demo's model, Ti/16 at 128 px, S/16 and B/16 at 224 px
SHAPES = [(64, 49, 3, 32), (32, 64, 3, 64), (16, 197, 6, 64), (8, 197, 12, 64)]


def milliseconds(step: Callable[[], object], device: str, times: int = 10, rounds: int = 4) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    best = float("inf")
    for _ in range(rounds):
        began = clock()
        for _ in range(times):
            step()
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, (clock() - began) / times)
    return round(1e3 * best, 2)


def split(attention: Callable[[Tensor, Tensor, Tensor], Tensor], qkv: Tensor) -> Tensor:
    b, n, _, h, e = qkv.shape
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return attention(q, k, v).transpose(1, 2).reshape(b, n, h * e)


def ours(qkv: Tensor) -> Tensor:
    return self_attention(qkv.flatten(2), qkv.shape[3])


def train_step(attention: Callable[[Tensor], Tensor], qkv: Tensor) -> None:
    y = attention(qkv)
    qkv.grad = None
    y.backward(y.detach())


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ways = {
        "fused": partial(split, F.scaled_dot_product_attention),
        "products": partial(split, matmul_attention),
    }
    for b, n, h, e in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            qkv = torch.randn(b, n, 3, h, e, device=device, dtype=dtype, requires_grad=True)
            row = {"batch": b, "tokens": n, "heads": h, "head_dim": e, "dtype": str(dtype), "device": device}
            native_one = {"ours": ours} if dispatch.use_native_matmul(qkv, dtype, n, e) else {}
            for name, attention in {**ways, **native_one}.items():
                train_step(attention, qkv)
                row[f"{name}_ms"] = milliseconds(partial(train_step, attention, qkv), device)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
