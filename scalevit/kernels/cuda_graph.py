"""CUDA graph of a micro-batch's forward and backward pass: captured once, then replayed. Without it Python
and PyTorch launch thousands of kernels a step, and a fast accelerator waits for them.

Results equal those of the same kernels launched one by one. A graph keeps its memory: activations of a
micro-batch are not freed between steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

#: Loss of inputs and labels, weighted by their share of the batch; leaves its gradients in the parameters.
ForwardBackward = Callable[[Tensor, Tensor, float], Float[Tensor, ""]]
#: Steps before one is captured: compilers and libraries choose their kernels first.
WARMUP_STEPS = 3


class CapturedPass:
    """A captured forward and backward pass, with its static input tensors."""

    def __init__(self, compute: ForwardBackward, inputs: Tensor, labels: Tensor, share: float) -> None:
        self.inputs, self.labels = inputs.clone(), labels.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = compute(self.inputs, self.labels, share)

    def run(self, inputs: Tensor, labels: Tensor) -> Float[Tensor, ""]:
        """Replay on these inputs; returns the loss, in memory that the next replay overwrites."""
        self.inputs.copy_(inputs, non_blocking=True)
        self.labels.copy_(labels, non_blocking=True)
        self.graph.replay()
        return self.loss


@dataclass
class FirstPass:
    """The captured pass of a batch's first micro-batch, its gradients, and the passes that add to these."""

    captured: CapturedPass
    gradients: list[Tensor | None]
    others: dict[object, CapturedPass] = field(default_factory=dict)


class CudaGraphRunner:
    """Runs a model's passes, by CUDA graph after the warm-up steps; each shape of inputs has graphs of its
    own."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = list(model.parameters())
        self.warmup_steps: dict[object, int] = {}
        self.first_passes: dict[object, FirstPass] = {}
        self.current: FirstPass | None = None

    def __call__(
        self, compute: ForwardBackward, inputs: Tensor, labels: Tensor, share: float, first: bool
    ) -> Float[Tensor, ""]:
        """Loss of a micro-batch; its gradients are added to the present ones, unless it is the first of a
        batch."""
        key = (inputs.shape, inputs.dtype, labels.shape, labels.dtype, share)
        if first:
            self.current = self._start(key, compute, inputs, labels, share)
        if self.current is None:
            return compute(inputs, labels, share)
        if first:
            loss = self.current.captured.run(inputs, labels)
            self._set_gradients(self.current.gradients)
            return loss
        if key not in self.current.others:
            self.current.others[key] = CapturedPass(compute, inputs, labels, share)
        return self.current.others[key].run(inputs, labels)

    def _start(
        self, key: object, compute: ForwardBackward, inputs: Tensor, labels: Tensor, share: float
    ) -> FirstPass | None:
        self.warmup_steps[key] = self.warmup_steps.get(key, 0) + 1
        if self.warmup_steps[key] > WARMUP_STEPS and key not in self.first_passes:
            self._set_gradients([None] * len(self.parameters))  # a backward pass begins gradients of its own
            captured = CapturedPass(compute, inputs, labels, share)
            self.first_passes[key] = FirstPass(captured, [parameter.grad for parameter in self.parameters])
        return self.first_passes.get(key)

    def _set_gradients(self, gradients: list[Tensor | None]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
