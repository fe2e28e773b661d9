"""A run of which one step goes wrong, once, on the last process; tests start it for scalevit:
faulty_run.py nan|spike|slow pretrain …
"""

import math
import os
import sys
import time
from itertools import count

import torch

from scalevit.cli import main
from scalevit.distributed.shards import local_tensor
from scalevit.train import loop

#: The step, counted from 0, that goes wrong; what then happens to loss and gradients, and for how long.
BAD = 6
FAULTS = {"nan": (1.0, math.nan, 0), "spike": (100.0, 100.0, 0), "slow": (1.0, 1.0, 60)}


def spoilt(kind):
    """`train.accumulate`, of which call number BAD goes wrong."""
    real, calls = loop.accumulate_gradients, count()
    on_loss, on_gradients, seconds = FAULTS[kind]

    def accumulate(state, batch, recipe):
        loss = real(state, batch, recipe)
        if next(calls) == BAD and state.world.rank == state.world.size - 1:
            time.sleep(seconds)
            loss = loss * on_loss
            torch._foreach_mul_([local_tensor(p.grad) for p in state.model.parameters()], on_gradients)
        return loss

    return accumulate


if __name__ == "__main__":
    loop.accumulate_gradients = spoilt(sys.argv[1])
    status = main.main(sys.argv[2:])
    sys.stdout.flush()
    if "RANK" not in os.environ:
        sys.exit(status)
