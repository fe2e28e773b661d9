"""What the three optimizers share: bf16 momentum as the authors keep it, decoupled decay, pieces for a cache.

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
from scalevit.distributed.shards import local
from scalevit.kernels.fake_device import is_cpu
from scalevit.kernels.updates import StepCoefficients, UpdateKind, UpdateLaunch, can_update

#: Elements of a CPU's working piece: what is read a second time is then still in the cache.
CACHE_CHUNK = 1 << 19

#: A parameter with a gradient: its group, its place in it, itself.
GradientParameter = tuple[dict[str, Any], int, Tensor]


@cache
def round_to(value: float, dtype: torch.dtype) -> float:
    """A factor as it is after rounding to the dtype of what it multiplies."""
    return float(torch.tensor(value, dtype=dtype))


class DecoupledOptimizer(torch.optim.Optimizer):
    """θ ← θ − lr · (u + weight_decay · θ), for updates u of the subclass.

    Groups may carry `lr`, `weight_decay`, and `views`, one layout.View a parameter. `lr` becomes a tensor on
    the CPU: fill it to change the rate."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if not 0 <= defaults["beta1"] < 1:
            raise ValueError(f"beta1 must lie in [0, 1), found {defaults['beta1']}")
        super().__init__(params, {"views": None, **defaults})
        self._planned: UpdatePlan | None = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        # without the wrapper that imports torch's compiler, which costs every process most of a second
        torch.optim.Optimizer.add_param_group.__wrapped__(self, param_group)  # pyright: ignore
        group = self.param_groups[-1]
        group["lr"] = torch.tensor(float(group["lr"]))
        views = group["views"]
        if views is not None and len(views) != len(group["params"]):
            raise ValueError(f"{len(views)} views for {len(group['params'])} parameters")

    def state_dict(self) -> dict[str, Any]:
        """As torch's, without the views: those belong to the model, and torch.load would refuse them."""
        saved = super().state_dict()
        for group in saved["param_groups"]:
            group.pop("views")
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which turns the momentum into the parameters' dtype: it is turned back, losslessly."""
        views = [group["views"] for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, kept in zip(self.param_groups, views, strict=True):
            group["views"] = kept
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
        due = list(self._with_gradients())
        if due and can_update(due[0][2]):
            due = self._by_kernels(due)
        self._apply(due)
        return loss

    def _apply(self, due: list[GradientParameter]) -> None:
        raise NotImplementedError

    def _kind(self, group: dict[str, Any], index: int, parameter: Tensor) -> UpdateKind | None:
        """The kernel that updates this parameter; None where there is none."""
        raise NotImplementedError

    def _rates(self, group: dict[str, Any], step: float) -> StepCoefficients:
        """The numbers of this step, 1, 2, … of a group."""
        raise NotImplementedError

    def _by_kernels(self, due: list[GradientParameter]) -> list[GradientParameter]:
        """Update by kernels what they can; gives the rest. What does not change from step to step is looked
        up once: hundreds of parameters would keep the accelerator waiting for Python."""
        if self._planned is None or not self._planned.fits(due, self.state):
            self._planned = self._plan(due)
        if self._planned.steps:
            torch._foreach_add_(self._planned.steps, 1)
        for group, launch in self._planned.launches:
            launch.run(self._rates(group, launch.states[0]["step"].item()))
        return self._planned.rest

    def _plan(self, due: list[GradientParameter]) -> UpdatePlan:
        alike: dict[Any, tuple[dict[str, Any], UpdateKind, list[Tensor], list[dict[str, Any]]]] = {}
        rest = []
        for group, index, parameter in due:
            known = can_update(parameter) and group["momentum_dtype"] in (torch.float32, torch.bfloat16)
            kind = self._kind(group, index, parameter) if known else None
            if kind is None:
                rest.append((group, index, parameter))
                continue
            state = self._start(parameter, group, index)
            found = alike.setdefault((id(group), state["step"].item(), kind), (group, kind, [], []))
            found[2].append(parameter)
            found[3].append(state)
        launches = [
            (group, UpdateLaunch(kind, found, states)) for group, kind, found, states in alike.values()
        ]
        return UpdatePlan(launches, rest, [parameter for _, _, parameter in due])

    def _with_gradients(self) -> Iterator[GradientParameter]:
        for group in self.param_groups:
            for index, parameter in enumerate(group["params"]):
                if parameter.grad is not None:
                    yield group, index, parameter

    def _start(self, parameter: Tensor, group: dict[str, Any], index: int) -> dict[str, Any]:
        """The state of a parameter, made at its first step."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["momentum"] = torch.zeros_like(parameter, dtype=group["momentum_dtype"])
            state.update(self._moments(parameter, group, index))
        return state

    def _moments(self, parameter: Tensor, group: dict[str, Any], index: int) -> dict[str, Tensor]:
        """What a rule keeps beside the momentum."""
        return {}


@dataclass(frozen=True)
class UpdatePlan:
    """How the parameters of a step are updated: by launches, each with its group, or otherwise."""

    launches: list[tuple[dict[str, Any], UpdateLaunch]]
    rest: list[GradientParameter]
    parameters: list[Tensor]

    @cached_property
    def steps(self) -> list[Tensor]:
        """Everybody's count."""
        return [state["step"] for _, launch in self.launches for state in launch.states]

    def fits(self, due: list[GradientParameter], states: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether parameters and their states are the same ones as when this was made."""
        same = len(due) == len(self.parameters) and all(d[2] is p for d, p in zip(due, self.parameters))
        return same and all(launch.holds(states) for _, launch in self.launches)


def flat_local(tensor: Tensor) -> Tensor:
    """What of a tensor is here, as one dimension; a gradient of another layout is copied into ours."""
    return local(tensor.detach()).contiguous().view(-1)


def chunk_size(device: torch.device) -> int:
    """Elements of one tensor to work on at once: caches matter on CPUs, launches elsewhere."""
    return CACHE_CHUNK if is_cpu(device) else 1 << 62


def scratch_buffer(device: torch.device) -> Tensor | None:
    """Memory for a piece, so that a CPU's allocator is not asked for it again and again; None where memory is
    cached anyway."""
    return torch.empty(CACHE_CHUNK) if is_cpu(device) else None


@dataclass(frozen=True)
class TensorBatch:
    """Corresponding parts of flat tensors of many parameters: columns[k] lists the k-th tensor's. rooms: fp32
    memory of the same sizes, one after the other in `room`."""

    columns: list[list[Tensor]]
    room: Tensor
    rooms: list[Tensor]


def tensor_batches(rows: Sequence[Sequence[Tensor]]) -> Iterator[TensorBatch]:
    """Rows of equally long flat tensors, cut and gathered into batches that a cache holds on a CPU, and that
    keep the number of launches small elsewhere."""
    device = rows[0][0].device
    most = CACHE_CHUNK if is_cpu(device) else CHUNK_SIZE
    room = torch.empty(min(most, sum(len(row[0]) for row in rows)), device=device)
    taken, free = list[list[Tensor]](), len(room)
    for row in rows:
        start, length = 0, len(row[0])
        while start < length:
            count = min(free, length - start)
            taken.append([tensor[start : start + count] for tensor in row])
            start, free = start + count, free - count
            if not free:
                yield _batch(taken, room)
                taken, free = [], len(room)
    if taken:
        yield _batch(taken, room)


def _batch(taken: list[list[Tensor]], room: Tensor) -> TensorBatch:
    sizes = [len(parts[0]) for parts in taken]
    room = room[: sum(sizes)]
    return TensorBatch([list(column) for column in zip(*taken, strict=True)], room, list(room.split(sizes)))


def update_momenta(momenta: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> None:
    """`follow` for a batch."""
    torch._foreach_add_(updates, momenta, alpha=round_to(group["beta1"], group["momentum_dtype"]))
    torch._foreach_copy_(momenta, updates)


def apply_updates(parameters: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> None:
    """`descend` for a batch."""
    lr = group["lr"].item()
    if group["weight_decay"]:
        torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
    torch._foreach_add_(parameters, updates, alpha=-lr)


def update_momentum(momentum: Tensor, update: Tensor, group: dict[str, Any]) -> None:
    """update ← update + β₁ · momentum in fp32, with β₁ as it is in bf16; momentum ← update, rounded."""
    update.add_(momentum, alpha=round_to(group["beta1"], group["momentum_dtype"]))
    momentum.copy_(update)


def apply_update(parameter: Tensor, update: Tensor, group: dict[str, Any]) -> None:
    """θ ← θ − lr · (u + λ θ)."""
    lr = group["lr"].item()
    if group["weight_decay"]:
        parameter.mul_(1 - lr * group["weight_decay"])
    parameter.add_(update, alpha=-lr)


def step_coefficients(group: dict[str, Any], ours: float, *others: float) -> StepCoefficients:
    """What kernels want to know of a group's step: `ours` is the weight of an update in the momentum,
    `others` are what `Rates` lists after it."""
    lr = group["lr"].item()
    momentum = round_to(group["beta1"], group["momentum_dtype"])
    return StepCoefficients(lr, 1 - lr * group["weight_decay"], momentum, ours, *others)
