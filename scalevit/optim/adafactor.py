"""Adafactor as the paper modified it (§3.4, App. B): bf16 momentum, no relative steps, second-moment decay
capped at 0.999, factored over the reference's tensors.

For a tensor G of the reference, factored over its two largest axes i and j (both ≥ 32), with t = 1, 2, …:

    β₂ = min(0.999, 1 − t^−0.8)
    r ← β₂ r + (1 − β₂) mean_j(G² + 1e-30)        c ← β₂ c + (1 − β₂) mean_i(G² + 1e-30)
    u = G / sqrt(r c / mean_i(r))                  m ← 0.9 m + 0.1 u        θ ← θ − lr (m + λ θ)

(Shazeer and Stern 2018; 0.9 becomes 0.8984375 in bf16, see momentum.py). Query, key and value of each head
have statistics of their own although ours are one matrix: views (layout.py) say where the reference's tensors
lie. The statistics of sharded parameters are small and whole on every process; their sums cross the network
in one message a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scalevit.distributed.shards import Span, boxes, is_sharded, span
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
    """Our memory of a parameter, row-major, as (a, i, b, j, c): i and j are the factored axes, and `largest`
    and `second` say which of the two (1 or 3) is which. Rows hold means over the largest, columns over the
    second. Without `factored`, every element has a second moment of its own: (parts, n, 1, 1, 1)."""

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
def factor_axes(view: ReferenceLayout, min_dim: int) -> Factoring:
    """How the reference factors the tensors of a view: over the last two of its axes sorted by size, when
    both have at least `min_dim` elements; of equally long axes the later ones."""
    order = sorted(range(len(view.shape)), key=view.shape.__getitem__)
    if len(order) < 2 or view.shape[order[-2]] < min_dim:
        return Factoring((view.parts, math.prod(view.shape), 1, 1, 1), view.parts, False)
    second, largest = view.axes[order[-2]], view.axes[order[-1]]
    i, j = sorted((second, largest))
    split = view.split
    a, b, c = math.prod(split[:i]), math.prod(split[i + 1 : j]), math.prod(split[j + 1 :])
    shape = (view.parts * a, split[i], b, split[j], c)
    return Factoring(shape, view.parts, True, 1 if largest == i else 3, 3 if largest == i else 1)


#: Dimension, start and length of a part of a tensor.
LocalRange = tuple[int, int, int]


@dataclass(frozen=True)
class LocalPart:
    """Part of the local memory, its shape, and where it lies along the dimensions that it does not span."""

    start: int
    size: int
    shape: tuple[int, ...]
    cuts: tuple[LocalRange, ...]

    def of(self, flattened: Tensor) -> Tensor:
        return flattened.narrow(0, self.start, self.size)

    def within(self, whole: Tensor) -> Tensor:
        """What belongs to this piece of a tensor that has length 1 where it says the same for all."""
        for dim, start, length in self.cuts:
            whole = whole if whole.shape[dim] == 1 else whole.narrow(dim, start, length)
        return whole


@cache
def _local_parts(shape: tuple[int, ...], start: int, stop: int, most: int) -> list[LocalPart]:
    out, at = [], 0
    for box in boxes(shape, start, stop, most):
        lengths = tuple(side.stop - side.start for side in box)
        sides = enumerate(zip(box, lengths, shape, strict=True))
        cuts = tuple((dim, side.start, length) for dim, (side, length, all_) in sides if length < all_)
        out.append(LocalPart(at, math.prod(lengths), lengths, cuts))
        at += out[-1].size
    return out


@dataclass
class _ParameterStep:
    """One parameter in one step. kept: β₂ of this step; scratch: memory for one piece, None where allocating
    is cheap."""

    group: dict[str, Any]
    state: dict[str, Any]
    fold: Factoring
    span: Span
    parameter: Tensor
    gradient: Tensor
    kept: float
    scratch: Tensor | None

    @cached_property
    def sums(self) -> Tensor:
        """Σ G² along rows and columns of a factored one, one after the other."""
        return torch.zeros(
            math.prod(self.fold.rows) + math.prod(self.fold.columns), device=self.gradient.device
        )

    def pieces(self) -> list[LocalPart]:
        size = chunk_size(self.gradient.device)
        return _local_parts(self.fold.shape, self.span.start, self.span.stop, size)

    def room(self, piece: LocalPart) -> Tensor | None:
        return None if self.scratch is None else self.scratch.narrow(0, 0, piece.size).view(piece.shape)

    def factors(self) -> tuple[Tensor, Tensor]:
        """What an element is multiplied with for its row, and then for its column."""
        rows, columns = self.state["rows"], self.state["columns"]
        return _inverse_root(rows / rows.mean(dim=self.fold.second, keepdim=True)), _inverse_root(columns)


def _inverse_root(value: Tensor) -> Tensor:
    """Exact to the last bit of fp32: torch's rsqrt is off by some, which can tip a momentum's rounding."""
    return value.double().rsqrt().float()


class Adafactor(DecoupledOptimizer):
    """Groups may carry `views` (else a parameter is taken as it is), `lr` and `weight_decay`.

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
        folded = _factoring_of(group, index, parameter)
        if not folded.factored:
            return {"second_moment": torch.zeros_like(parameter, dtype=torch.float32)}
        shapes = {"rows": folded.rows, "columns": folded.columns}
        return {name: torch.zeros(shape, device=parameter.device) for name, shape in shapes.items()}

    def _kind(self, group: dict[str, Any], index: int, parameter: Tensor) -> UpdateKind | None:
        folded = _factoring_of(group, index, parameter)
        if group["clip_threshold"] is not None:
            return None
        if not folded.factored:
            return ElementwiseUpdate("adafactor", ("second_moment",))
        if is_sharded(parameter) or folded.shape[-1] > 1:
            return None
        return FactoredUpdate(*folded.shape[:4], rows_first=folded.second == 1)

    def _rates(self, group: dict[str, Any], step: float) -> StepCoefficients:
        kept = beta2(step, group["decay_rate"], group["beta2_cap"])
        return step_coefficients(group, 1 - group["beta1"], kept, group["eps"])

    def _apply(self, due: list[GradientParameter]) -> None:
        room = scratch_buffer(due[0][2].device) if due else None
        works, alike = list[_ParameterStep](), dict[tuple[int, float], list[_ParameterStep]]()
        for work in (self._work(*one, room) for one in due):
            if work.fold.factored or work.group["clip_threshold"] is not None:
                works.append(work)
            else:
                alike.setdefault((id(work.group), work.kept), []).append(work)
        for batch in alike.values():
            _step_elements(batch)
        sharded = [work for work in works if work.span.group is not None]
        whole = [[work] for work in works if work.span.group is None]
        for batch in [sharded, *whole] if sharded else whole:
            _step_together(batch)

    def _work(
        self, group: dict[str, Any], index: int, parameter: Tensor, scratch: Tensor | None
    ) -> _ParameterStep:
        folded = _factoring_of(group, index, parameter)
        state = self._start(parameter, group, index)
        state["step"] += 1
        kept = beta2(state["step"].item(), group["decay_rate"], group["beta2_cap"])
        weights, gradient = flat_local(parameter), flat_local(parameter.grad)  # pyright: ignore[reportArgumentType]
        return _ParameterStep(group, state, folded, span(parameter), weights, gradient, kept, scratch)


def _factoring_of(group: dict[str, Any], index: int, parameter: Tensor) -> Factoring:
    view = group["views"][index] if group["views"] else same_layout(tuple(parameter.shape))
    return factor_axes(view, group["min_dim"])


@lru_cache
def beta2(step: float, decay_rate: float, cap: float) -> float:
    """β₂ of step 1, 2, …, in fp32 as the authors'."""
    return float((1 - torch.tensor(step) ** -decay_rate).clamp(max=cap))


def _step_together(batch: list[_ParameterStep]) -> None:
    """All processes walk through the same batch, so that their messages meet."""
    for work in batch:
        if work.fold.factored:
            _sum_squares(work)
    _reduce([work.sums for work in batch], batch[0].span)
    for work in batch:
        _renew(work)
    norms = _squared_norms(batch)
    for work, norm in zip(batch, norms, strict=True):
        _update(work, norm)


def _step_elements(works: list[_ParameterStep]) -> None:
    """Parameters of one group that are not factored, and whose updates are not clipped: each element for
    itself, so that many small ones are one batch."""
    group, kept = works[0].group, works[0].kept
    rows = [
        [w.parameter, w.gradient, flat_local(w.state["momentum"]), flat_local(w.state["second_moment"])]
        for w in works
    ]
    for batch in tensor_batches(rows):
        weights, gradients, momenta, second = batch.columns
        torch._foreach_copy_(batch.rooms, gradients)
        batch.room.square_().add_(group["eps"])
        torch._foreach_mul_(second, kept)
        torch._foreach_add_(second, batch.rooms, alpha=1 - kept)
        torch._foreach_copy_(batch.rooms, second)
        batch.room.rsqrt_()
        torch._foreach_mul_(batch.rooms, gradients)
        batch.room.mul_(1 - group["beta1"])
        update_momenta(momenta, batch.rooms, group)
        apply_updates(weights, batch.rooms, group)


def _reduce(sums: list[Tensor], over: Span) -> None:
    if over.group is None:
        return
    message = torch.cat(sums)
    dist.all_reduce(message, group=over.group)
    for own, total in zip(sums, message.split([len(own) for own in sums]), strict=True):
        own.copy_(total)


def _sum_squares(work: _ParameterStep) -> None:
    rows, columns = _split(work.sums, work.fold)
    for piece in work.pieces():
        gradient = piece.of(work.gradient).view(piece.shape)
        squares = torch.mul(gradient, gradient, out=work.room(piece))
        piece.within(rows).add_(squares.sum(dim=work.fold.largest, keepdim=True))
        piece.within(columns).add_(squares.sum(dim=work.fold.second, keepdim=True))


def _renew(work: _ParameterStep) -> None:
    """The second moments of this step."""
    group, state, kept = work.group, work.state, work.kept
    if not work.fold.factored:
        squares = work.gradient.square().add_(group["eps"])
        flat_local(state["second_moment"]).mul_(kept).add_(squares, alpha=1 - kept)
        return
    rows, columns = _split(work.sums, work.fold)
    shape, largest, second = work.fold.shape, work.fold.largest, work.fold.second
    state["rows"].mul_(kept).add_(rows.div_(shape[largest]).add_(group["eps"]), alpha=1 - kept)
    state["columns"].mul_(kept).add_(columns.div_(shape[second]).add_(group["eps"]), alpha=1 - kept)


def _directions(work: _ParameterStep, scale: float = 1.0) -> Iterator[tuple[LocalPart, Tensor]]:
    """Piece by piece, `scale` times the gradient over the root of its second moment."""
    if not work.fold.factored:
        second = flat_local(work.state["second_moment"])
        for piece in work.pieces():
            gradient, v = piece.of(work.gradient).view(piece.shape), piece.of(second).view(piece.shape)
            yield piece, torch.rsqrt(v, out=work.room(piece)).mul_(gradient).mul_(scale)
        return
    rows, columns = work.factors()
    rows = rows * scale  # small, unlike the gradient
    for piece in work.pieces():
        gradient = piece.of(work.gradient).view(piece.shape)
        update = torch.mul(gradient, piece.within(rows), out=work.room(piece))
        yield piece, update.mul_(piece.within(columns))


def _squared_norms(batch: list[_ParameterStep]) -> list[Tensor | None]:
    """Of each part's update, where updates are clipped."""
    if all(work.group["clip_threshold"] is None for work in batch):
        return [None] * len(batch)
    sums = []
    for work in batch:
        norms = torch.zeros(work.fold.shape[0], 1, 1, 1, 1, device=work.gradient.device)
        for piece, update in _directions(work):
            piece.within(norms).add_(update.square().sum(dim=(1, 2, 3, 4), keepdim=True))
        sums.append(norms.view(-1))
    _reduce(sums, batch[0].span)
    return [norms.view(work.fold.parts, -1).sum(dim=1) for work, norms in zip(batch, sums, strict=True)]


def _update(work: _ParameterStep, squared_norm: Tensor | None) -> None:
    group, momentum = work.group, flat_local(work.state["momentum"])
    limits = None if squared_norm is None else _limits(work, squared_norm)
    for piece, update in _directions(work, 1 - group["beta1"]):
        if limits is not None:
            update.mul_(piece.within(limits))
        update = update.view(-1)
        update_momentum(piece.of(momentum), update, group)
        apply_update(piece.of(work.parameter), update, group)


def _limits(work: _ParameterStep, squared_norm: Tensor) -> Tensor:
    """Factors (a, 1, 1, 1, 1) that bring the root mean square of each part down to the threshold."""
    size = math.prod(work.fold.shape) // work.fold.parts
    excess = (squared_norm / size).sqrt() / (work.group["clip_threshold"] or math.inf)
    factors = 1 / excess.clamp(min=1.0)
    return factors.repeat_interleave(work.fold.shape[0] // work.fold.parts).view(-1, 1, 1, 1, 1)


def _split(sums: Tensor, folded: Factoring) -> tuple[Tensor, Tensor]:
    rows = math.prod(folded.rows)
    return sums[:rows].view(folded.rows), sums[rows:].view(folded.columns)
