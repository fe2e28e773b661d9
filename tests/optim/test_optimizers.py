"""Updates against plain float64 formulas on the reference's own tensors; groups, memory, shards, compile."""

import copy
import math
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalevit import config, optim
from scalevit.config.run import Model
from scalevit.distributed.shards import slices_of_range
from scalevit.model.reference_layout import ReferenceLayout, same_layout, transposed_layout
from scalevit.model.vit import ViT
from scalevit.optim import param_groups
from scalevit.optim.adafactor import factor_axes
from scalevit.optim.param_groups import Rule

SMALL = Model(width=64, depth=2, mlp=96, heads=2, patch=4, image=16, classes=10)


def reference_adafactor(gradients, momentum_dtype=np.float32, clip=None):
    """Update directions of one tensor of the reference, straight from the formulas, in float64."""
    shape = gradients[0].shape
    order = np.argsort(shape, kind="stable")
    factored = len(shape) >= 2 and shape[order[-2]] >= 32
    m = v = rows = columns = 0.0
    for t, g in enumerate(gradients, start=1):
        beta = min(0.999, 1 - t**-0.8)
        squares = g.astype(np.float64) ** 2 + 1e-30
        if factored:
            second, largest = int(order[-2]), int(order[-1])
            rows = beta * rows + (1 - beta) * squares.mean(largest, keepdims=True)
            columns = beta * columns + (1 - beta) * squares.mean(second, keepdims=True)
            v = rows * columns / rows.mean(second, keepdims=True)
        else:
            v = beta * v + (1 - beta) * squares
        u = g / np.sqrt(v)
        if clip:
            u = u / max(1.0, np.sqrt((u**2).mean()) / clip)
        m = 0.9 * m + 0.1 * u
        yield m


def steps(parameter, optimizer, gradients):
    """The update of every step, at learning rate 1."""
    for gradient in gradients:
        before = parameter.detach().clone()
        parameter.grad = gradient
        optimizer.step()
        yield before - parameter.detach()


VIEWS = {
    "fused query, key, value": ReferenceLayout(3, (2, 40, 64), (2, 0, 1)),
    "more heads than their width": ReferenceLayout(2, (40, 33, 96), (2, 0, 1)),
    "attention's output": ReferenceLayout(1, (96, 2, 48), (1, 2, 0)),
    "output, more heads than their width": ReferenceLayout(1, (96, 48, 8), (1, 2, 0)),
    "patches of 32": ReferenceLayout(1, (48, 3, 32, 32), (2, 3, 1, 0)),
    "patches of 8, not factored": ReferenceLayout(1, (48, 3, 8, 8), (2, 3, 1, 0)),
    "tall": transposed_layout(96, 33),
    "wide": transposed_layout(33, 96),
    "positions": same_layout((1, 49, 64)),
    "biases of heads": ReferenceLayout(3, (2, 32), (0, 1)),
    "biases of many heads, factored": ReferenceLayout(3, (36, 32), (0, 1)),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("clip", [None, 0.7])
def test_adafactor_equals_the_formulas_on_each_tensor_of_the_reference(name, clip):
    view = VIEWS[name]
    rng = np.random.default_rng(0)
    scale = np.exp(rng.normal(size=view.shape))
    theirs = [rng.normal(size=(view.parts, *view.shape)) * scale for _ in range(3)]
    ours = [
        view.from_reference(torch.tensor(g, dtype=torch.float32)).flatten(0, 0).contiguous() for g in theirs
    ]
    parameter = torch.nn.Parameter(torch.zeros_like(ours[0]))
    groups = [{"params": [parameter], "layouts": [view]}]
    made = optim.Adafactor(groups, 1.0, momentum_dtype=torch.float32, clip_threshold=clip)
    expected = zip(*(reference_adafactor([g[part] for g in theirs], clip=clip) for part in range(view.parts)))
    for update, wanted in zip(steps(parameter, made, ours), expected, strict=True):
        error = view.to_reference(update).numpy() - np.stack(wanted)
        assert np.abs(error).max() < 2e-6 * np.abs(wanted).max()


def test_adam_and_sgd_equal_the_formulas():
    rng = np.random.default_rng(1)
    gradients = [rng.normal(size=(37, 5)).astype(np.float32) for _ in range(4)]
    kinds = {"adam": (optim.Adam, {"eps": 1e-3}), "sgd": (optim.SGD, {})}
    for name, (kind, extra) in kinds.items():
        parameter = torch.nn.Parameter(torch.zeros(37, 5, dtype=torch.float32))
        made = kind([parameter], 1.0, momentum_dtype=torch.float32, **extra)
        m = v = 0.0
        for t, update in enumerate(steps(parameter, made, map(torch.from_numpy, gradients)), start=1):
            g = gradients[t - 1].astype(np.float64)
            m = 0.9 * m + (0.1 * g if name == "adam" else g)
            v = 0.999 * v + 0.001 * g * g
            adam = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-3)
            np.testing.assert_allclose(update.numpy(), adam if name == "adam" else m, rtol=3e-5, atol=2e-6)


@pytest.mark.parametrize("kind", [optim.Adafactor, optim.Adam, optim.SGD])
def test_bf16_momentum_decays_with_the_rounded_factor_and_is_stored_rounded(kind):
    parameter = torch.nn.Parameter(torch.zeros(4))
    made = kind([parameter], 1.0, beta1=0.9)
    list(steps(parameter, made, [torch.full((4,), 3.0)]))
    first = made.state[parameter]["momentum"].clone()
    assert first.dtype == torch.bfloat16
    list(steps(parameter, made, [torch.zeros(4)]))
    expected = (first.float() * 0.8984375).bfloat16()
    assert torch.equal(made.state[parameter]["momentum"], expected)


@pytest.mark.parametrize("kind", [optim.Adafactor, optim.Adam, optim.SGD])
def test_weights_shrink_by_rate_times_decay(kind):
    parameter = torch.nn.Parameter(torch.full((3,), 2.0))
    made = kind([{"params": [parameter], "weight_decay": 3.0}], 0.0)
    made.param_groups[0]["lr"].fill_(0.01)
    list(steps(parameter, made, [torch.zeros(3)]))
    assert parameter.detach().tolist() == pytest.approx([2 * (1 - 0.01 * 3)] * 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
def test_boxes_tile_a_range_in_order(shape, data):
    size = math.prod(shape)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    most = data.draw(st.integers(1, size))
    whole = np.arange(size).reshape(shape)
    pieces = [whole[box].ravel() for box in slices_of_range(tuple(shape), start, stop, most)]
    assert np.concatenate([np.arange(0), *pieces]).tolist() == list(range(start, stop))
    assert all(0 < len(piece) <= most for piece in pieces)


def test_state_is_two_bytes_a_parameter():
    model = ViT(replace(SMALL, width=384, mlp=1536, heads=6, depth=2))
    made = optim.build(config.Optimizer(), model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    made.step()
    held = sum(v.nbytes for state in made.state.values() for v in state.values())
    assert 2.0 <= held / sum(p.numel() for p in model.parameters()) < 2.1
    patch = made.state[model.patch_embed.proj.weight]
    assert sorted(patch) == ["momentum", "second_moment", "step"]  # of 4 × 4: too small to factor


def test_ties_between_axes_are_broken_as_numpy_sorts():
    assert factor_axes(ReferenceLayout(1, (32, 32, 64), (2, 0, 1)), 32).shape == (32, 32, 1, 64, 1)
    assert factor_axes(ReferenceLayout(1, (8, 3, 32, 32), (2, 3, 1, 0)), 32).factored


@pytest.mark.parametrize("name", ["adafactor", "adam", "sgd"])
def test_saved_state_continues_exactly(name):
    def fresh():
        model = ViT(SMALL, seed=2)
        made = optim.build(config.Optimizer(name=name), model)
        for group in made.param_groups:
            group["lr"].fill_(1e-2)
        return model, made

    def step(model, made, seed):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        made.step()

    model, made = fresh()
    step(model, made, 0)
    twin, other = fresh()
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(made.state_dict()))
    step(model, made, 1)
    step(twin, other, 1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


# --------------------------------------------------------------------------- groups


def test_groups_are_the_papers():
    rows = {row["name"]: row for row in param_groups.group_table(config.Run(model=SMALL))}
    assert len(rows) == len(dict(ViT(SMALL, device="meta").named_parameters()))
    decays = {name: (row["group"], row["decay"]) for name, row in rows.items()}
    assert decays["head.weight"] == ("head", 3.0)
    for name in ("patch_embed.proj.weight", "blocks.1.attn.qkv.weight", "attn_pool.mlp.fc2.weight"):
        assert decays[name] == ("body", 0.03)
    for name in ("head.bias", "pos_embed", "attn_pool.latent", "blocks.0.norm1.weight", "norm.bias"):
        assert decays[name] == ("none", 0.0)
    kernels = {
        name
        for name, view in ViT(SMALL, device="meta").reference_layouts().items()
        if name.endswith(".weight")
    }
    kernels -= {name for name in kernels if "norm" in name}
    assert {name for name, (group, _) in decays.items() if group != "none"} == kernels


@pytest.mark.parametrize(
    "model",
    [
        replace(SMALL, classes=0, pool="gap", positions="sincos2d"),
        replace(SMALL, pool="token", registers=2, qk_norm=True, layer_scale=True, pre_norm=True),
        replace(SMALL, pool="gap", pooled_norm=True, pre_logits=True),
    ],
)
def test_every_kind_of_model_is_covered(model):
    names = [name for group in param_groups.parameter_groups(ViT(model, device="meta"), config.Optimizer())
             for name in group["names"]]  # fmt: skip
    assert sorted(names) == sorted(name for name, _ in ViT(model, device="meta").named_parameters())


def test_layers_learn_slower_the_lower_they_are():
    run = config.Run(model=SMALL, optimizer=config.Optimizer(layer_decay=0.5))
    scale = {row["name"]: row["lr_scale"] for row in param_groups.group_table(run)}
    assert [scale[n] for n in ("head.weight", "attn_pool.latent", "norm.weight")] == [1, 1, 1]
    assert [scale[n] for n in ("blocks.1.norm1.bias", "blocks.0.norm1.bias", "pos_embed")] == [
        0.5,
        0.25,
        0.125,
    ]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([Rule("a", r"heat\.weight", 0.0), Rule("b", ".*", 0.0)], "head.weight"),
        ([Rule("a", r".*weight", 0.0)], "no pattern covers"),
    ],
)
def test_rules_that_do_not_fit_are_named(rules, message):
    with pytest.raises(ValueError, match=message):
        param_groups.parameter_groups(ViT(SMALL, device="meta"), config.Optimizer(), rules)


# --------------------------------------------------------------------------- shards and compilers


def test_sharded_parameters_get_the_same_update():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = Path(__file__).parents[1] / "support" / "sharded_optimizers.py"
    command, pipe = [sys.executable, script], subprocess.PIPE
    start = [subprocess.Popen([*command, rank, port], stdout=pipe, stderr=pipe, text=True) for rank in "01"]
    done = [process.communicate(timeout=120) for process in start]
    assert [process.returncode for process in start] == [0, 0], done
    errors = {kind: [*map(float, rest)] for kind, *rest in map(str.split, done[0][0].splitlines())}
    assert set(errors) == {"adafactor", "clipped", "adam", "sgd"}
    # sums taken in another order may tip the rounding of single bf16 entries, in fp32 nothing is left
    assert max(whole for whole, _ in errors.values()) <= 1e-6
    assert max(errors[kind][1] for kind in ("clipped", "adam", "sgd")) <= 1e-6


@pytest.mark.parametrize("name", ["adam", "adafactor", "sgd"])
def test_a_run_says_what_its_momentum_is_kept_in(name):
    model = ViT(Model(shape="mu/16", image=16))
    for word, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        rules = replace(config.Optimizer(), name=name, momentum=word)
        made = optim.build(rules, model)
        model(torch.ones(2, 3, 16, 16)).sum().backward()
        made.step()
        assert {state["momentum"].dtype for state in made.state.values()} == {dtype}


def test_the_groups_of_a_vit_carry_its_reference_layouts():
    """Adafactor factors per head: a group that has lost its layouts would factor whole matrices."""
    model = ViT(SMALL, device="meta")
    layouts = {}
    for group in optim.parameter_groups(model, config.Optimizer()):
        layouts |= dict(zip(group["names"], group["layouts"], strict=True))
    assert layouts == model.reference_layouts()
    assert layouts["blocks.0.attn.qkv.weight"].parts == 3
