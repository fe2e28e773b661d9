"""Initial training state of a run: model, optimizer, weight average and training recipe, on this process's
share of the devices.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalevit import config, optim
from scalevit.data.normalise import normaliser
from scalevit.distributed import parallelize
from scalevit.distributed import world as mesh
from scalevit.distributed.shards import copy_local
from scalevit.evals.finetune import start_values
from scalevit.kernels import fp8_linear
from scalevit.kernels.cuda_graph import CudaGraphRunner
from scalevit.model import losses
from scalevit.model.vit import ViT
from scalevit.optim.weight_averaging import start_average
from scalevit.train.loop import Recipe, State
from scalevit.train.malloc import keep_freed
from scalevit.train.precision import compile_blocks


def build_state(run: config.Run, world: mesh.World) -> State:
    """The training state before the first step. Start weights (`run.start`) are not in it yet: a run that
    resumes from a checkpoint never reads them; `load_start_weights` does."""
    if world.device.type == "cpu":
        keep_freed()
    shard = world.size > 1 and run.parallel.strategy != "ddp"
    model = ViT(run.model, device="meta" if shard else world.device, seed=run.train.seed)
    model.preprocessing, model.class_names = run.start.preprocessing, run.data.names
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


def build_recipe(run: config.Run) -> Recipe:
    """The training recipe of a run: schedule, loss, clipping, guard, and the normalisation of its images."""
    loss, normalise = losses.LOSSES[run.train.loss], normaliser(run.start.preprocessing)
    return Recipe(run.schedule, run.train, run.optimizer.clip, run.guard, loss, normalise)


@torch.no_grad()
def initialise(model: ViT, run: config.Run) -> None:
    """Initialise every tensor from the run's seed; each process keeps its share."""
    targets = _tensors(model)
    for name, value in model.initial_values(run.train.seed):
        copy_local(targets[name], value)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; fixed position embeddings are a buffer."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@torch.no_grad()
def load_start_weights(state: State, run: config.Run) -> None:
    """Load the weights that the run starts from, if any, into the model and into its average."""
    if not run.start.weights:
        return
    targets = _tensors(state.model)
    for name, value in start_values(run.start, run.model.image):
        copy_local(targets[name], value)
    _copy_to_average(state)


def reset(state: State, run: config.Run) -> None:
    """Reset to the state before the first step, in place; the caller keeps the guard's skips and rewinds."""
    assert isinstance(state.model, ViT)
    initialise(state.model, run)
    _copy_to_average(state)
    load_start_weights(state, run)
    state.optimizer.state.clear()
    state.step, state.seconds, state.history = 0, 0.0, []
    state.meters.zero_()


def _copy_to_average(state: State) -> None:
    for name, value in (state.average or {}).items():
        value.copy_(state.model.get_parameter(name).detach())
