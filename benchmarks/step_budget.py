"""Where a training step's time must go on a CPU, and where it goes.

    OMP_NUM_THREADS=1 python benchmarks/step_budget.py --model Ti/16-128px Ti/16 S/16

Operations ÷ ceiling: the matrix products of the blocks, timed alone at their own shapes and layouts, as a
share of the forward ones' speed. Bytes ÷ bandwidth: what a step with every operation between two products
fused would still read and write. Then the step itself, not compiled, with Adam. Processor time of one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from scalevit import config
from scalevit.kernels.attention import dot_product_attention
from scalevit.kernels.cpu import dispatch
from scalevit.kernels.cpu.attention import self_attention
from scalevit.kernels.linear import linear
from scalevit.model.vit import ViT
from scalevit.tools.bench.models import CASES, CLASSES, BenchJob, our_step
from scalevit.train.malloc import keep_freed

CPU = torch.device("cpu")


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    work()
    spent: list[float] = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return 1e3 * statistics.median(spent)


def products(job: BenchJob, rounds: int) -> dict[str, float]:
    """Milliseconds of one step's products in all blocks, by kind."""
    s, tokens = job.shape, job.shape.tokens(job.case.image)
    half, depth = partial(torch.randn, dtype=torch.bfloat16), s.depth
    found = dict.fromkeys(("forward", "inputs' gradients", "weights' gradients", "attention"), 0.0)
    for i, o in ((s.width, 3 * s.width), (s.width, s.width), (s.width, s.mlp), (s.mlp, s.width)):
        x, w, g = half(job.batch * tokens, i), torch.randn(o, i), half(job.batch * tokens, o)
        found["forward"] += depth * milliseconds(partial(once, x, w), rounds)
        for name, wanted in (("inputs' gradients", x), ("weights' gradients", w)):
            wanted.requires_grad_()
            y = once(x, w)
            found[name] += depth * milliseconds(partial(y.backward, g, retain_graph=True), rounds)
            wanted.requires_grad_(False)
    qkv = half(job.batch, tokens, 3 * s.width, requires_grad=True)
    found["attention"] = depth * milliseconds(partial(attention, qkv, s.heads), rounds)
    return found


def once(x: Tensor, w: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return linear(x, w, None)


def attention(qkv: Tensor, heads: int) -> None:
    """Forward and backward."""
    b, n, d = qkv.shape
    if dispatch.use_native_matmul(qkv, qkv.dtype, n, d // (3 * heads)):
        y = self_attention(qkv, heads)
    else:
        q, k, v = qkv.view(b, n, 3, heads, d // (3 * heads)).permute(2, 0, 3, 1, 4)
        y = dot_product_attention(q, k, v)
    y.backward(y.detach())


def gigabytes(job: BenchJob) -> float:
    """Read and written between the products of one step, the stream in fp32 and all else in bf16: norms and
    residuals, what GELU was taken of, and backwards the same with a rounded copy of the stream's gradient."""
    s, tokens = job.shape, job.shape.tokens(job.case.image)
    forward, backward = 28 * s.width + 2 * s.mlp, 36 * s.width + 2 * s.mlp
    return job.batch * tokens * s.depth * (forward + backward) / 1e9


def budget(name: str, rounds: int) -> dict[str, object]:
    job = BenchJob(name, "bf16", "train", CASES[name].batch, CPU)
    kinds = products(job, rounds)
    words = config.Model(shape=job.case.shape, image=job.case.image, pool="gap", classes=CLASSES)
    step = milliseconds(our_step(ViT(words), job, partial(tuple, job.inputs())), rounds)
    source = torch.zeros(16 * 2**20)
    copying = milliseconds(partial(source.clone().copy_, source), rounds)
    between, speed = gigabytes(job), 2 * source.nbytes / 1e6 / copying
    ideal = job.flops() * job.batch / _speed(job, kinds["forward"])
    return {
        "model": name, "batch": job.batch, "milliseconds": {**kinds, "step": step},
        "gigabytes_between": between, "copy_gb_per_second": speed, "bytes_ms": 1e3 * between / speed,
        "all_at_forward_speed_ms": 1e3 * ideal, "products_share": 1e3 * ideal / sum(kinds.values()),
        "step_share": 1e3 * ideal / step,
    }  # fmt: skip


def _speed(job: BenchJob, forward: float) -> float:
    """FLOP/s of the forward products."""
    s = job.shape
    tokens, weights = job.batch * s.tokens(job.case.image), 4 * s.width**2 + 2 * s.width * s.mlp
    return 2 * tokens * weights * s.depth / forward * 1e3


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", nargs="+", default=["Ti/16-128px", "Ti/16", "S/16"], choices=CASES)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed()
    for name in args.model:
        print(json.dumps(budget(name, args.rounds)), flush=True)
