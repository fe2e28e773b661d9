"""Torch files of weights, read without executing anything, and the state dict inside a training checkpoint.

`torch.load` runs with `weights_only`. Objects of classes that it does not know (arguments, configurations,
schedulers beside the weights) become inert placeholders: none of their code is imported or called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

#: Entries of a checkpoint that hold weights, in order of preference: averages first, as timm loads them.
AVERAGES = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "model_ema_state_dict", "ema", "module_ema",
    "params_ema", "teacher", "target_encoder",
)  # fmt: skip
CURRENT = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "params", "net", "network", "student",
    "encoder", "backbone", "weights",
)  # fmt: skip
#: Leading parts of parameter names that wrappers add (DataParallel, torch.compile, Lightning, DINO, …).
WRAPPERS = {
    "module", "_orig_mod", "model", "net", "network", "backbone", "student", "teacher", "ema", "ema_model",
    "model_ema", "averaged_model", "_forward_module", "encoder", "target_encoder", "_fsdp_wrapped_module",
}  # fmt: skip
#: The patch embedding's name in every layout that is read: its prefix is what wrappers added.
ANCHORS = (
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embedding.weight",
    "visual.conv1.weight",
)
#: Counters that averaging wrappers keep among the weights.
COUNTERS = ("n_averaged", "num_updates", "decay", "initted", "step")


class Placeholder:
    """Stands for an object of an unknown class: takes any arguments and state, and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Placeholder:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read(path: Path) -> Any:
    """The content of a torch file, unknown objects replaced. Raises ValueError for a file that is damaged or
    cannot be read without running code."""
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # a file of the format before torch 1.6, or none at all: torch.load decides
        unknown = []
    reason = ""
    for stand_in in (Placeholder, dict):  # dict for classes that are filled key by key
        try:
            with torch.serialization.safe_globals([(stand_in, name) for name in unknown]):
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch, pickle and zip each raise their own kinds
            reason = reason or _reason(error)
    raise ValueError(f"cannot read {path}: it is damaged or holds more than tensors ({reason})")


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    marked = [i for i, line in enumerate(lines) if "WeightsUnpickler error" in line]
    after = [lines[i] for i in (marked[0] + 1,) if i < len(lines)] if marked else []
    return (after or lines or [type(error).__name__])[0][:200]


def state_dict(content: Any, path: Path, part: str = "") -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a model inside the content of a torch file, under the model's own names, and notes for
    the user: which part was taken, and what was left out.

    part: the entry to take, e.g. "model_ema" or "state_dict"; by default an average where there is one.
    Raises ValueError when there are no weights, or no such entry."""
    tensors, notes = _entry(content, path, part)
    named, more = _without_wrapper(tensors, path)
    counters = [name for name in named if name.rpartition(".")[2] in COUNTERS and named[name].dim() == 0]
    return {name: value for name, value in named.items() if name not in counters}, [*notes, *more]


def _entry(content: Any, path: Path, part: str) -> tuple[dict[str, Tensor], list[str]]:
    entries = _entries(content)
    if part:
        if part not in entries:
            known = ", ".join(name or "the file itself" for name in entries) or "none"
            raise ValueError(f"{path} has no part {part!r} that holds weights; there are: {known}")
        return entries[part], [f"{path.name}: took {part!r}"]
    if not entries:
        raise ValueError(
            f"{path} holds no dictionary of tensors (a whole pickled model? save its state_dict() instead)"
        )
    chosen = min(entries, key=lambda name: _preference(name.rpartition(".")[2]))
    if not chosen:
        return entries[chosen], []
    others = [name for name in entries if name != chosen]
    beside = f"; there are also {', '.join(map(repr, others))} (--part)" if others else ""
    return entries[chosen], [f"{path.name}: took {chosen!r}{beside}"]


def _preference(name: str) -> int:
    order = ["", *AVERAGES, *CURRENT]
    return order.index(name) if name in order else len(order)


def _entries(content: Any, where: str = "", levels: int = 3) -> dict[str, dict[str, Tensor]]:
    """Every dictionary of at least one named tensor, by its dotted place; optimizers' states are none."""
    if not isinstance(content, Mapping):
        return {}
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    names = all(isinstance(name, str) for name in content)
    if names and any(value.dim() > 0 for value in tensors.values()):
        return {where: tensors}
    entries: dict[str, dict[str, Tensor]] = {}
    for name, value in content.items() if levels else ():
        if isinstance(name, str) and "optim" not in name and "sched" not in name:
            entries |= _entries(value, f"{where}.{name}" if where else name, levels - 1)
    return entries


def _without_wrapper(tensors: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors below the wrapper around the model, without its prefix."""
    leads = sorted({_lead(name, anchor) for name in tensors for anchor in ANCHORS if name.endswith(anchor)})
    leads = [lead for lead in leads if lead] if len(leads) != 1 else leads
    if not leads or leads == [""]:
        return tensors, []
    chosen = min(leads, key=lambda lead: min(_preference(part) for part in lead.split(".")))
    inside = {name.removeprefix(chosen): v for name, v in tensors.items() if name.startswith(chosen)}
    outside = [name for name in tensors if not name.startswith(chosen)]
    notes = [f"{path.name}: took the names below {chosen!r}"]
    if outside:
        some = ", ".join(outside[:3]) + (", …" if len(outside) > 3 else "")
        notes.append(f"{path.name}: {len(outside)} tensors beside it were left out: {some}")
    return inside, notes


def _lead(name: str, anchor: str) -> str:
    """The leading wrapper words of a name that ends with an anchor."""
    parts = name.removesuffix(anchor).split(".")[:-1]
    count = next((i for i, part in enumerate(parts) if part not in WRAPPERS), len(parts))
    return "".join(f"{part}." for part in parts[:count])


def require_real(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise ValueError for tensors that are larger than their storage, or of a kind that holds no weights."""
    for name, value in tensors.items():
        if value.layout != torch.strided or value.is_complex() or value.is_quantized or value.is_meta:
            raise ValueError(f"{path}: {name} is no plain tensor of numbers")
        if value.numel() * value.itemsize > value.untyped_storage().nbytes():
            raise ValueError(f"{path}: {name} claims {value.numel()} numbers, more than the file holds")
