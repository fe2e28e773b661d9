"""Run by test_optim.py in each of two processes: sharded parameters against the same steps on whole ones.

usage: sharded_optimizers.py RANK PORT; prints the relative error of all weights, and of the worst tensor
"""

import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from scalevit import optim
from scalevit.config.run import Model
from scalevit.model.vit import ViT

# 3 heads of 32 over 2 processes: a cut goes through the middle of a head, of the patch kernel, of the classes
MODEL = Model(width=96, depth=1, mlp=70, heads=3, patch=8, image=48, classes=33, pool="map")


def optimizers(model):
    layouts = model.reference_layouts()
    group = {"params": list(model.parameters()), "layouts": [layouts[n] for n, _ in model.named_parameters()]}
    return {
        "adafactor": optim.Adafactor([dict(group)], 1e-2, weight_decay=0.1),
        "clipped": optim.Adafactor([dict(group)], 1e-2, clip_threshold=0.5, momentum_dtype=torch.float32),
        "adam": optim.Adam([dict(group)], 1e-2, weight_decay=0.1),
        "sgd": optim.SGD([dict(group)], 1e-2),
    }


def gradient(value, step, place):
    generator = torch.Generator().manual_seed(1000 * step + place)
    return torch.randn(value.shape, generator=generator) * torch.linspace(0.1, 2, value.shape[-1])


def walk(kind, shard):
    model = ViT(MODEL, seed=1)
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters()):
            parameter += 0.1 * gradient(parameter, 99, place)
    if shard:
        fully_shard(model)
    optimizer = optimizers(model)[kind]
    for step in range(3):
        for place, parameter in enumerate(model.parameters()):
            whole = gradient(parameter, step, place)
            parameter.grad = distributed(whole, parameter) if shard else whole
        optimizer.step()
    for parameter in model.parameters():
        assert isinstance(parameter, DTensor) == shard
    return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()]


def distributed(whole, like):
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, like.device_mesh, like.placements)


def main(rank, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for kind in ("adafactor", "clipped", "adam", "sgd"):
        pairs = list(zip(walk(kind, True), walk(kind, False), strict=True))
        errors = torch.stack([(a - b).norm() for a, b in pairs])
        sizes = torch.stack([b.norm() for _, b in pairs])
        if rank == 0:
            print(kind, (errors.norm() / sizes.norm()).item(), (errors / sizes).max().item())
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
