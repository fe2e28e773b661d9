"""From the words of a run to the state of its step 0, on one process's share of the devices."""

from __future__ import annotations

import torch

from scalevit import config, optim
from scalevit.distributed import parallelize
from scalevit.distributed import world as mesh
from scalevit.distributed.shards import copy_local
from scalevit.evals.finetune import start_values
from scalevit.kernels import fp8_linear
from scalevit.kernels.cuda_graph import CudaGraphRunner
from scalevit.model.vit import ViT
from scalevit.optim.weight_averaging import start_average
from scalevit.train.loop import State
from scalevit.train.malloc import keep_freed
from scalevit.train.precision import compile_blocks


def build_state(run: config.Run, world: mesh.World) -> State:
    """The state of step 0."""
    if world.device.type == "cpu":
        keep_freed()
    shard = world.size > 1 and run.parallel.strategy != "ddp"
    model = ViT(run.model, device="meta" if shard else world.device, seed=run.train.seed)
    model.preprocessing = run.start.preprocessing
    if run.train.precision == "fp8":
        fp8_linear.convert_blocks(model.blocks)
    if run.parallel.recompute != "none":
        parallelize.checkpoint_activations(model.blocks, run.parallel.recompute)
    if run.train.compile:
        compile_blocks(model.blocks)
    forward = parallelize.parallelize(model, run.parallel, world)
    if shard:
        model.to_empty(device=world.device)
        initialise(model, run)
    average = start_average(model) if run.train.averages else None
    meters = torch.zeros(3, device=world.device)
    recorded = run.train.compile and world.size == 1 and world.device.type == "cuda"
    replay = CudaGraphRunner(model) if recorded else None
    return State(model, optim.build(run.optimizer, model), average, world, forward, replay, meters=meters)


@torch.no_grad()
def initialise(model: ViT, run: config.Run) -> None:
    """The first values of every tensor, of which each process keeps its share."""
    targets = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, value in model.initial_values(run.train.seed):
        copy_local(targets[name], value)
    if run.start.weights:
        for name, value in start_values(run.start, run.model.image):
            copy_local(targets[name], value)


def reset(state: State, run: config.Run) -> None:
    """The state of step 0 again, in place; what the guard learnt is kept by whoever calls."""
    assert isinstance(state.model, ViT)
    initialise(state.model, run)
    state.optimizer.state.clear()
    for name, value in (state.average or {}).items():
        value.copy_(state.model.get_parameter(name).detach())
    state.step, state.seconds, state.history = 0, 0.0, []
    state.meters.zero_()
