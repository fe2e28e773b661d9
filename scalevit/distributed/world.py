"""Devices and processes: the only file that knows how many there are. Everything comes from the environment
that torchrun sets; without it there is one process, and nothing of torch.distributed is imported.

Three ways to share a model, `config.Parallel.strategy`: "ddp" keeps it whole on every device and averages
gradients; "fsdp" gives every device a share of weights, gradients and optimizer state (FSDP2, fp32 all the
way, so that the same numbers come out as from one device); "hybrid" shards within groups of `shard` devices,
one machine say, and averages between groups. The global batch is what the configuration says in every case.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalevit.artifacts import dcp
from scalevit.config.result import USER_ERROR
from scalevit.config.run import Parallel
from scalevit.config.validate import parallel_errors
from scalevit.distributed.shards import is_sharded, local, offset_of
from scalevit.distributed.watchdog import Heartbeat, connect

#: Seconds that a collective outlasts `parallel.timeout`.
GRACE = 60.0


@dataclass(frozen=True)
class World:
    """This process among its peers. mesh: dimensions "replicate", "shard" or both; heart: how they know of
    each other that they live. Both None for one process."""

    rank: int
    size: int
    device: torch.device
    mesh: Any = None
    heart: Heartbeat | None = None

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def at(self, step: int, doing: int) -> None:
        """This process begins to do this, of `heartbeat.DOING`, in this step."""
        if self.heart is not None:
            self.heart.at(step, doing)

    # ----------------------------------------------------------------- agreeing

    def settle(self, error: Exception | None) -> None:
        """Raise what the first process met, there; the others leave without a word, all with one status."""
        if self.size == 1:
            if error is not None:
                raise error
            return
        error = self.tell(error)
        if error is not None:
            assert self.heart is not None
            self.heart.agreed = True
            raise error if self.first else SystemExit(USER_ERROR)

    def tell(self, value: Any) -> Any:
        """What the first process says."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """What every process says, in order of rank, on every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def agree(self, reason: str | None) -> str | None:
        """A reason to stop, if any process has one: the same answer everywhere."""
        if self.size == 1:
            return reason
        asked = torch.tensor(0 if reason is None else 1)
        torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
        if not asked.item():
            return None
        return next(r for r in self.gather(reason) if r is not None)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
            values /= self.size
        return values

    def norm(self, own: Tensor) -> Tensor:
        """The norm of all shares from the norm of this process's share."""
        if self.mesh is None or "shard" not in self.mesh.mesh_dim_names:
            return own
        squares = own.square()
        torch.distributed.all_reduce(squares, group=self.mesh.get_group("shard"))
        return squares.sqrt()

    # ----------------------------------------------------------------- checkpoints

    def pieces(self, tensors: Mapping[str, Tensor]) -> list[dcp.Piece]:
        """What this process writes: its share of what is sharded, and the first one all that is not."""
        out = []
        for name, tensor in tensors.items():
            if not is_sharded(tensor):
                out += dcp.whole({name: tensor}) if self.first else []
            elif self._writes() and local(tensor).numel():
                out.append(dcp.Piece(name, local(tensor), tuple(tensor.shape), offset_of(tensor)))
        return out

    def _writes(self) -> bool:
        """Of processes with the same share, one."""
        names = self.mesh.mesh_dim_names
        return "replicate" not in names or self.mesh.get_local_rank("replicate") == 0


ALONE = World(0, 1, torch.device("cpu"))


# --------------------------------------------------------------------------- joining and leaving


def processes() -> int:
    """How many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def join(parallel: Parallel) -> Iterator[World]:
    """Meet the other processes. One that fails, dies, or keeps the others waiting for `parallel.timeout`
    seconds ends the job. What it met becomes a SystemExit when a line has said all there is to say."""
    place = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", place) if torch.cuda.is_available() else torch.device("cpu")
    if processes() == 1:
        yield World(0, 1, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # who hangs is named by then; this is for a hang that nobody can tell from work
    limit = timedelta(seconds=parallel.timeout + GRACE)
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group(
        backend, store=_meeting(rank, limit), rank=rank, world_size=processes(), timeout=limit
    )
    heart = _heart(parallel)
    try:
        mesh = arranged(parallel, processes(), device)
        yield World(torch.distributed.get_rank(), processes(), device, mesh, heart)
        heart.stop()
        torch.distributed.barrier()
    except Exception as error:
        if heart.agreed:
            raise
        status = heart.fail(error)
        if status is None:
            raise
        raise SystemExit(status) from error
    finally:
        heart.stop()
        torch.distributed.destroy_process_group()


@functools.cache
def _store() -> Any:
    """What torchrun's environment leads to; kept, since whoever holds it for the others does so once."""
    return next(torch.distributed.rendezvous("env://"))[0]


def _meeting(rank: int, limit: timedelta) -> Any:
    """A part of the store for this time that the processes meet: what an earlier run of the same processes
    left there, as the first of fine-tuning's, leads nowhere."""
    times = _store().add(f"scalevit/{rank}", 1)
    part = torch.distributed.PrefixStore(f"scalevit/{times}", _store())
    part.set_timeout(limit)
    return part


def _heart(parallel: Parallel) -> Heartbeat:
    token = [uuid.uuid4().hex]
    torch.distributed.broadcast_object_list(token, src=0)
    heart = connect(torch.distributed.get_rank(), processes(), parallel.timeout, token[0])
    heart.start()
    return heart


def leave(code: int) -> None:
    """Of several processes, let only the first one print its answer, and end each with `code` as soon as its
    work is done: threads of torch.distributed sometimes abort a process that has nothing left to do."""

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    if processes() > 1:
        atexit.register(end)
        if os.environ.get("RANK", "0") != "0":
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115


# --------------------------------------------------------------------------- sharing a model


# --------------------------------------------------------------------------- recomputing


def arranged(parallel: Parallel, size: int, device: torch.device) -> Any:
    """The mesh of `size` processes for this way to share a model; the process group exists already."""
    from torch.distributed.device_mesh import init_device_mesh

    if parallel.strategy == "ddp":
        return init_device_mesh(device.type, (size,), mesh_dim_names=("replicate",))
    if parallel.strategy == "fsdp":
        return init_device_mesh(device.type, (size,), mesh_dim_names=("shard",))
    groups = size // parallel.shard
    return init_device_mesh(device.type, (groups, parallel.shard), mesh_dim_names=("replicate", "shard"))


def mistakes(parallel: Parallel, batch: int) -> list[str]:
    """Why this many processes cannot train so, with what would be possible."""
    return parallel_errors(parallel, batch, processes())
