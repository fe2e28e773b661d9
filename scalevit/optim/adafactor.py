"""Adafactor as the paper modified it (§3.4, App. B): bf16 momentum, no relative steps, second-moment decay
capped at 0.999, factored over the reference's tensors.

For a tensor G of the reference, factored over its two largest axes i and j (both ≥ 32), with t = 1, 2, …:

    β₂ = min(0.999, 1 − t^−0.8)
    r ← β₂ r + (1 − β₂) mean_j(G² + 1e-30)        c ← β₂ c + (1 − β₂) mean_i(G² + 1e-30)
    u = G / sqrt(r c / mean_i(r))                  m ← 0.9 m + 0.1 u        θ ← θ − lr (m + λ θ)

(Shazeer and Stern 2018; 0.9 becomes 0.8984375 in bf16, see base.py). Query, key and value of each head have
statistics of their own although ours are one matrix: layouts (model/reference_layout.py) say where the
reference's tensors lie. The statistics of sharded parameters are small and whole on every process; their sums
cross the network in one message a step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scalevit.distributed.shards import ElementRange, is_sharded, local_range, slices_of_range
from scalevit.kernels.updates import ElementwiseUpdate, FactoredUpdate, StepCoefficients, UpdateKind
from scalevit.model.reference_layout import ReferenceLayout, same_layout
from scalevit.optim.base import (
    DecoupledOptimizer,
    GradientParameter,
    apply_update,
    apply_updates,
    chunk_size,
    flat_local,
    scratch_buffer,
    step_coefficients,
    tensor_batches,
    update_momenta,
    update_momentum,
)  # fmt: skip


@dataclass(frozen=True)
class Factoring:
    """Factored shape: our memory of a parameter, row-major, as (a, i, b, j, c): i and j are the factored
    axes, `largest` and `second` say which of the two (1 or 3) is which. Rows hold means over the largest,
    columns over the second. Without `factored`, every element has a second moment of its own: (parts, n, 1,
    1, 1)."""

    shape: tuple[int, int, int, int, int]
    parts: int
    factored: bool
    largest: int = 0
    second: int = 0

    @cached_property
    def rows(self) -> tuple[int, ...]:
        return tuple(1 if axis == self.largest else size for axis, size in enumerate(self.shape))

    @cached_property
    def columns(self) -> tuple[int, ...]:
        return tuple(1 if axis == self.second else size for axis, size in enumerate(self.shape))


@cache
def factor_axes(layout: ReferenceLayout, min_dim: int) -> Factoring:
    """Axes that the reference factors the tensors of a layout over: the last two of its axes sorted by size,
    when both have at least `min_dim` elements; of equally long axes the later ones."""
    order = sorted(range(len(layout.shape)), key=layout.shape.__getitem__)
    if len(order) < 2 or layout.shape[order[-2]] < min_dim:
        return Factoring((layout.parts, math.prod(layout.shape), 1, 1, 1), layout.parts, False)
    second, largest = layout.axes[order[-2]], layout.axes[order[-1]]
    i, j = sorted((second, largest))
    split = layout.split
    a, b, c = math.prod(split[:i]), math.prod(split[i + 1 : j]), math.prod(split[j + 1 :])
    shape = (layout.parts * a, split[i], b, split[j], c)
    return Factoring(shape, layout.parts, True, 1 if largest == i else 3, 3 if largest == i else 1)


#: Dimension, start and length of a part of a tensor.
LocalRange = tuple[int, int, int]


@dataclass(frozen=True)
class LocalPart:
    """A rectangular part of the local shard: its first element, size and shape, and its range along the
    dimensions that it does not span."""

    start: int
    size: int
    shape: tuple[int, ...]
    cuts: tuple[LocalRange, ...]

    def slice(self, flattened: Tensor) -> Tensor:
        return flattened.narrow(0, self.start, self.size)

    def broadcast_slice(self, statistic: Tensor) -> Tensor:
        """The slice of a statistic (of length 1 along reduced axes) that broadcasts to this part."""
        for dim, start, length in self.cuts:
            statistic = statistic if statistic.shape[dim] == 1 else statistic.narrow(dim, start, length)
        return statistic


@cache
def _local_parts(shape: tuple[int, ...], start: int, stop: int, most: int) -> list[LocalPart]:
    out, at = [], 0
    for box in slices_of_range(shape, start, stop, most):
        lengths = tuple(side.stop - side.start for side in box)
        sides = enumerate(zip(box, lengths, shape, strict=True))
        cuts = tuple((dim, side.start, length) for dim, (side, length, all_) in sides if length < all_)
        out.append(LocalPart(at, math.prod(lengths), lengths, cuts))
        at += out[-1].size
    return out


@dataclass
class _ParameterStep:
    """One parameter in one step. beta2: β₂ of this step; scratch: memory for one part, None where allocating
    is cheap."""

    group: dict[str, Any]
    state: dict[str, Any]
    factoring: Factoring
    span: ElementRange
    parameter: Tensor
    gradient: Tensor
    beta2: float
    scratch: Tensor | None

    @cached_property
    def sums(self) -> Tensor:
        """Σ G² along rows and columns of a factored parameter, concatenated."""
        return torch.zeros(
            math.prod(self.factoring.rows) + math.prod(self.factoring.columns), device=self.gradient.device
        )

    def parts(self) -> list[LocalPart]:
        size = chunk_size(self.gradient.device)
        return _local_parts(self.factoring.shape, self.span.start, self.span.stop, size)

    def buffer_of(self, part: LocalPart) -> Tensor | None:
        return None if self.scratch is None else self.scratch.narrow(0, 0, part.size).view(part.shape)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Factors of rows and of columns, whose product scales an element of the gradient."""
        rows, columns = self.state["rows"], self.state["columns"]
        return _inverse_root(rows / rows.mean(dim=self.factoring.second, keepdim=True)), _inverse_root(
            columns
        )


def _inverse_root(value: Tensor) -> Tensor:
    """1 / √value, exact to the last bit of fp32: torch's rsqrt is off by a few units in the last place, which
    can tip a momentum's rounding."""
    return value.double().rsqrt().float()


class Adafactor(DecoupledOptimizer):
    """Adafactor (Shazeer and Stern 2018) with momentum; groups may carry `layouts` (without them a
    parameter is taken as it is), `lr` and `weight_decay`.

    clip_threshold: largest root mean square of a reference tensor's update, None for no limit."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        beta1: float = 0.9,
        decay_rate: float = 0.8,
        beta2_cap: float = 0.999,
        min_dim: int = 32,
        eps: float = 1e-30,
        clip_threshold: float | None = None,
        momentum_dtype: torch.dtype = torch.bfloat16,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            key: value for key, value in locals().items() if key not in ("self", "params", "__class__")
        }
        super().__init__(params, defaults)

    def _moments(self, parameter: Tensor, group: dict[str, Any], index: int) -> dict[str, Tensor]:
        factoring = _factoring_of(group, index, parameter)
        if not factoring.factored:
            return {"second_moment": torch.zeros_like(parameter, dtype=torch.float32)}
        shapes = {"rows": factoring.rows, "columns": factoring.columns}
        return {name: torch.zeros(shape, device=parameter.device) for name, shape in shapes.items()}

    def _kind(self, group: dict[str, Any], index: int, parameter: Tensor) -> UpdateKind | None:
        factoring = _factoring_of(group, index, parameter)
        if group["clip_threshold"] is not None:
            return None
        if not factoring.factored:
            return ElementwiseUpdate("adafactor", ("second_moment",))
        if is_sharded(parameter) or factoring.shape[-1] > 1 or parameter.numel() >= 2**31:  # 32-bit offsets
            return None
        return FactoredUpdate(*factoring.shape[:4], rows_first=factoring.second == 1)

    def _rates(self, group: dict[str, Any], step: float) -> StepCoefficients:
        beta2 = beta2_at(step, group["decay_rate"], group["beta2_cap"])
        return step_coefficients(group, 1 - group["beta1"], beta2, group["eps"])

    def _apply(self, pending: list[GradientParameter]) -> None:
        buffer = scratch_buffer(pending[0][2].device) if pending else None
        parameters, alike = list[_ParameterStep](), dict[tuple[int, float], list[_ParameterStep]]()
        for item in (self._parameter_step(*slot, buffer) for slot in pending):
            if item.factoring.factored or item.group["clip_threshold"] is not None:
                parameters.append(item)
            else:
                alike.setdefault((id(item.group), item.beta2), []).append(item)
        for batch in alike.values():
            _step_elements(batch)
        sharded = [item for item in parameters if item.span.group is not None]
        whole = [[item] for item in parameters if item.span.group is None]
        for batch in [sharded, *whole] if sharded else whole:
            _step_together(batch)

    def _parameter_step(
        self, group: dict[str, Any], index: int, parameter: Tensor, scratch: Tensor | None
    ) -> _ParameterStep:
        factoring = _factoring_of(group, index, parameter)
        state = self._start(parameter, group, index)
        state["step"] += 1
        beta2 = beta2_at(state["step"].item(), group["decay_rate"], group["beta2_cap"])
        weights, gradient = flat_local(parameter), flat_local(parameter.grad)  # pyright: ignore[reportArgumentType]
        return _ParameterStep(
            group, state, factoring, local_range(parameter), weights, gradient, beta2, scratch
        )


def _factoring_of(group: dict[str, Any], index: int, parameter: Tensor) -> Factoring:
    layout = group["layouts"][index] if group["layouts"] else same_layout(tuple(parameter.shape))
    return factor_axes(layout, group["min_dim"])


@lru_cache
def beta2_at(step: float, decay_rate: float, cap: float) -> float:
    """β₂ of step 1, 2, …, in fp32 as the authors'."""
    return float((1 - torch.tensor(step) ** -decay_rate).clamp(max=cap))


def _step_together(batch: list[_ParameterStep]) -> None:
    """Factored update of a batch; all processes take the same batch, so that their collectives match."""
    for item in batch:
        if item.factoring.factored:
            _sum_squares(item)
    _reduce([item.sums for item in batch], batch[0].span)
    for item in batch:
        _renew(item)
    norms = _squared_norms(batch)
    for item, norm in zip(batch, norms, strict=True):
        _update(item, norm)


def _step_elements(parameters: list[_ParameterStep]) -> None:
    """Unfactored update of parameters of one group whose updates are not clipped: element by element,
    so that many small parameters are one batch."""
    group, beta2 = parameters[0].group, parameters[0].beta2
    rows = [
        [w.parameter, w.gradient, flat_local(w.state["momentum"]), flat_local(w.state["second_moment"])]
        for w in parameters
    ]
    for batch in tensor_batches(rows):
        weights, gradients, momenta, second = batch.columns
        torch._foreach_copy_(batch.buffers, gradients)
        batch.buffer.square_().add_(group["eps"])
        torch._foreach_mul_(second, beta2)
        torch._foreach_add_(second, batch.buffers, alpha=1 - beta2)
        torch._foreach_copy_(batch.buffers, second)
        batch.buffer.rsqrt_()
        torch._foreach_mul_(batch.buffers, gradients)
        batch.buffer.mul_(1 - group["beta1"])
        update_momenta(momenta, batch.buffers, group)
        apply_updates(weights, batch.buffers, group)


def _reduce(sums: list[Tensor], over: ElementRange) -> None:
    if over.group is None:
        return
    message = torch.cat(sums)
    dist.all_reduce(message, group=over.group)
    for own, total in zip(sums, message.split([len(own) for own in sums]), strict=True):
        own.copy_(total)


def _sum_squares(item: _ParameterStep) -> None:
    rows, columns = _split(item.sums, item.factoring)
    for part in item.parts():
        gradient = part.slice(item.gradient).view(part.shape)
        squares = torch.mul(gradient, gradient, out=item.buffer_of(part))
        part.broadcast_slice(rows).add_(squares.sum(dim=item.factoring.largest, keepdim=True))
        part.broadcast_slice(columns).add_(squares.sum(dim=item.factoring.second, keepdim=True))


def _renew(item: _ParameterStep) -> None:
    """Second moments of this step, updated in place."""
    group, state, beta2 = item.group, item.state, item.beta2
    if not item.factoring.factored:
        squares = item.gradient.square().add_(group["eps"])
        flat_local(state["second_moment"]).mul_(beta2).add_(squares, alpha=1 - beta2)
        return
    rows, columns = _split(item.sums, item.factoring)
    shape, largest, second = item.factoring.shape, item.factoring.largest, item.factoring.second
    state["rows"].mul_(beta2).add_(rows.div_(shape[largest]).add_(group["eps"]), alpha=1 - beta2)
    state["columns"].mul_(beta2).add_(columns.div_(shape[second]).add_(group["eps"]), alpha=1 - beta2)


def _directions(item: _ParameterStep, scale: float = 1.0) -> Iterator[tuple[LocalPart, Tensor]]:
    """Part by part, `scale` times the gradient over the root of its second moment."""
    if not item.factoring.factored:
        second = flat_local(item.state["second_moment"])
        for part in item.parts():
            gradient, v = part.slice(item.gradient).view(part.shape), part.slice(second).view(part.shape)
            yield part, torch.rsqrt(v, out=item.buffer_of(part)).mul_(gradient).mul_(scale)
        return
    rows, columns = item.factors()
    rows = rows * scale  # small, unlike the gradient
    for part in item.parts():
        gradient = part.slice(item.gradient).view(part.shape)
        update = torch.mul(gradient, part.broadcast_slice(rows), out=item.buffer_of(part))
        yield part, update.mul_(part.broadcast_slice(columns))


def _squared_norms(batch: list[_ParameterStep]) -> list[Tensor | None]:
    """Squared norms of the updates of each reference tensor, where updates are clipped; else None."""
    if all(item.group["clip_threshold"] is None for item in batch):
        return [None] * len(batch)
    sums = []
    for item in batch:
        norms = torch.zeros(item.factoring.shape[0], 1, 1, 1, 1, device=item.gradient.device)
        for part, update in _directions(item):
            part.broadcast_slice(norms).add_(update.square().sum(dim=(1, 2, 3, 4), keepdim=True))
        sums.append(norms.view(-1))
    _reduce(sums, batch[0].span)
    return [norms.view(item.factoring.parts, -1).sum(dim=1) for item, norms in zip(batch, sums, strict=True)]


def _update(item: _ParameterStep, squared_norm: Tensor | None) -> None:
    group, momentum = item.group, flat_local(item.state["momentum"])
    limits = None if squared_norm is None else _limits(item, squared_norm)
    for part, update in _directions(item, 1 - group["beta1"]):
        if limits is not None:
            update.mul_(part.broadcast_slice(limits))
        update = update.view(-1)
        update_momentum(part.slice(momentum), update, group)
        apply_update(part.slice(item.parameter), update, group)


def _limits(item: _ParameterStep, squared_norm: Tensor) -> Tensor:
    """Clipping factors (a, 1, 1, 1, 1) that bring each tensor's root mean square down to the threshold."""
    size = math.prod(item.factoring.shape) // item.factoring.parts
    excess = (squared_norm / size).sqrt() / (item.group["clip_threshold"] or math.inf)
    factors = 1 / excess.clamp(min=1.0)
    return factors.repeat_interleave(item.factoring.shape[0] // item.factoring.parts).view(-1, 1, 1, 1, 1)


def _split(sums: Tensor, factoring: Factoring) -> tuple[Tensor, Tensor]:
    rows = math.prod(factoring.rows)
    return sums[:rows].view(factoring.rows), sums[rows:].view(factoring.columns)
