"""Optimizer base: bf16 momentum as the authors keep it, decoupled weight decay, cache-sized chunks.

The authors' `decay * m` with m in bf16 rounds the decay 0.9 to bf16, which is 0.8984375, while the new
gradient is weighted with 0.1; product and sum stay in fp32, and the update uses the sum before it is rounded
to be stored. With 0.9 instead, updates differ by 1 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from scalevit.config.memory import CHUNK_SIZE
from scalevit.distributed.shards import local_tensor
from scalevit.kernels.fake_device import is_cpu
from scalevit.kernels.updates import StepCoefficients, UpdateKind, UpdateLaunch, can_update

#: Elements of a CPU's chunk: numbers read a second time are then still in the cache.
CACHE_CHUNK = 1 << 19

#: A parameter with a gradient: its group, its index in it, the parameter.
GradientParameter = tuple[dict[str, Any], int, Tensor]


@cache
def round_to(value: float, dtype: torch.dtype) -> float:
    """A factor rounded to the dtype of the tensor that it multiplies."""
    return float(torch.tensor(value, dtype=dtype))


class DecoupledOptimizer(torch.optim.Optimizer):
    """Optimizer with decoupled weight decay: θ ← θ − lr · (u + weight_decay · θ), u being the subclass's
    update.

    Groups may carry `lr`, `weight_decay`, and `layouts`, one ReferenceLayout a parameter. `lr` becomes a
    tensor on the CPU: fill it to change the rate."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if not 0 <= defaults["beta1"] < 1:
            raise ValueError(f"beta1 must lie in [0, 1), found {defaults['beta1']}")
        super().__init__(params, {"layouts": None, **defaults})
        self._planned: UpdatePlan | None = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        # without the wrapper that imports torch's compiler, which costs every process most of a second
        torch.optim.Optimizer.add_param_group.__wrapped__(self, param_group)  # pyright: ignore
        group = self.param_groups[-1]
        group["lr"] = torch.tensor(float(group["lr"]))
        layouts = group["layouts"]
        if layouts is not None and len(layouts) != len(group["params"]):
            raise ValueError(f"{len(layouts)} layouts for {len(group['params'])} parameters")

    def state_dict(self) -> dict[str, Any]:
        """As torch's, without the layouts: those belong to the model, and torch.load would refuse them."""
        saved = super().state_dict()
        for group in saved["param_groups"]:
            group.pop("layouts")
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which turns the momentum into the parameters' dtype: it is turned back, losslessly."""
        layouts = [group["layouts"] for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, own in zip(self.param_groups, layouts, strict=True):
            group["layouts"] = own
            for parameter in group["params"]:
                state = self.state[parameter]
                if "momentum" in state:
                    state["momentum"] = state["momentum"].to(group["momentum_dtype"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore
        """One step; `closure` computes loss and gradients again, as torch's optimizers allow."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        pending = list(self._parameters_with_gradients())
        if pending and can_update(pending[0][2]):
            pending = self._update_by_kernels(pending)
        self._apply(pending)
        return loss

    def _apply(self, pending: list[GradientParameter]) -> None:
        raise NotImplementedError

    def _kind(self, group: dict[str, Any], index: int, parameter: Tensor) -> UpdateKind | None:
        """The kernel update of this parameter; None where there is none."""
        raise NotImplementedError

    def _rates(self, group: dict[str, Any], step: float) -> StepCoefficients:
        """Coefficients of step 1, 2, … of a group."""
        raise NotImplementedError

    def _update_by_kernels(self, pending: list[GradientParameter]) -> list[GradientParameter]:
        """Update parameters by kernels; returns those without a kernel. Tables are built once and kept
        between steps: hundreds of parameters would keep the accelerator waiting for Python."""
        if self._planned is None or not self._planned.matches(pending, self.state):
            self._planned = self._plan(pending)
        if self._planned.steps:
            torch._foreach_add_(self._planned.steps, 1)
        for group, launch in self._planned.launches:
            launch.run(self._rates(group, launch.states[0]["step"].item()))
        return self._planned.rest

    def _plan(self, pending: list[GradientParameter]) -> UpdatePlan:
        groups: dict[Any, tuple[dict[str, Any], UpdateKind, list[Tensor], list[dict[str, Any]]]] = {}
        rest = []
        for group, index, parameter in pending:
            by_kernel = can_update(parameter) and group["momentum_dtype"] in (torch.float32, torch.bfloat16)
            kind = self._kind(group, index, parameter) if by_kernel else None
            if kind is None:
                rest.append((group, index, parameter))
                continue
            state = self._start(parameter, group, index)
            entry = groups.setdefault((id(group), state["step"].item(), kind), (group, kind, [], []))
            entry[2].append(parameter)
            entry[3].append(state)
        launches = [
            (group, UpdateLaunch(kind, params, states)) for group, kind, params, states in groups.values()
        ]
        return UpdatePlan(launches, rest, [parameter for _, _, parameter in pending])

    def _parameters_with_gradients(self) -> Iterator[GradientParameter]:
        for group in self.param_groups:
            for index, parameter in enumerate(group["params"]):
                if parameter.grad is not None:
                    yield group, index, parameter

    def _start(self, parameter: Tensor, group: dict[str, Any], index: int) -> dict[str, Any]:
        """Optimizer state of a parameter, created at its first step."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["momentum"] = torch.zeros_like(parameter, dtype=group["momentum_dtype"])
            state.update(self._moments(parameter, group, index))
        return state

    def _moments(self, parameter: Tensor, group: dict[str, Any], index: int) -> dict[str, Tensor]:
        """State tensors that a rule keeps beside the momentum."""
        return {}


@dataclass(frozen=True)
class UpdatePlan:
    """Plan of a step: kernel launches with their groups, and the parameters that remain for PyTorch."""

    launches: list[tuple[dict[str, Any], UpdateLaunch]]
    rest: list[GradientParameter]
    parameters: list[Tensor]

    @cached_property
    def steps(self) -> list[Tensor]:
        """Step counts of all parameters that kernels update."""
        return [state["step"] for _, launch in self.launches for state in launch.states]

    def matches(self, pending: list[GradientParameter], states: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether parameters and states are the same tensors as when the plan was made."""
        same = len(pending) == len(self.parameters) and all(
            d[2] is p for d, p in zip(pending, self.parameters)
        )
        return same and all(launch.matches(states) for _, launch in self.launches)


def flat_local(tensor: Tensor) -> Tensor:
    """The local shard of a tensor, flattened; a gradient of another layout is copied into the parameter's."""
    return local_tensor(tensor.detach()).contiguous().view(-1)


def chunk_size(device: torch.device) -> int:
    """Elements of one tensor to update at once: caches matter on CPUs, launches elsewhere."""
    return CACHE_CHUNK if is_cpu(device) else 1 << 62


def scratch_buffer(device: torch.device) -> Tensor | None:
    """Scratch memory for a chunk, allocated once on a CPU; None where the allocator caches memory anyway."""
    return torch.empty(CACHE_CHUNK) if is_cpu(device) else None


@dataclass(frozen=True)
class TensorBatch:
    """A batch of slices of many parameters' flat tensors: columns[k] lists those of the k-th tensor. buffers:
    fp32 views of the same sizes into `buffer`, one after the other."""

    columns: list[list[Tensor]]
    buffer: Tensor
    buffers: list[Tensor]


def tensor_batches(rows: Sequence[Sequence[Tensor]]) -> Iterator[TensorBatch]:
    """Batches of rows of equally long flat tensors, of a size that a CPU's cache holds, and that keeps the
    number of launches small elsewhere."""
    device = rows[0][0].device
    most = CACHE_CHUNK if is_cpu(device) else CHUNK_SIZE
    buffer = torch.empty(min(most, sum(len(row[0]) for row in rows)), device=device)
    pieces, free = list[list[Tensor]](), len(buffer)
    for row in rows:
        start, length = 0, len(row[0])
        while start < length:
            count = min(free, length - start)
            pieces.append([tensor[start : start + count] for tensor in row])
            start, free = start + count, free - count
            if not free:
                yield _batch(pieces, buffer)
                pieces, free = [], len(buffer)
    if pieces:
        yield _batch(pieces, buffer)


def _batch(pieces: list[list[Tensor]], buffer: Tensor) -> TensorBatch:
    sizes = [len(parts[0]) for parts in pieces]
    buffer = buffer[: sum(sizes)]
    return TensorBatch(
        [list(column) for column in zip(*pieces, strict=True)], buffer, list(buffer.split(sizes))
    )


def update_momenta(momenta: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> None:
    """`update_momentum` for a batch of tensors."""
    torch._foreach_add_(updates, momenta, alpha=round_to(group["beta1"], group["momentum_dtype"]))
    torch._foreach_copy_(momenta, updates)


def apply_updates(parameters: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> None:
    """`apply_update` for a batch of tensors."""
    lr = group["lr"].item()
    if group["weight_decay"]:
        torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
    torch._foreach_add_(parameters, updates, alpha=-lr)


def update_momentum(momentum: Tensor, update: Tensor, group: dict[str, Any]) -> None:
    """Momentum: update ← update + β₁ · momentum in fp32, β₁ as it is in bf16; momentum ← update, rounded."""
    update.add_(momentum, alpha=round_to(group["beta1"], group["momentum_dtype"]))
    momentum.copy_(update)


def apply_update(parameter: Tensor, update: Tensor, group: dict[str, Any]) -> None:
    """Descent with decoupled decay: θ ← θ − lr · (u + λ θ)."""
    lr = group["lr"].item()
    if group["weight_decay"]:
        parameter.mul_(1 - lr * group["weight_decay"])
    parameter.add_(update, alpha=-lr)


def step_coefficients(group: dict[str, Any], update_weight: float, *others: float) -> StepCoefficients:
    """What kernels want to know of a group's step: `update_weight` is the weight of an update in the
    momentum, `others` are what `Rates` lists after it."""
    lr = group["lr"].item()
    momentum = round_to(group["beta1"], group["momentum_dtype"])
    return StepCoefficients(lr, 1 - lr * group["weight_decay"], momentum, update_weight, *others)
