"""Autotuning of fp8: which linear layers of a run compute in fp8, and how, timed at the model's shapes here.

The products of a small layer are over before their factors are in eight bits; those of a large one take
little more than half the time. Where that turns depends on the device, so each layer's forward pass and
gradients are timed in each granularity when a run begins. Checkpoints keep what was chosen: a run that goes
on, elsewhere or beside noisy neighbours, computes as before."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch

from scalevit.config.run import Run
from scalevit.kernels import fp8_linear

#: Least speedup over bf16 for which a layer computes in fp8: eight bits cost accuracy.
MIN_SPEEDUP = 1.05


@dataclass(frozen=True)
class LayerTiming:
    """Timing of one layer of every block. milliseconds: of its forward and backward pass, by granularity."""

    layer: str
    tokens: int
    inputs: int
    outputs: int
    milliseconds: dict[fp8_linear.Granularity, float]

    @property
    def granularity(self) -> fp8_linear.Granularity:
        """The fastest granularity, where its gain over bf16 is large enough."""
        best = min(self.milliseconds, key=self.milliseconds.__getitem__)
        return best if self.milliseconds["bf16"] >= MIN_SPEEDUP * self.milliseconds[best] else "bf16"

    @property
    def gain(self) -> float:
        """How many times faster than in bf16."""
        return self.milliseconds["bf16"] / self.milliseconds[self.granularity]

    def __str__(self) -> str:
        shape = f"{self.layer} ({self.tokens} tokens, {self.inputs} → {self.outputs})"
        if len(self.milliseconds) == 1:
            return f"{shape}: bf16, since fp8 needs multiples of {fp8_linear.ALIGNMENT}"
        times = " · ".join(f"{granularity} {ms:.3f} ms" for granularity, ms in self.milliseconds.items())
        return f"{shape}: {self.granularity}, {self.gain:.2f} × bf16 ({times})"


def autotune(run: Run, processes: int, device: torch.device) -> list[LayerTiming]:
    """Timings of each linear layer, `processes` sharing a batch; takes a second on a large model."""
    return [
        LayerTiming(layer, tokens, inputs, outputs, time_layer(tokens, inputs, outputs, device))
        for layer, tokens, inputs, outputs in linear_shapes(run, processes)
    ]


def linear_shapes(run: Run, processes: int) -> Iterator[tuple[str, int, int, int]]:
    """Shapes of linear layers: name, tokens of one micro-batch, inputs, outputs."""
    s, model = run.model.resolve(), run.model
    images = run.train.micro_batch or max(1, run.train.batch // processes)
    tokens = images * (s.tokens(model.image, "token" if model.class_token else model.pool) + model.registers)
    yield "qkv", tokens, s.width, 3 * s.width
    yield "proj", tokens, s.width, s.width
    yield "fc1", tokens, s.width, s.mlp
    yield "fc2", tokens, s.mlp, s.width


def time_layer(
    tokens: int, inputs: int, outputs: int, device: torch.device
) -> dict[fp8_linear.Granularity, float]:
    """Median milliseconds of forward pass and both gradients in each granularity that this shape allows."""
    layer = fp8_linear.Fp8Linear(inputs, outputs, device=device)
    x = torch.randn(tokens, inputs, device=device, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn(tokens, outputs, device=device, dtype=torch.bfloat16)

    def step() -> None:
        x.grad = layer.weight.grad = None
        with torch.autocast(device.type, dtype=torch.bfloat16):
            y = layer(x)
        y.backward(gradient)

    fits = not any(size % fp8_linear.ALIGNMENT for size in (tokens, inputs, outputs))
    times: dict[fp8_linear.Granularity, float] = {}
    for granularity in fp8_linear.GRANULARITIES if fits else fp8_linear.GRANULARITIES[:1]:
        layer.granularity = granularity
        times[granularity] = milliseconds(step, device)
    return times


def milliseconds(step: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Median time of `step` on this device after two warm calls; on a GPU replayed as a run does it: then
    launching takes no time."""
    for _ in range(2):
        step()
    if device.type != "cuda":
        began = [time.perf_counter()]
        for _ in range(repeats):
            step()
            began.append(time.perf_counter())
        return 1e3 * statistics.median(b - a for a, b in pairwise(began))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    events[0].record()
    for event in events[1:]:
        graph.replay()
        event.record()
    torch.cuda.synchronize(device)
    return statistics.median(a.elapsed_time(b) for a, b in pairwise(events))
