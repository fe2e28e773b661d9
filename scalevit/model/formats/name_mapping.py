"""What every format shares: where a source holds each parameter of ours, and nothing left over either way."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scalevit.model.reference_layout import ReferenceLayout

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class SourceTensors:
    """Where a source keeps one parameter of ours: `names`, one for each part of `view`, each a tensor of
    `shape` (the view's own shape, or one with axes of length 1 more or less)."""

    names: tuple[str, ...]
    view: ReferenceLayout
    shape: tuple[int, ...]


def source_tensors(
    names: Sequence[str], view: ReferenceLayout, shape: tuple[int, ...] | None = None
) -> SourceTensors:
    return SourceTensors(tuple(names), view, view.shape if shape is None else shape)


def stacked(
    names: Sequence[str], ours: tuple[int, ...], shape: tuple[int, ...] | None = None
) -> SourceTensors:
    """A source with torch's own layout: its tensors are stacked along the first axis of `ours`, our shape."""
    part = (ours[0] // len(names), *ours[1:])
    return source_tensors(names, ReferenceLayout(len(names), part, tuple(range(len(part)))), shape)


def to_ours(
    source: Tensors, places: Mapping[str, SourceTensors], shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """Our state dict. Raises ValueError naming every tensor that is missing, left over, of another shape,
    or not finite, with the nearest names of the other side."""
    _raise_on(_mismatches(source, places))
    ours = {}
    for name, place in places.items():
        parts = torch.stack([source[part].reshape(place.view.shape) for part in place.names])
        ours[name] = place.view.from_reference(parts).reshape(shapes[name]).contiguous()
    return ours


def from_ours(ours: Tensors, places: Mapping[str, SourceTensors]) -> dict[str, Tensor]:
    """The source's tensors; the inverse of `to_ours`, bit for bit."""
    extra = [name for name in ours if name not in places]
    if extra:
        raise ValueError(f"this format has no place for {_few(extra)}")
    source = {}
    for name, place in places.items():
        parts = place.view.to_reference(ours[name].contiguous())
        source.update(
            {n: p.reshape(place.shape).contiguous() for n, p in zip(place.names, parts, strict=True)}
        )
    return source


def require_finite(tensors: Tensors) -> None:
    """Raises ValueError naming the tensors that hold NaN or infinity."""
    bad = [
        name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()
    ]
    if bad:
        raise ValueError(f"NaN or infinite values in {_few(bad)}: the file is damaged or training diverged")


def _mismatches(source: Tensors, places: Mapping[str, SourceTensors]) -> Iterable[str]:
    wanted = {part: place.shape for place in places.values() for part in place.names}
    missing = [name for name in wanted if name not in source]
    extra = [name for name in source if name not in wanted]
    if missing:
        yield f"missing: {_few(missing)}{_nearest(missing[0], extra or list(source))}"
    if extra:
        yield f"left over: {_few(extra)}{_nearest(extra[0], missing or list(wanted))}"
    wrong = [name for name in wanted if name in source and tuple(source[name].shape) != tuple(wanted[name])]
    if wrong:
        found = [f"{name} is {tuple(source[name].shape)} but should be {wanted[name]}" for name in wrong]
        yield f"of another shape: {_few(found)}"


def _raise_on(mistakes: Iterable[str]) -> None:
    found = "; ".join(mistakes)
    if found:
        raise ValueError(f"the weights do not fit: {found}")


def _few(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    return f" (nearest to the first: {', '.join(close)})" if close else ""
