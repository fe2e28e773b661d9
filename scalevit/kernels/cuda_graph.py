"""Forward and backward of a micro-batch as a CUDA graph: recorded once, then launched as one. Without it
Python and PyTorch launch thousands of kernels a step, and a fast accelerator waits for them.

The numbers are those of the same kernels launched one by one. What is recorded stays in memory: activations
of a micro-batch are not given back between steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

#: Loss of inputs and labels, weighted by their share of the batch; leaves its gradients in the parameters.
ForwardBackward = Callable[[Tensor, Tensor, float], Float[Tensor, ""]]
#: Steps before one is recorded: compilers and libraries choose first.
WARMUP_STEPS = 3


class CapturedPass:
    """One recorded pass."""

    def __init__(self, compute: ForwardBackward, inputs: Tensor, labels: Tensor, share: float) -> None:
        self.inputs, self.labels = inputs.clone(), labels.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = compute(self.inputs, self.labels, share)

    def run(self, inputs: Tensor, labels: Tensor) -> Float[Tensor, ""]:
        """The loss, in memory that the next run uses again."""
        self.inputs.copy_(inputs, non_blocking=True)
        self.labels.copy_(labels, non_blocking=True)
        self.graph.replay()
        return self.loss


@dataclass
class FirstPass:
    """The recorded first pass of a batch, where it leaves its gradients, and passes that add to these."""

    record: CapturedPass
    gradients: list[Tensor | None]
    others: dict[object, CapturedPass] = field(default_factory=dict)


class CudaGraphRunner:
    """Runs passes for a model, by their records as soon as there are any; each size of inputs has its own."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = list(model.parameters())
        self.warm: dict[object, int] = {}
        self.starts: dict[object, FirstPass] = {}
        self.current: FirstPass | None = None

    def __call__(
        self, compute: ForwardBackward, inputs: Tensor, labels: Tensor, share: float, first: bool
    ) -> Float[Tensor, ""]:
        """The loss of a micro-batch, whose gradients are added to those there are, unless it is the first."""
        key = (inputs.shape, inputs.dtype, labels.shape, labels.dtype, share)
        if first:
            self.current = self._start(key, compute, inputs, labels, share)
        if self.current is None:
            return compute(inputs, labels, share)
        if first:
            loss = self.current.record.run(inputs, labels)
            self._leave(self.current.gradients)
            return loss
        if key not in self.current.others:
            self.current.others[key] = CapturedPass(compute, inputs, labels, share)
        return self.current.others[key].run(inputs, labels)

    def _start(
        self, key: object, compute: ForwardBackward, inputs: Tensor, labels: Tensor, share: float
    ) -> FirstPass | None:
        self.warm[key] = self.warm.get(key, 0) + 1
        if self.warm[key] > WARMUP_STEPS and key not in self.starts:
            self._leave([None] * len(self.parameters))  # a backward pass begins gradients of its own
            record = CapturedPass(compute, inputs, labels, share)
            self.starts[key] = FirstPass(record, [parameter.grad for parameter in self.parameters])
        return self.starts.get(key)

    def _leave(self, gradients: list[Tensor | None]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
