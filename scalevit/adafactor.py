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
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scalevit.layout import View, plain
from scalevit.momentum import Decoupled, Due, descend, flat, follow, piece_size, rounded
from scalevit.shards import Box, Span, boxes, span


@dataclass(frozen=True)
class Fold:
    """Our memory of a parameter, row-major, as (a, i, b, j, c): i and j are the factored axes, and `largest`
    and `second` say which of the two (1 or 3) is which. Rows hold means over the largest, columns over the
    second. Without `factored`, every element has a second moment of its own: (parts, n, 1, 1, 1)."""

    shape: tuple[int, int, int, int, int]
    parts: int
    factored: bool
    largest: int = 0
    second: int = 0

    @property
    def rows(self) -> tuple[int, ...]:
        return tuple(1 if axis == self.largest else size for axis, size in enumerate(self.shape))

    @property
    def columns(self) -> tuple[int, ...]:
        return tuple(1 if axis == self.second else size for axis, size in enumerate(self.shape))

    def at_rows(self, box: Box) -> Box:
        return tuple(slice(None) if axis == self.largest else side for axis, side in enumerate(box))

    def at_columns(self, box: Box) -> Box:
        return tuple(slice(None) if axis == self.second else side for axis, side in enumerate(box))


@cache
def fold(view: View, min_dim: int) -> Fold:
    """How the reference factors the tensors of a view: over the last two of its axes sorted by size, when
    both have at least `min_dim` elements; of equally long axes the later ones."""
    order = sorted(range(len(view.shape)), key=view.shape.__getitem__)
    if len(order) < 2 or view.shape[order[-2]] < min_dim:
        return Fold((view.parts, math.prod(view.shape), 1, 1, 1), view.parts, False)
    second, largest = view.axes[order[-2]], view.axes[order[-1]]
    i, j = sorted((second, largest))
    split = view.split
    a, b, c = math.prod(split[:i]), math.prod(split[i + 1 : j]), math.prod(split[j + 1 :])
    shape = (view.parts * a, split[i], b, split[j], c)
    return Fold(shape, view.parts, True, 1 if largest == i else 3, 3 if largest == i else 1)


@cache
def _pieces(shape: tuple[int, ...], start: int, stop: int, most: int) -> list[tuple[slice, Box]]:
    """Slices of the local memory and where they lie in the whole."""
    out, at = [], 0
    for box in boxes(shape, start, stop, most):
        size = math.prod(side.stop - side.start for side in box)
        out.append((slice(at, at + size), box))
        at += size
    return out


@dataclass
class _Work:
    """One parameter in one step. sums: Σ_j G² and Σ_i G² of a factored one, one behind the other."""

    group: dict[str, Any]
    state: dict[str, Any]
    fold: Fold
    span: Span
    parameter: Tensor
    gradient: Tensor
    sums: Tensor

    def pieces(self) -> Iterator[tuple[slice, Box]]:
        size = piece_size(self.gradient.device)
        return iter(_pieces(self.fold.shape, self.span.start, self.span.stop, size))

    def factors(self) -> tuple[Tensor, Tensor]:
        """What an element is multiplied with for its row, and then for its column."""
        rows, columns = self.state["rows"], self.state["columns"]
        return (rows / rows.mean(dim=self.fold.second, keepdim=True)).rsqrt(), columns.rsqrt()


class Adafactor(Decoupled):
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

    def _apply(self, due: list[Due]) -> None:
        works = [self._work(*one) for one in due]
        sharded = [work for work in works if work.span.group is not None]
        whole = [[work] for work in works if work.span.group is None]
        for batch in [sharded, *whole] if sharded else whole:
            _step_together(batch)

    def _work(self, group: dict[str, Any], index: int, parameter: Tensor) -> _Work:
        view = group["views"][index] if group["views"] else plain(tuple(parameter.shape))
        folded = fold(view, group["min_dim"])
        state = self._start(parameter, group)
        if len(state) == 2 and folded.factored:
            state["rows"] = torch.zeros(folded.rows, device=parameter.device)
            state["columns"] = torch.zeros(folded.columns, device=parameter.device)
        elif len(state) == 2:
            state["second_moment"] = torch.zeros_like(parameter, dtype=torch.float32)
        state["step"] += 1
        size = math.prod(folded.rows) + math.prod(folded.columns) if folded.factored else 0
        sums = torch.zeros(size, device=parameter.device)
        assert parameter.grad is not None
        return _Work(
            group, state, folded, span(parameter), flat(parameter), flat(parameter.grad), sums
        )  # fmt: skip


def _step_together(batch: list[_Work]) -> None:
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


def _reduce(sums: list[Tensor], over: Span) -> None:
    if over.group is None:
        return
    message = torch.cat(sums)
    dist.all_reduce(message, group=over.group)
    for own, total in zip(sums, message.split([len(own) for own in sums]), strict=True):
        own.copy_(total)


def _sum_squares(work: _Work) -> None:
    rows, columns = _split(work.sums, work.fold)
    for at, box in work.pieces():
        squares = work.gradient[at].square().view(_sizes(box))
        rows[work.fold.at_rows(box)] += squares.sum(dim=work.fold.largest, keepdim=True)
        columns[work.fold.at_columns(box)] += squares.sum(dim=work.fold.second, keepdim=True)


def _renew(work: _Work) -> None:
    """The second moments of this step."""
    group, state = work.group, work.state
    kept = float((1 - state["step"] ** -group["decay_rate"]).clamp(max=group["beta2_cap"]))
    if not work.fold.factored:
        squares = work.gradient.square().add_(group["eps"])
        flat(state["second_moment"]).mul_(kept).add_(squares, alpha=1 - kept)
        return
    rows, columns = _split(work.sums, work.fold)
    shape, largest, second = work.fold.shape, work.fold.largest, work.fold.second
    state["rows"].mul_(kept).add_(rows.div_(shape[largest]).add_(group["eps"]), alpha=1 - kept)
    state["columns"].mul_(kept).add_(columns.div_(shape[second]).add_(group["eps"]), alpha=1 - kept)


def _directions(work: _Work) -> Iterator[tuple[slice, Box, Tensor]]:
    """Piece by piece, the gradient over the root of its second moment."""
    if not work.fold.factored:
        second = flat(work.state["second_moment"])
        for at, box in work.pieces():
            yield at, box, second[at].rsqrt().mul_(work.gradient[at])
        return
    rows, columns = work.factors()
    for at, box in work.pieces():
        update = work.gradient[at].view(_sizes(box)) * rows[work.fold.at_rows(box)]
        yield at, box, update.mul_(columns[work.fold.at_columns(box)]).view(-1)


def _squared_norms(batch: list[_Work]) -> list[Tensor | None]:
    """Of each part's update, where updates are clipped."""
    clipped = [work for work in batch if work.group["clip_threshold"] is not None]
    if not clipped:
        return [None] * len(batch)
    sums = []
    for work in batch:
        norms = torch.zeros(work.fold.shape[0], device=work.gradient.device)
        for _, box, update in _directions(work):
            norms[box[0]] += update.square().view(_sizes(box)).sum(dim=(1, 2, 3, 4))
        sums.append(norms)
    _reduce(sums, batch[0].span)
    return [norms.view(work.fold.parts, -1).sum(dim=1) for work, norms in zip(batch, sums, strict=True)]


def _update(work: _Work, squared_norm: Tensor | None) -> None:
    group = work.group
    momentum = flat(work.state["momentum"])
    decay = rounded(group["beta1"], group["momentum_dtype"])
    limits = None if squared_norm is None else _limits(work, squared_norm)
    for at, box, update in _directions(work):
        if limits is not None:
            update.view(_sizes(box)).mul_(limits[box[0]])
        update.mul_(1 - group["beta1"])
        follow(momentum[at], update, decay)
        descend(work.parameter[at], update, group)


def _limits(work: _Work, squared_norm: Tensor) -> Tensor:
    """Factors (a, 1, 1, 1, 1) that bring the root mean square of each part down to the threshold."""
    size = math.prod(work.fold.shape) // work.fold.parts
    excess = (squared_norm / size).sqrt() / work.group["clip_threshold"]
    factors = 1 / excess.clamp(min=1.0)
    return factors.repeat_interleave(work.fold.shape[0] // work.fold.parts).view(-1, 1, 1, 1, 1)


def _split(sums: Tensor, folded: Fold) -> tuple[Tensor, Tensor]:
    rows = math.prod(folded.rows)
    return sums[:rows].view(folded.rows), sums[rows:].view(folded.columns)


def _sizes(box: Box) -> list[int]:
    return [side.stop - side.start for side in box]
