"""Kernels against their twins in plain PyTorch, in numbers and in time: python benchmarks/kernels.py

Each kernel is compared with its twin in float64, and timed beside the twin and the compiled twin, forward
and backward, at sizes of models in training; then whole training steps, blocks compiled, with kernels and
without. Needs a GPU; without one, TRITON_INTERPRET=1 compares at toy sizes.
"""

from __future__ import annotations

import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scalevit import config, optim
from scalevit.kernels import gelu, norm, xent
from scalevit.kernels.triton import launch
from scalevit.model.vit import ViT
from scalevit.tools.bench import models
from scalevit.tools.bench.interleaved import bench_device, device_name
from scalevit.tools.bench.markdown import markdown

DEVICE = bench_device()
BEGAN = time.perf_counter()
#: Tokens, width and width of the MLP of a training step; images and classes of a loss.
SIZES = {
    "G/14, 64 images": (64 * 256, 1664, 8192),
    "B/16, 512 images": (512 * 196, 768, 3072),
    "S/16, 1024 images": (1024 * 196, 384, 1536),
}
CLASSES = {"4096 images, 30000 classes": (4096, 30_000)}
if DEVICE.type == "cpu":
    SIZES, CLASSES = {"toy": (37, 104, 300)}, {"toy": (5, 3001)}
COLUMNS = ("kernel", "eager", "compiled")
#: Model, images at once and optimizer of the whole steps, for which there are this many seconds.
STEPS = (("G/14", 64, "adafactor"), ("B/16", 512, "adam"), ("S/16", 1024, "adam"))
LIMIT = 72
#: Largest difference from the twin in float64, relative to the largest number, by the result's dtype.
TOLERANCES = {torch.bfloat16: 2**-7, torch.float32: 2e-5}


@dataclass
class Case:
    """A kernel, its twin, and what goes into both. passes: bytes a number that the forward pass and the
    backward pass must move, for `numbers`. compiled: whether to time the compiled twin, too."""

    name: str
    kernel: Callable[..., Any]
    twin: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    numbers: int
    passes: tuple[int, int]
    compiled: bool


def draw(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size, device=DEVICE).to(dtype).requires_grad_()


class Layer(NamedTuple):
    """A LayerNorm of tensors that are there already."""

    weight: Tensor
    bias: Tensor
    eps: float = 1e-6

    @property
    def normalized_shape(self) -> tuple[int, ...]:
        return tuple(self.weight.shape)

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def narrow(stream: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The norm as a product in bf16 reads it, where autocast has left it wide."""
    return stream, y.to(torch.bfloat16) if y.dtype == torch.float32 else y


def cases() -> Iterator[Case]:
    bf16 = torch.bfloat16
    for name, (tokens, d, m) in SIZES.items():
        often = "S/16" not in name
        inputs = (draw(tokens, m, dtype=bf16), draw(m))
        yield Case(
            f"bias_gelu, {name}", gelu.bias_gelu, gelu.bias_gelu_reference, inputs, tokens * m, (4, 6), often
        )
        x, branch, weight, bias = draw(tokens, d), draw(tokens, d, dtype=bf16), draw(d), draw(d)
        yield Case(
            f"norm, {name}",
            lambda x, w, b: norm.norm(x, Layer(w, b)),  # pyright: ignore
            lambda x, w, b: narrow(*norm.norm_reference(x, Layer(w, b))),  # pyright: ignore
            (x, weight, bias), tokens * d, (6, 14), often,
        )  # fmt: skip
        yield Case(
            f"add_norm, {name}",
            lambda x, y, w, b: norm.add_norm(x, y, Layer(w, b)),  # pyright: ignore
            lambda x, y, w, b: narrow(*norm.add_norm_reference(x, y, Layer(w, b))),  # pyright: ignore
            (x, branch, weight, bias), tokens * d, (12, 16), often,
        )  # fmt: skip
    for name, (b, c) in CLASSES.items():
        logits, lists = draw(b, c, dtype=bf16), torch.randint(-1, c, (b, 4), device=DEVICE)
        soft = torch.zeros(b, c, device=DEVICE).scatter_(1, lists.clamp_min(0), 0.5)
        for kind, labels in (("single", lists[:, 0].abs()), ("lists", lists), ("soft", soft)):
            passes = (6, 8) if kind == "soft" else (2, 4)
            yield Case(
                f"sigmoid_xent {kind}, {name}",
                lambda logits, labels=labels: xent.sigmoid_xent(logits, labels),
                lambda logits, labels=labels: xent.sigmoid_xent_reference(logits, labels),
                (logits,), b * c, passes, kind == "single",
            )  # fmt: skip


# --------------------------------------------------------------------------- the same numbers


def outputs(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=inputs[0].dtype != torch.float64):
        out = function(*inputs)
    return out if isinstance(out, tuple) else (out,)


def results(function: Callable[..., Any], inputs: tuple[Tensor, ...], like: list[Tensor]) -> list[Tensor]:
    """Outputs, and gradients of the inputs for gradients `like` of the outputs."""
    found = outputs(function, inputs)
    gradients = [g.to(y.dtype) for g, y in zip(like, found)]
    return [y.detach() for y in found] + list(torch.autograd.grad(found, inputs, gradients))


def error(case: Case) -> str:
    """The largest difference from float64, relative to the tensor's largest number."""
    torch.manual_seed(1)
    like = [torch.randn_like(y) for y in outputs(case.kernel, case.inputs)]
    ours = results(case.kernel, case.inputs, like)
    again = results(case.kernel, case.inputs, like)
    assert all(torch.equal(one, other) for one, other in zip(ours, again)), "not repeatable"
    wide = tuple(x.detach().double().requires_grad_() for x in case.inputs)
    true = results(case.twin, wide, like)
    worst = ""
    for one, other in zip(ours, true):
        off = ((one - other).abs().max() / other.abs().max()).item()
        worst += f" {off:.0e}" + ("" if off <= TOLERANCES[one.dtype] else " WRONG")
    return worst.strip()


# --------------------------------------------------------------------------- time


def milliseconds(run: Callable[[], object], times: int = 9) -> float:
    """Median of a device's time; it sleeps first, so that it never waits for launches."""
    spent = []
    for _ in range(times + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(4_000_000)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        spent.append(begin.elapsed_time(end))
    return statistics.median(spent[2:])


def timed(case: Case, function: Callable[..., Any]) -> tuple[float, float]:
    """Milliseconds of the forward pass, and of the backward pass."""
    found = outputs(function, case.inputs)
    like = [torch.randn_like(y) for y in found]

    def both() -> None:
        torch.autograd.grad(outputs(function, case.inputs), case.inputs, like)

    forward = milliseconds(lambda: outputs(function, case.inputs))
    return forward, milliseconds(both) - forward


def copy_speed() -> float:
    """GB/s of a copy of 4 GiB, read and written."""
    source = torch.empty(2**30, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.nbytes / milliseconds(lambda: target.copy_(source)) / 1e6


def row(case: Case, ceiling: float) -> list[str]:
    found = [case.name, error(case)]
    if DEVICE.type == "cpu":
        return found
    torch._dynamo.reset()
    ways, spent = {"kernel": case.kernel, "eager": case.twin}, {}
    if case.compiled:
        ways["compiled"] = torch.compile(case.twin, dynamic=False)
    for name, way in ways.items():
        spent[name] = timed(case, way)
        torch.cuda.empty_cache()
    for part in (0, 1):
        speed = case.passes[part] * case.numbers / spent["kernel"][part] / 1e6
        found += [f"{spent[name][part]:.3f}" if name in spent else "–" for name in COLUMNS]
        found += [f"{speed:.0f}", f"{speed / ceiling:.0%}"]
    return found


# --------------------------------------------------------------------------- whole steps


def step(name: str, batch: int, optimizer: str) -> float:
    """Milliseconds of a training step."""
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    job = models.BenchJob(name, "bf16", "train", batch, DEVICE)
    words = config.Model(shape=job.case.shape, image=job.case.image, pool="gap", classes=1000)
    model, build = ViT(words, device=DEVICE), optim.build
    for block in model.blocks:
        block.compile()
    models.optim.build = lambda _, m: build(config.Optimizer(name=optimizer), m)  # pyright: ignore
    try:
        run = models.our_step(model, job, partial(tuple, job.inputs()))
    finally:
        models.optim.build = build
    return milliseconds(run, times=5)


def steps(name: str, batch: int, optimizer: str) -> list[str]:
    """Whole steps with kernels, and without."""
    found = [f"{name}, {batch} images, {optimizer}"]
    for installed in (True, False):
        if time.perf_counter() - BEGAN > LIMIT:
            found += ["no time", ""]
            continue
        launch.TRITON_AVAILABLE = installed
        try:
            spent = step(name, batch, optimizer)
        finally:
            launch.TRITON_AVAILABLE = True
        found += [f"{spent:.1f}", f"{1e3 * batch / spent:.0f}"]
    return found


def attempt(rows: list[list[str]], name: str, make: Callable[[], list[str]]) -> None:
    """Go on after a failure, and say what it was."""
    try:
        rows.append(make())
    except Exception:
        print(f"{name} failed:\n{traceback.format_exc()}", flush=True)


def main() -> None:
    if not launch.use_triton(torch.empty(1, device=DEVICE)):
        raise SystemExit("no GPU with Triton: TRITON_INTERPRET=1 compares numbers, at toy sizes")
    ceiling = copy_speed() if DEVICE.type == "cuda" else 0.0
    print(f"{device_name(DEVICE)}, torch {torch.__version__}, copy {ceiling:.0f} GB/s\n", flush=True)
    rows: list[list[str]] = []
    for case in cases():
        attempt(rows, case.name, partial(row, case, ceiling))
    columns = [*COLUMNS, "GB/s", "of copy"] if DEVICE.type == "cuda" else []
    head = [f"{which}: {column}" for which in ("forward", "backward") for column in columns]
    print(markdown(["ms", "error", *head], rows), flush=True)
    if DEVICE.type == "cuda":
        rows = []
        for one in STEPS:
            attempt(rows, one[0], partial(steps, *one))
        print("\n" + markdown(["step", "ms with kernels", "images/s", "ms without", "images/s"], rows))
    print(f"\n{time.perf_counter() - BEGAN:.0f} s")


if __name__ == "__main__":
    main()
