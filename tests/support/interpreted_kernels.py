"""Every kernel in Triton's interpreter against its twin in float64; prints the errors as JSON. Run by
test_kernels.py with TRITON_INTERPRET=1, which must be set before Triton is imported."""

import json
from itertools import product

import torch
from torch import nn

from scalevit.config.run import Model
from scalevit.distributed import parallelize
from scalevit.kernels import attention, gelu, norm, xent
from scalevit.kernels.triton import launch
from scalevit.model.attention import Block

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
DRAW = torch.Generator().manual_seed(0)


def draw(*size, dtype=torch.float32, scale=1.0):
    return (scale * torch.randn(size, generator=DRAW)).to(dtype).requires_grad_()


def results(function, inputs, like):
    """Outputs, and gradients of inputs."""
    found = function(*inputs)
    found = found if isinstance(found, tuple) else (found,)
    gradients = [g.to(y.dtype) for g, y in zip(like, found)]
    return [*found, *torch.autograd.grad(found, inputs, gradients)]


def errors(function, twin, inputs, like):
    """For outputs and gradients, the largest difference from the twin in float64, relative to the largest
    number; and whether a second time gives the same bits."""
    like = [g.to(y.dtype) for g, y in zip(like, results(function, inputs, like))]
    ours, again = (results(function, inputs, like) for _ in range(2))
    wide = [x.detach().double().requires_grad_() for x in inputs]
    true = results(twin, wide, like)
    off = [((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item() for a, b in zip(ours, true)]
    return {
        "off": off,
        "dtypes": [str(one.dtype).removeprefix("torch.") for one in ours],
        "repeatable": all(torch.equal(a, b) for a, b in zip(ours, again)),
    }


class Layer(nn.LayerNorm):
    """One whose weight and bias are given."""

    def __init__(self, weight, bias):
        super().__init__(len(weight), eps=1e-6, device="meta")
        self._parameters = {"weight": weight, "bias": bias}


def gelus():
    for (name, dtype), (rows, m) in product(DTYPES.items(), [(37, 300), (9, 3), (300, 40)]):
        inputs = draw(rows, m, dtype=dtype, scale=4), draw(m)
        yield (
            f"gelu {name} {rows}x{m}",
            errors(gelu.bias_gelu, gelu.bias_gelu_reference, inputs, [draw(rows, m).detach()]),
        )


def norms():
    for (name, dtype), d in product(DTYPES.items(), (192, 1408, 100)):
        x, branch = draw(2, 11, d), draw(2, 11, d, dtype=dtype)
        like = [torch.randn(2, 11, d, generator=DRAW) for _ in range(2)]
        weight, bias = draw(d), draw(d)
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
            plain = errors(
                lambda x, w, b: norm.norm(x, Layer(w, b)),
                lambda x, w, b: norm.norm_reference(x, Layer(w, b)),
                (x, weight, bias), like,
            )  # fmt: skip
            added = errors(
                lambda x, y, w, b: norm.add_norm(x, y, Layer(w, b)),
                lambda x, y, w, b: norm.add_norm_reference(x, y, Layer(w, b)),
                (x, branch, weight, bias), like,
            )  # fmt: skip
        yield f"norm {name} {d}", plain
        yield f"add_norm {name} {d}", added


def losses():
    kinds = {
        "single": torch.tensor([3, 0, 2099, 7]),
        "lists": torch.tensor([[3, -1, -1], [5, 6, 5], [-1, -1, -1], [2099, -1, 0]]),
        "soft": torch.rand(4, 2100, generator=DRAW),
    }
    for (name, dtype), (kind, labels), scale in product(DTYPES.items(), kinds.items(), (1, 60)):
        logits = (draw(4, 2100, scale=scale).detach() - 10).to(dtype).requires_grad_()
        found = errors(
            lambda z, labels=labels: xent.sigmoid_xent(z, labels),
            lambda z, labels=labels: xent.sigmoid_xent_reference(z, labels),
            (logits,), [torch.rand(4, generator=DRAW)],
        )  # fmt: skip
        yield f"xent {kind} {name} {scale}", found


def block(precision, way):
    """Output and gradients of a block, as an accelerator runs it."""
    torch._dynamo.reset()
    attention.prefers_matmul = lambda *_: False
    config = Model(shape="Ti/16", width=48, depth=1, mlp=72, heads=3)
    made, draw = Block(config), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.2, generator=draw)
    if way in ("full", "selective"):
        parallelize.checkpoint_activations([made], way)
    forward = torch.compile(made, backend="eager", fullgraph=True) if way == "compiled" else made
    x = torch.randn(2, 9, 48, generator=draw).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        y = forward(x)
    (y * torch.linspace(0, 1, 48)).sum().backward()
    return [y, x.grad, *(p.grad for p in made.parameters())]


def blocks():
    for precision in DTYPES:
        launch.TRITON_INTERPRETED = False
        plain = block(precision, "plain")
        launch.TRITON_INTERPRETED = True
        for way in ("plain", "compiled", "full", "selective"):
            ours = block(precision, way)
            off = [((a - b).norm() / b.norm()).item() for a, b in zip(ours, plain)]
            same = all(a.dtype == b.dtype for a, b in zip(ours, plain))
            yield f"block {precision} {way}", {"off": [max(off)], "dtypes": [precision], "repeatable": same}


if __name__ == "__main__":
    assert launch.TRITON_INTERPRETED
    print(json.dumps(dict([*gelus(), *norms(), *losses(), *blocks()])))
