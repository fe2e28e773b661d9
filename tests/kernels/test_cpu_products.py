"""Products of linear layers and attention in C against float64. Where the processor lacks the instructions
plain PyTorch computes the same, and there is nothing to test."""

import math

import interpreted_kernels
import machine
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from scalevit.config.run import Model
from scalevit.distributed import parallelize
from scalevit.kernels.cpu import build, dispatch
from scalevit.kernels.cpu.attention import self_attention
from scalevit.kernels.linear import Linear, linear, mlp
from scalevit.model.attention import Block

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Of the largest number. bf16 is rounded between products, too.
TOLERANCES = {"fp32": 1e-5, "bf16": 2**-6}


KINDS = ["fp32", "bf16"]


@pytest.fixture(autouse=True)
def small(request, monkeypatch):
    """Tensors of any size are worth a call."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    kind = parameters.get("kind")
    machine.require_native_matmul(kind if kind in KINDS else "fp32")
    monkeypatch.setattr(dispatch, "MIN_ELEMENTS", 0)


def drawn(*size, seed=0, scale=1.0):
    return scale * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def layer(inputs, outputs, bias=True, seed=1):
    made = Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        made.weight.copy_(drawn(outputs, inputs, seed=seed, scale=inputs**-0.5))
        if bias:
            made.bias.copy_(drawn(outputs, seed=seed + 1))
    return made


def computes(kind):
    return torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16")


def assert_close(found, kind):
    assert found["repeatable"]
    assert max(found["off"]) <= TOLERANCES[kind], found


def test_they_run_where_the_processor_can():
    found = build.library()
    if machine.COMPILER_IS_LIMITED:
        pytest.skip("needs CC without -mno flags, which leave instructions of the processor out")
    assert found is not None and found.multiplies(0) == 1
    assert found.multiplies(1) == ("avx512_bf16" in machine.FLAGS and "amx_bf16" not in machine.FLAGS)


#: rows, inputs, outputs: fewer than a tile, rests in every direction, several parts of a sum over rows
SIZES = [(6, 2, 2), (7, 10, 6), (65, 34, 50), (129, 200, 104), (1025, 88, 70), (2500, 48, 66)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_its_product(size, kind, bias):
    rows, i, o = size
    made, x = layer(i, o, bias), drawn(rows, i).to(DTYPES[kind]).requires_grad_()
    factors = (x, made.weight, made.bias) if bias else (x, made.weight)
    with computes(kind):
        found = interpreted_kernels.errors(
            lambda x, w, b=None: linear(x, w, b),
            lambda x, w, b=None: F.linear(x, w, b),
            factors, [drawn(rows, o, seed=5)],
        )  # fmt: skip
    assert found["dtypes"][0] == str(DTYPES[kind]).removeprefix("torch.")
    assert found["dtypes"][2:] == ["float32"] * (1 + bias)
    assert_close(found, kind)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_mlp_is_two_layers_with_gelu_between(size, kind):
    rows, d, m = size
    fc1, fc2 = layer(d, m), layer(m, d, seed=3)
    x = drawn(rows, d, scale=2).to(DTYPES[kind]).requires_grad_()

    def ours(x, w1, b1, w2, b2):
        return mlp(x, fc1, fc2)

    def twin(x, w1, b1, w2, b2):
        return F.linear(F.gelu(F.linear(x, w1, b1), approximate="tanh"), w2, b2)

    factors = (x, *fc1.parameters(), *fc2.parameters())
    with computes(kind):
        assert_close(interpreted_kernels.errors(ours, twin, factors, [drawn(rows, d, seed=5)]), kind)


def plain_attention(qkv, heads):
    b, n, d = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.view(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    y = ((q @ k.transpose(-2, -1)) / math.sqrt(d // heads)).softmax(-1) @ v
    return y.transpose(1, 2).reshape(b, n, d)


@pytest.mark.parametrize(
    ("b", "n", "heads", "e"),
    [(3, 197, 2, 64), (2, 16, 3, 32), (1, 6, 1, 104), (4, 65, 2, 8), (1, 257, 1, 88)],
)
@pytest.mark.parametrize("kind", KINDS)
def test_self_attention_is_softmax_of_products(b, n, heads, e, kind):
    qkv = drawn(b, n, 3 * heads * e, scale=1.5).to(DTYPES[kind]).requires_grad_()
    found = interpreted_kernels.errors(
        lambda qkv: self_attention(qkv, heads), lambda qkv: plain_attention(qkv, heads),
        (qkv,), [drawn(b, n, heads * e, seed=5)],
    )  # fmt: skip
    assert_close(found, kind)


def everything(threads, kind):
    """Outputs and gradients on so many threads."""
    torch.set_num_threads(threads)
    try:
        fc1, fc2, qkv = layer(48, 72), layer(72, 48), layer(48, 144)
        x = drawn(5, 211, 48).requires_grad_()
        with computes(kind):
            y = mlp(self_attention(linear(x, qkv.weight, qkv.bias), 3), fc1, fc2)
        y.float().square().sum().backward()
        parameters = [p for made in (fc1, fc2, qkv) for p in made.parameters()]
        return [y, x.grad, *(p.grad for p in parameters)]
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_do_not_depend_on_threads(kind):
    for one, three in zip(everything(1, kind), everything(3, kind), strict=True):
        assert torch.equal(one, three)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_lost(bad, kind):
    """A guard stops at it, so that kernels must pass it on, and only to where it belongs."""
    x, qkv = drawn(9, 48), drawn(2, 9, 96)
    x[3, 7], qkv[1, 4, 3] = bad, bad  # in a query of the first head
    with computes(kind), torch.no_grad():
        for y in (linear(x, layer(48, 32).weight, None), mlp(x, layer(48, 72), layer(72, 48))):
            assert (~y.isfinite()).any(dim=1).tolist() == [row == 3 for row in range(9)]
        y = self_attention(qkv.to(DTYPES[kind]), 2)
    lost = ~y.isfinite().view(2, 9, 2, 16)
    assert lost[1, 4, 0].all() and lost.sum() == 16


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_numbers_give_what_float64_gives(kind):
    x = torch.tensor([[-1e30, -200, -90, -20, -5, -1e-30, 0, 1e-30, 5, 20, 90, 200, 1e30, 1]]).to(
        DTYPES[kind]
    )
    same = Linear(14, 14)
    nn.init.eye_(same.weight), nn.init.zeros_(same.bias)
    with computes(kind), torch.no_grad():
        ours = mlp(x.repeat(6, 1), same, same)
    wanted = F.gelu(x.double(), approximate="tanh").repeat(6, 1)
    torch.testing.assert_close(ours.double(), wanted, rtol=1e-5 if kind == "fp32" else 2**-7, atol=1e-6)
    scores = torch.zeros(1, 8, 3, 16)  # one query that is sure of one key, among 8
    scores[0, :, 0, 0], scores[0, 2, 1, 0], scores[0, :, 2] = 3e4, 3e4, torch.arange(8.0)[:, None]
    y = self_attention(scores.to(DTYPES[kind]).view(1, 8, 48), 1)
    assert torch.equal(y, torch.full_like(y, 2))


def test_without_gradients_nothing_is_kept():
    x, fc1, fc2 = drawn(64, 48), layer(48, 72), layer(72, 48)
    with torch.no_grad():
        assert mlp(x, fc1, fc2).grad_fn is None
    torch.testing.assert_close(
        mlp(x, fc1, fc2), fc2(F.gelu(fc1(x), approximate="tanh")), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("trained", ["nothing", "head only", "biases"])
def test_frozen_parameters_get_no_gradient(trained):
    fc1, fc2, x = layer(48, 72), layer(72, 48), drawn(64, 48).requires_grad_(trained == "nothing")
    for made in (fc1, fc2):
        made.requires_grad_(False)
    if trained == "biases":
        fc1.bias.requires_grad_(), fc2.bias.requires_grad_()
    if trained == "head only":
        fc2.requires_grad_()
    mlp(x, fc1, fc2).square().sum().backward()
    wide = [
        nn.Parameter(p.detach().double(), p.requires_grad) for p in (*fc1.parameters(), *fc2.parameters())
    ]
    x64 = x.detach().double().requires_grad_(x.requires_grad)
    w1, b1, w2, b2 = wide
    F.linear(F.gelu(F.linear(x64, w1, b1), approximate="tanh"), w2, b2).square().sum().backward()
    for ours, plain in zip((x, *fc1.parameters(), *fc2.parameters()), (x64, *wide), strict=True):
        assert (ours.grad is None) == (plain.grad is None)
        if plain.grad is not None:
            torch.testing.assert_close(ours.grad.double(), plain.grad, rtol=1e-4, atol=1e-4)


def test_what_torch_refuses_is_refused():
    """A width that does not fit would be read beyond its end."""
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(drawn(64, 48), layer(46, 72).weight, None)
    with pytest.raises(RuntimeError, match="dtype"):
        linear(drawn(64, 48).bfloat16(), layer(48, 72).weight, None)
    assert mlp(drawn(64, 48), layer(48, 72), layer(70, 48)) is None


def test_weights_in_the_precision_are_taken_as_they_are():
    made, x = layer(48, 72).bfloat16(), drawn(64, 48).bfloat16()
    y = linear(x, made.weight, made.bias)
    assert y.dtype == torch.bfloat16
    wanted = F.linear(x.double(), made.weight.double(), made.bias.double())
    torch.testing.assert_close(y.double(), wanted, rtol=2**-8, atol=2**-8)


def block():
    return Block(Model(shape="Ti/16", width=48, depth=1, mlp=72, heads=3)).apply(
        lambda part: [nn.init.normal_(p, std=0.2) for p in part.parameters(recurse=False)]
    )


def test_hooks_on_layers_are_called():
    made, x = block(), drawn(2, 9, 48)
    plain, seen = made(x), []
    for name in ("fc1", "fc2"):
        getattr(made.mlp, name).register_forward_hook(
            lambda part, given, y, name=name: seen.append((name, y.shape))
        )
    torch.testing.assert_close(made(x), plain)
    assert seen == [("fc1", (2, 9, 72)), ("fc2", (2, 9, 48))]


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_every_kind_of_hook_is_called(kind):
    made, calls = block(), []
    getattr(made.mlp.fc2, f"register_{kind}_hook")(lambda *given: calls.append(given))
    made(drawn(2, 9, 48)).sum().backward()
    assert len(calls) == 1


class Adapted(nn.Module):
    """What adapter libraries put in a layer's place: something that has its weight, and does more."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    @property
    def weight(self):
        return self.layer.weight

    @property
    def bias(self):
        return self.layer.bias

    def forward(self, x):
        return self.layer(x) + 1


@pytest.mark.parametrize("name", ["fc1", "fc2"])
def test_a_layer_that_was_replaced_is_called(name):
    made, x = block(), drawn(2, 9, 48)
    plain = made(x)
    setattr(made.mlp, name, Adapted(getattr(made.mlp, name)))
    assert not torch.allclose(made(x), plain)


def test_selective_recomputing_finds_torchs_products():
    """It keeps results of torch's operations; ours would be computed twice."""
    plain, made, calls = block(), block(), []
    made.load_state_dict(plain.state_dict())
    parallelize.checkpoint_activations(iter([made]), "selective")
    called = dispatch.call
    try:
        dispatch.call = lambda function, *rest: (calls.append(function), called(function, *rest))
        for one in (made, plain):
            one(drawn(2, 9, 48)).square().sum().backward()
            assert ("product" in calls) == (one is plain)
    finally:
        dispatch.call = called
    for a, b in zip(made.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
