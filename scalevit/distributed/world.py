"""Process group: rank, world size, device and collectives of the processes that torchrun started.

Without torchrun there is a single process, and nothing of torch.distributed is imported.

Strategies of `config.Parallel.strategy`: "ddp" keeps the whole model on every device and averages gradients;
"fsdp" shards weights, gradients and optimizer state over the devices (FSDP2, in fp32 throughout, so that the
numbers are those of one device); "hybrid" shards within groups of `shard` devices, one machine say, and
averages between groups. The global batch is that of the configuration in every case.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalevit.artifacts import dcp
from scalevit.config.run import Parallel
from scalevit.config.validate import parallel_errors
from scalevit.distributed.launch_environment import LaunchEnvironment
from scalevit.distributed.shards import global_offset, is_sharded, local_tensor
from scalevit.distributed.watchdog import Watchdog, connect, exit_status

#: Seconds that a collective outlasts `parallel.timeout`.
GRACE = 60.0


@dataclass(frozen=True)
class World:
    """This process among the processes of its job.

    mesh: a DeviceMesh with the dimensions "replicate", "shard" or both; watchdog: notices processes that fail
    or hang. Both are None for a single process."""

    rank: int
    size: int
    device: torch.device
    mesh: Any = None
    watchdog: Watchdog | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes and prints for all."""
        return self.rank == 0

    def mark_progress(self, step: int, phase: int) -> None:
        """This process begins a phase, of `watchdog.PHASES`, of a step."""
        if self.watchdog is not None:
            self.watchdog.mark_progress(step, phase)

    def report_work(self) -> None:
        """A piece of long work is done, so that ranks that wait for this one go on waiting."""
        if self.watchdog is not None:
            self.watchdog.report_work()

    def wait_for(self, work: Callable[[], Any]) -> Any:
        """Do `work`, and wait until all ranks have done theirs, as long as any of them reports work: a slow
        disk does not run into the timeout of a collective."""
        return work() if self.watchdog is None else self.watchdog.wait_for(work)

    def run_on_main(self, work: Callable[[], Any]) -> Any:
        """The result of `work` on rank 0, on every rank; what rank 0 raises ends all of them."""
        return self.broadcast(self.wait_for(work if self.is_main else lambda: None))

    # ----------------------------------------------------------------- agreeing

    def raise_on_all_ranks(self, error: Exception | None) -> None:
        """Raise the error that rank 0 met, there; the others exit silently, all with one status."""
        if self.size == 1:
            if error is not None:
                raise error
            return
        error = self.broadcast(error)
        if error is not None:
            assert self.watchdog is not None
            self.watchdog.agreed = True
            raise error if self.is_main else SystemExit(exit_status(error))

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in order of rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def any_rank(self, reason: str | None) -> str | None:
        """A reason to stop if any rank has one: the same one on every rank, else None."""
        if self.size == 1:
            return reason
        asked = torch.tensor(0 if reason is None else 1)
        torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
        if not asked.item():
            return None
        return next(r for r in self.all_gather(reason) if r is not None)

    def all_reduce_mean(self, values: Tensor) -> Tensor:
        """All-reduce to the mean over all ranks, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
            values /= self.size
        return values

    def global_norm(self, own: Tensor) -> Tensor:
        """The norm of a sharded vector from the norm of this rank's shard."""
        if self.mesh is None or "shard" not in self.mesh.mesh_dim_names:
            return own
        squares = own.square()
        torch.distributed.all_reduce(squares, group=self.mesh.get_group("shard"))
        return squares.sqrt()

    # ----------------------------------------------------------------- checkpoints

    def local_shards(self, tensors: Mapping[str, Tensor]) -> list[dcp.Shard]:
        """Shards that this rank saves: its own of sharded tensors, and rank 0 every unsharded tensor."""
        out = []
        for name, tensor in tensors.items():
            if not is_sharded(tensor):
                out += dcp.unsharded({name: tensor}) if self.is_main else []
            elif self._writes() and local_tensor(tensor).numel():
                out.append(dcp.Shard(name, local_tensor(tensor), tuple(tensor.shape), global_offset(tensor)))
        return out

    def _writes(self) -> bool:
        """Whether this rank saves its shards: one of the replicas does."""
        names = self.mesh.mesh_dim_names
        return "replicate" not in names or self.mesh.get_local_rank("replicate") == 0


SINGLE_PROCESS = World(0, 1, torch.device("cpu"))


# --------------------------------------------------------------------------- process group


def world_size() -> int:
    """Number of processes of the job; 1 without torchrun. Raises ValueError, see LaunchEnvironment."""
    return LaunchEnvironment.read().size


@contextlib.contextmanager
def process_group(parallel: Parallel) -> Iterator[World]:
    """Initialise torch.distributed's process group and the watchdog, or a single process without torchrun.

    A process that fails, dies, or keeps the others waiting for `parallel.timeout` seconds ends the job. Its
    error becomes a SystemExit when a line has said everything. Raises ValueError, see LaunchEnvironment."""
    launch = LaunchEnvironment.read()
    device = torch.device("cuda", launch.local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if launch.size == 1:
        yield World(0, 1, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # the watchdog names who hangs by then; this is for a hang that it cannot tell from work
    limit = timedelta(seconds=parallel.timeout + GRACE)
    store = _prefixed_store(launch.rank, limit)
    torch.distributed.init_process_group(
        backend, store=store, rank=launch.rank, world_size=launch.size, timeout=limit
    )
    watchdog = _start_watchdog(parallel, launch)
    try:
        yield World(launch.rank, launch.size, device, init_mesh(parallel, launch.size, device), watchdog)
        watchdog.stop()
        torch.distributed.barrier()
    except Exception as error:
        if watchdog.agreed:
            raise
        status = watchdog.fail(error)
        if status is None:
            raise
        raise SystemExit(status) from error
    finally:
        watchdog.stop()
        torch.distributed.destroy_process_group()


@functools.cache
def _rendezvous_store() -> Any:
    """The store of torchrun's environment; cached, since the process that serves it may do so only once."""
    return next(torch.distributed.rendezvous("env://"))[0]


def _prefixed_store(rank: int, limit: timedelta) -> Any:
    """A part of the store for this process group: keys of an earlier one of the same processes, as of the
    first run of a fine-tuning sweep, are out of the way."""
    times = _rendezvous_store().add(f"scalevit/{rank}", 1)
    part = torch.distributed.PrefixStore(f"scalevit/{times}", _rendezvous_store())
    part.set_timeout(limit)
    return part


def _start_watchdog(parallel: Parallel, launch: LaunchEnvironment) -> Watchdog:
    token = [uuid.uuid4().hex]
    torch.distributed.broadcast_object_list(token, src=0)
    watchdog = connect(launch.rank, launch.size, parallel.timeout, token[0])
    watchdog.start()
    return watchdog


def exit_all(code: int) -> None:
    """Let only rank 0 print the command's result, and end each process with `code` as soon as its work is
    done: threads of torch.distributed sometimes abort a process that has nothing left to do."""

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    launch = LaunchEnvironment.read()
    if launch.size > 1:
        atexit.register(end)
        if launch.rank != 0:
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115


def init_mesh(parallel: Parallel, size: int, device: torch.device) -> Any:
    """The DeviceMesh of `size` processes for a sharding strategy; the process group exists already."""
    from torch.distributed.device_mesh import init_device_mesh

    if parallel.strategy == "ddp":
        return init_device_mesh(device.type, (size,), mesh_dim_names=("replicate",))
    if parallel.strategy == "fsdp":
        return init_device_mesh(device.type, (size,), mesh_dim_names=("shard",))
    groups = size // parallel.shard
    return init_device_mesh(device.type, (groups, parallel.shard), mesh_dim_names=("replicate", "shard"))


def world_errors(parallel: Parallel, batch: int) -> list[str]:
    """Why this number of processes cannot train, with what would be possible."""
    try:
        return parallel_errors(parallel, batch, world_size())
    except ValueError as error:
        return [str(error)]
