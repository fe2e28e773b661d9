"""Shapes at the border of every kernel: what PyTorch broadcasts or refuses never reaches a kernel."""

import sys

import machine
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scalevit.kernels import gelu, linear, norm, updates, xent
from scalevit.kernels.cpu import attention, dispatch
from scalevit.optim import SGD, Adafactor, Adam

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: native kernels are built there")


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    monkeypatch.setattr(dispatch, "MIN_ELEMENTS", 0)


def outcome(function, *arguments):
    """The result, or the kind of error, in fp32."""
    try:
        result = function(*arguments)
    except (RuntimeError, ValueError, IndexError) as error:
        return type(error)
    return result if isinstance(result, tuple) else (result,)


def assert_same(ours, reference):
    if isinstance(reference, type):
        assert ours is reference
        return
    assert not isinstance(ours, type), ours
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


SIZES = st.sampled_from([0, 1, 2, 6, 8, 16])
SHAPES = st.lists(SIZES, min_size=0, max_size=3).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])


def draw(shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def layer_of(width, weight, bias):
    """LayerNorm over `width` with parameters of other shapes, as from a damaged file; None: without."""
    layer = nn.LayerNorm(width)
    layer.weight = None if weight is None else nn.Parameter(draw(weight))  # pyright: ignore
    layer.bias = None if bias is None else nn.Parameter(draw(bias))  # pyright: ignore
    return layer


@settings(max_examples=150, deadline=None)
@given(SHAPES, SHAPES)
def test_gelu_with_a_bias_of_any_shape(h, bias):
    assert_same(
        outcome(gelu.bias_gelu, draw(h), draw(bias)), outcome(gelu.bias_gelu_reference, draw(h), draw(bias))
    )


@settings(max_examples=150, deadline=None)
@given(SHAPES, SHAPES, st.integers(1, 16), st.none() | SHAPES, st.none() | SHAPES)
def test_norms_with_parameters_and_branches_of_any_shape(x, branch, width, weight, bias):
    layer = layer_of(width, weight, bias)
    assert_same(outcome(norm.norm, draw(x), layer), outcome(norm.norm_reference, draw(x), layer))
    added = draw(x), draw(branch), layer
    assert_same(outcome(norm.add_norm, *added), outcome(norm.add_norm_reference, *added))


@settings(max_examples=150, deadline=None)
@given(SHAPES, SHAPES, st.none() | SHAPES)
def test_linear_layers_with_factors_of_any_shape(x, weight, bias):
    arguments = draw(x), draw(weight), None if bias is None else draw(bias)
    assert_same(outcome(linear.linear, *arguments), outcome(torch.nn.functional.linear, *arguments))


@settings(max_examples=100, deadline=None)
@given(SHAPES, SHAPES, st.booleans())
def test_losses_with_labels_of_any_shape(logits, labels, soft):
    y = torch.rand(labels) if soft else torch.zeros(labels, dtype=torch.long)
    ours = outcome(xent.sigmoid_xent, draw(logits), y)
    assert_same(ours, outcome(xent.sigmoid_xent_reference, draw(logits), y))


def test_an_mlp_whose_layers_do_not_fit_each_other_is_left_to_pytorch():
    fc1, fc2 = linear.Linear(16, 32), linear.Linear(32, 16)
    fc1.weight = nn.Parameter(draw((8, 16)))
    assert linear.mlp(draw((12, 16)), fc1, fc2) is None


@pytest.mark.parametrize(
    ("shape", "heads"), [((2, 8, 96), 5), ((2, 8, 81), 3), ((2, 3, 96), 2), ((0, 8, 96), 2), ((2, 8, 96), 0)]
)
def test_attention_refuses_what_its_kernel_does_not_compute(shape, heads):
    """Heads that do not divide the width, an odd head, too few tokens, no image, no head."""
    with pytest.raises(ValueError, match="no attention kernel"):
        attention.self_attention(draw(shape), heads)


@pytest.mark.parametrize("operation", [gelu.bias_gelu, norm.norm, linear.linear])
def test_no_rows_give_no_rows(operation):
    second = {
        gelu.bias_gelu: (torch.zeros(8),), norm.norm: (nn.LayerNorm(8),), linear.linear: (draw((4, 8)), None),
    }[operation]  # fmt: skip
    x = torch.empty(0, 5, 8, requires_grad=True)
    result = operation(x, *second)
    result = result[-1] if isinstance(result, tuple) else result
    result.sum().backward()
    assert result.shape[:2] == (0, 5) and x.grad.shape == x.shape


@pytest.mark.parametrize("made", [SGD, Adam, Adafactor])
@pytest.mark.parametrize("shape", [(40, 64), (7,)])
def test_a_state_of_another_size_is_refused_before_a_kernel_reads_it(made, shape):
    parameter = nn.Parameter(draw(shape))
    optimizer = made([parameter])
    parameter.grad = draw(shape)
    machine.require_native()
    assert updates.can_update(parameter)
    optimizer.step()
    state = optimizer.state[parameter]
    for name in [name for name, value in state.items() if name != "step" and value.numel() > 1]:
        whole = state[name]
        state[name] = whole.flatten()[:-1].clone()
        with pytest.raises(ValueError, match="optimizer's state"):
            optimizer.step()
        state[name] = whole
    optimizer.step()
