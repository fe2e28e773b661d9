"""A training loop over a small MLP, for tests of the loop alone."""

import torch
from torch import nn

from scalevit.config.lr_schedule import Schedule
from scalevit.config.run import Guard, Train
from scalevit.optim.weight_averaging import start_average
from scalevit.train.loop import Recipe, State, checkpoint_shards

STEPS, BATCH = 12, 8


def recipe(steps=STEPS, clip=1.0, guard=None, **train):
    knobs = Train(
        **{"batch": BATCH, "precision": "fp32", "log_every": 5, "save_every": 0, "ema": 0.9} | train
    )
    schedule = Schedule("rsqrt", lr=0.05, steps=steps, warmup=3, timescale=4, cooldown=4)
    return Recipe(schedule, knobs, clip, guard or Guard(), nn.functional.cross_entropy)


def fresh(ema=True, optimizer=torch.optim.AdamW):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))
    average = start_average(model) if ema else None
    return State(model, optimizer(model.parameters(), lr=1.0), average)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, 6, generator=generator), torch.randint(4, (BATCH,), generator=generator)


def everything(state):
    return {piece.name: piece.data.clone() for piece in checkpoint_shards(state)}


def assert_same(one, other):
    a, b = everything(one), everything(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
