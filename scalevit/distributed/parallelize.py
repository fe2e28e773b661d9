"""Parallelize a model: DDP, FSDP2, hybrid sharding, gradient synchronisation, activation checkpointing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from scalevit.config.run import Parallel
from scalevit.distributed.world import World

Forward = Callable[[Tensor], Tensor]


def parallelize(model: nn.Module, parallel: Parallel, world: World) -> Forward:
    """Wrap or shard `model` in place, before its optimizer is built; returns the forward of a training step.

    FSDP2 gathers, uses and reshards one block of the model (of its attribute `blocks`) at a time."""
    if world.size == 1:
        return model
    if parallel.strategy == "ddp":
        ids = [world.device] if world.device.type == "cuda" else None
        # gradients are views of what is sent: one copy of them less
        return nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for block in [*getattr(model, "blocks", []), model]:
        fully_shard(block, mesh=world.mesh)
    if hasattr(model, "features"):
        register_fsdp_forward_method(model, "features")
    return model


def reshard(model: nn.Module) -> None:
    """Drop gathered parameters after shards were changed outside of training."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()  # pyright: ignore[reportCallIssue]


@contextlib.contextmanager
def gradient_sync(forward: Forward, last: bool) -> Iterator[None]:
    """Gradient-sync context of a micro-batch: only the last one of a step communicates."""
    if isinstance(forward, nn.parallel.DistributedDataParallel):
        with contextlib.nullcontext() if last else forward.no_sync():
            yield
        return
    if hasattr(forward, "set_requires_gradient_sync"):
        forward.set_requires_gradient_sync(last)  # pyright: ignore[reportFunctionMemberAccess]
    yield


def checkpoint_activations(blocks: Iterator[nn.Module] | nn.ModuleList, how: str) -> None:
    """Activation checkpointing: activations are dropped in the forward pass and computed again in the
    backward pass. "full" keeps each block's input, "selective" also results of matrix products and attention.
    """
    from functools import partial

    from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if how == "selective":
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, _saved_operations())

    def again(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        # a function of its own: torch's compiler passes over a block whose forward is a partial
        return lambda *inputs: checkpoint(forward, *inputs, **settings)

    for block in blocks:
        block.forward = again(block.forward)


def _saved_operations() -> list[Any]:
    ops = torch.ops.aten
    return [
        ops.mm.default,
        ops.addmm.default,
        ops.bmm.default,
        ops._scaled_mm.default,
        ops._scaled_dot_product_flash_attention.default,
        ops._scaled_dot_product_efficient_attention.default,
        ops._scaled_dot_product_cudnn_attention.default,
        ops._scaled_dot_product_flash_attention_for_cpu.default,
    ]
