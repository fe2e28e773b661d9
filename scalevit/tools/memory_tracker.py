"""Memory tracker: bytes that are live on one device while a step runs, by kind, and their peak. A tensor's
memory counts from the operation that makes it until it is freed.

It sees the outputs of torch's operations, of real and of fake tensors; not the workspaces inside an
operation, and not what an allocator keeps in reserve."""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from scalevit.distributed.shards import is_sharded, local_tensor

#: Collectives of a training step: the index of the argument that is sent, and the purpose.
MESSAGES = {
    "_allgather_base_": (0, "gather weights"),
    "_reduce_scatter_base_": (1, "scatter gradients"),
    "allreduce_": (0, "average numbers"),
}
EMPTY, TO = torch.ops.aten.empty.memory_format, torch.ops.aten._to_copy.default


class MemoryTracker(TorchDispatchMode):
    """Memory tracker, used as a context around the code to measure; `track` tensors that exist already
    before.

    live: bytes by kind now. peak: the most that were live at once; at_peak: by kind at that moment. sent:
    bytes of collectives by name. What is made in here is "gathered" (FSDP2's memory for weights of others),
    "copies" (of weights, in another precision), "gradients" (of weights and of activations: whatever a
    backward pass makes), or "activations", made anywhere else."""

    def __init__(self, sharded: bool = False) -> None:
        super().__init__()
        self.sharded = sharded
        self.live: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.peak, self.at_peak = 0, {}
        self._known: dict[int, tuple[weakref.ref[Any], str, int]] = {}
        # FSDP2 lets go of gathered weights by resizing what `torch.empty` gave it, which no operation shows
        self._resizable: set[int] = set()

    def track(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Count tensors that exist already."""
        for tensor in tensors:
            self._add(local_tensor(tensor).untyped_storage(), kind)
        self._update_peak()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        distributed = sys.modules.get("torch.distributed.tensor")
        if distributed is not None and any(issubclass(kind, distributed.DTensor) for kind in types):
            return NotImplemented  # its operations on the local parts come by
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("c10d::")
        if name in MESSAGES:
            argument, message = MESSAGES[name]
            sent = (t.nbytes for t in tree_iter(args[argument]) if isinstance(t, Tensor))
            self.sent[message] += sum(sent)
        made = [t.untyped_storage() for t in tree_iter(out) if isinstance(t, Tensor) and not is_sharded(t)]
        fresh = [storage for storage in made if id(storage) not in self._known]
        for storage in fresh:
            self._add(storage, self._kind(func, args))
            if func is EMPTY:
                self._resizable.add(id(storage))
        if fresh:
            self._update_peak()
        return out

    def _kind(self, func: Any, args: Any) -> str:
        if func is EMPTY and self.sharded:
            return "gathered"
        if func is TO and self._known.get(id(args[0].untyped_storage()), (0, ""))[1] in (
            "weights",
            "gathered",
        ):
            return "copies"
        return "activations" if torch._C._current_graph_task_id() == -1 else "gradients"

    def _add(self, storage: Any, kind: str) -> None:
        key = id(storage)
        if key not in self._known:
            size = storage.nbytes()
            self._known[key] = (weakref.ref(storage, lambda _: self._release(key)), kind, size)
            self.live[kind] += size

    def _release(self, key: int) -> None:
        _, kind, size = self._known.pop(key)
        self.live[kind] -= size
        self._resizable.discard(key)

    def _update_peak(self) -> None:
        """Account for resized storages, and update the peak."""
        for key in self._resizable:
            reference, kind, size = self._known[key]
            storage = reference()
            now = size if storage is None else storage.nbytes()
            if now != size:
                self._known[key] = (reference, kind, now)
                self.live[kind] += now - size
        total = self.live.total()
        if total > self.peak:
            self.peak, self.at_peak = total, dict(self.live)
