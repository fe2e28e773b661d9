"""CUDA graphs: replayed passes give the bits of passes launched one by one, whatever the micro-batches.

Without a GPU a stand-in captures torch's operations and replays them into the same memory, as a graph does:
what depends on Python while it is captured, or on memory that moves, shows as well."""

import contextlib
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from scalevit import config, optim
from scalevit.config.lr_schedule import Schedule
from scalevit.config.run import Model
from scalevit.kernels import cuda_graph
from scalevit.kernels.cuda_graph import WARMUP_STEPS, CudaGraphRunner
from scalevit.model.losses import LOSSES
from scalevit.model.vit import ViT
from scalevit.train.loop import Recipe, State, take_step

MODEL = Model(width=32, depth=2, mlp=48, heads=2, patch=8, image=16, classes=5, pool="gap", head_bias=0.0)


def tensors(tree):
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


class Capture(TorchDispatchMode):
    """Records operations with the tensors that they read and gave. As a capture computes nothing, memory that
    was there before can be put back."""

    def __init__(self):
        super().__init__()
        self.operations, self.made, self.before = [], set(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        inputs = tensors((args, kwargs or {}))
        if func._schema.is_mutable:
            for tensor in inputs:
                if tensor.data_ptr() not in self.made:
                    self.before.setdefault(tensor.data_ptr(), (tensor, tensor.detach().clone()))
        out = func(*args, **(kwargs or {}))
        self.made |= {t.data_ptr() for t in tensors(out)} - {t.data_ptr() for t in inputs}
        self.operations.append((func, args, kwargs or {}, out))
        return out

    def undo(self):
        for tensor, value in self.before.values():
            tensor.detach().copy_(value)


class StandIn:
    """A graph of operations on a CPU; replaying writes to the memory of the capture."""

    captured = 0

    def __init__(self):
        self.capture = Capture()

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, out in self.capture.operations:
                inputs = {tensor.data_ptr() for tensor in tensors((args, kwargs))}
                again = func(*args, **kwargs)
                for old, new in zip(tensors(out), tensors(again), strict=True):
                    if old.data_ptr() not in inputs:  # neither a view nor in place
                        old.detach().copy_(new)


@contextlib.contextmanager
def capturing(graph):
    StandIn.captured += 1
    with graph.capture:
        yield
    with torch.no_grad():
        graph.capture.undo()


@pytest.fixture(params=["stand-in", "cuda"])
def device(request, monkeypatch):
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU")
        return torch.device("cuda")
    StandIn.captured = 0
    monkeypatch.setattr(cuda_graph.torch.cuda, "CUDAGraph", StandIn)
    monkeypatch.setattr(cuda_graph.torch.cuda, "graph", capturing)
    return torch.device("cpu")


def state_of(device, replayed):
    model = ViT(MODEL, seed=0).to(device)
    state = State(model, optim.build(config.Optimizer(name="adam"), model), None)
    state.world, state.meters = replace(state.world, device=device), state.meters.to(device)
    state.replay = CudaGraphRunner(model) if replayed else None
    return state


def batches(device, sizes):
    """The same micro-batches for every run, of these sizes."""
    draw = torch.Generator().manual_seed(0)
    for step in sizes:
        batch = []
        for images in step:
            x = torch.randn(images, 3, 16, 16, generator=draw)
            batch.append((x.to(device), torch.randint(5, (images,), generator=draw).to(device)))
        yield batch


def trained(device, replayed, sizes):
    """Losses of the steps, and the weights after them."""
    state = state_of(device, replayed)
    schedule = Schedule("constant", lr=1e-2, steps=1000, warmup=0, cooldown=0)
    recipe = Recipe(schedule, config.Train(precision="fp32"), 1.0, config.Guard(on=False), LOSSES["softmax"])
    losses = []
    for batch in batches(device, sizes):
        state.meters.zero_()
        assert take_step(state, batch, recipe) is None
        losses.append(state.meters[0].item())
    return losses, [p.detach().clone() for p in state.model.parameters()], state


SIZES = {
    "one micro-batch": [(4,)] * 8,
    "several": [(4, 4, 4)] * 7,
    "a shorter last one": [(4, 4, 2)] * 7,
    "batches of two sizes": [(4, 4), (3,)] * 6,
}


@pytest.mark.parametrize("sizes", SIZES)
def test_replayed_steps_are_the_steps(device, sizes):
    plain, replayed = (trained(device, how, SIZES[sizes]) for how in (False, True))
    assert len(set(plain[0])) == len(plain[0])  # every batch is another one
    assert replayed[0] == plain[0]
    for a, b in zip(plain[1], replayed[1], strict=True):
        assert torch.equal(a, b)
    assert replayed[2].replay.first_passes  # something was captured


def test_each_kind_of_pass_is_captured_once_after_the_warm_steps(device):
    if device.type == "cuda":
        pytest.skip("needs the stand-in, which counts")
    for steps, expected in ((WARMUP_STEPS, 0), (WARMUP_STEPS + 1, 2), (WARMUP_STEPS + 5, 2)):
        StandIn.captured = 0
        trained(device, True, [(4, 4, 4)] * steps)
        assert StandIn.captured == expected  # the first pass, and one for those that add to it
