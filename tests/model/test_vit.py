"""The model against the authors' numbers, closed forms of its initial weights, and what must not matter."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalevit.config.model_sizes import Shape
from scalevit.config.run import Model
from scalevit.model.formats import bigvision
from scalevit.model.layers import tanh_gelu
from scalevit.model.losses import sigmoid_xent
from scalevit.model.vit import ViT

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("vit_*.npz"))
TINY = Model(shape="Ti/4", width=32, depth=2, mlp=48, heads=4, image=16, classes=5)
VARIANTS = {
    "map": TINY,
    "gap": replace(TINY, pool="gap", positions="sincos2d", pre_logits=True),
    "token": replace(TINY, pool="token", registers=2, qk_norm=True, prefix_positions=True, gelu="erf"),
    "clip": replace(TINY, pool="gap", class_token=True, pre_norm=True, pooled_norm=True, gelu="quick"),
    "scaled": replace(TINY, pool="map", registers=3, layer_scale=True, classes=0),
}


def under(arrays, prefix):
    return {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}


def images(n=2, side=16, seed=0):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def randomised(config, seed=0):
    """No parameter left at zero or one, so that nothing hides."""
    model, generator = ViT(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return model.eval()


def test_golden_files_are_here():
    assert {path.stem for path in GOLDEN} >= {"vit_map", "vit_gap_sincos_prelogits"}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_outputs_and_gradients_are_the_authors(path):
    golden = np.load(path)
    params = under(golden, "params/")
    config = bigvision.infer(params, image=golden["image"].shape[1])
    model = ViT(config, device="meta")
    model.load_state_dict(bigvision.to_ours(params, model), assign=True)

    stages = model.intermediates(torch.from_numpy(golden["image"]).permute(0, 3, 1, 2))
    loss = sigmoid_xent(stages["logits"], torch.from_numpy(golden["labels"]))
    loss.backward()

    for name in ("encoded", "pre_logits", "logits"):
        error = np.abs(stages[name].detach().numpy() - golden[name]).max()
        assert error <= 1e-5 * np.abs(golden[name]).max(), name
    assert loss.item() == pytest.approx(float(golden["loss"]), rel=1e-5)
    grads, want = (
        bigvision.from_ours(model, {n: p.grad for n, p in model.named_parameters()}),
        under(golden, "grads/"),
    )
    assert grads.keys() == want.keys()
    largest = max(np.abs(value).max() for value in want.values())
    for name, value in want.items():
        assert np.abs(grads[name] - value).max() <= 1e-4 * max(np.abs(value).max(), 1e-3 * largest), name


@pytest.mark.parametrize("pool", ["map", "gap", "token"])
@pytest.mark.parametrize("name", ["G/14", "s/28", "mu/16"])
def test_parameters_are_exactly_those_of_the_shape(name, pool):
    config = Model(shape=name, pool=pool, classes=7, image=224)
    found: Counter = Counter()
    for view in ViT(config, device="meta").reference_layouts().values():
        found[view.shape] += view.parts
    assert found == Counter(shape for _, shape in config.resolve().tensors(224, pool, 7))


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_every_parameter_has_a_view_that_gives_it_back(config):
    model = ViT(config)
    views = model.reference_layouts()
    assert views.keys() == dict(model.named_parameters()).keys()
    for name, value in model.named_parameters():
        parts = views[name].to_reference(value.detach())
        assert parts.shape == (views[name].parts, *views[name].shape)
        assert torch.equal(views[name].from_reference(parts).reshape(value.shape), value), name


def test_views_separate_query_key_and_value():
    model = ViT(TINY)
    weight, view = (
        model.blocks[0].attn.qkv.weight.detach(),
        model.reference_layouts()["blocks.0.attn.qkv.weight"],
    )
    x = torch.randn(3, 32)
    q, k, v = view.to_reference(weight)
    heads = torch.cat([torch.einsum("nd,dhe->nhe", x, part).flatten(1) for part in (q, k, v)], dim=1)
    torch.testing.assert_close(heads, x @ weight.T)


def test_initial_weights_follow_the_reference():
    model = ViT(Model(shape="Ti/16", depth=1, classes=10, head_bias=-7.0, registers=1), seed=3)
    d, m = 192, 768
    for name, fans in [
        ("blocks.0.attn.qkv", (d, d)), ("blocks.0.attn.proj", (d, d)), ("attn_pool.kv", (d, d)),
        ("blocks.0.mlp.fc1", (d, m)), ("attn_pool.mlp.fc2", (m, d)),
    ]:  # fmt: skip
        weight, limit = model.get_submodule(name).weight, (6 / sum(fans)) ** 0.5
        assert weight.abs().max() <= limit
        assert weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.02), name
    assert model.pos_embed.std().item() == pytest.approx(d**-0.5, rel=0.02)
    assert model.patch_embed.proj.weight.std().item() == pytest.approx((3 * 16 * 16) ** -0.5, rel=0.02)
    assert model.blocks[0].mlp.fc1.bias.std().item() == pytest.approx(1e-6, rel=0.2)
    assert model.attn_pool.latent.abs().max() <= (6 / (1 + d)) ** 0.5
    assert not model.head.weight.any() and (model.head.bias == -7).all()
    assert not model.blocks[0].attn.qkv.bias.any() and (model.norm.weight == 1).all()


def test_initial_weights_depend_on_seed_and_name_only():
    small, deep = (
        ViT(TINY, seed=1).state_dict(),
        ViT(replace(TINY, depth=3, registers=2), seed=1).state_dict(),
    )
    other = ViT(TINY, seed=2).state_dict()
    late = ViT(TINY, device="meta").to_empty(device="cpu")
    torch.manual_seed(99)
    late.init_weights(1)
    for name, value in small.items():
        assert torch.equal(value, deep[name]) and torch.equal(value, late.state_dict()[name])
    assert not torch.equal(small["pos_embed"], other["pos_embed"])


def test_building_does_not_touch_the_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    ViT(TINY)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_named_stages_are_the_ones_forward_goes_through(config):
    model, x = randomised(config), images()
    stages = model.intermediates(x)
    assert torch.equal(stages["logits"], model(x))
    assert torch.equal(stages["pre_logits"], model.features(x))
    assert torch.equal(stages["blocks.1"], stages["encoded"])
    assert stages["encoded"].shape == (2, 16 + model.prefix, 32)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_images_of_a_batch_do_not_see_each_other(config):
    model, x = randomised(config), images(3)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(16)), st.sampled_from(["map", "gap"]))
def test_only_positions_tell_patches_apart(order, pool):
    """Moving the patches and their positions together changes nothing behind the pooling."""
    model = randomised(replace(TINY, pool=pool))
    tokens = model.embed(images())

    def pooled(x):
        for block in model.blocks:
            x = block(x)
        return model._pool(model.norm(x))

    torch.testing.assert_close(pooled(tokens), pooled(tokens[:, list(order)]), rtol=1e-4, atol=1e-5)


def test_patches_are_a_convolution():
    model, x = randomised(TINY), images()
    proj = model.patch_embed.proj
    want = torch.nn.functional.conv2d(x, proj.weight, proj.bias, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.patch_embed(x), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", ["map", "gap"])
def test_bf16_is_close_to_fp32(pool):
    model, x = randomised(replace(TINY, pool=pool)), images()
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x)
    assert (half.float() - model(x)).abs().max() < 0.05 * model(x).abs().max()


def test_an_image_of_another_size_is_named():
    with pytest.raises(ValueError, match="16 × 16 pixels, found 20 × 16"):
        ViT(TINY)(torch.zeros(1, 3, 20, 16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "5 heads do not divide"),
        ({"image": 18}, "not divisible by patches of 4"),
        ({"depth": 0}, "no model has such a shape"),
    ],
)
def test_an_impossible_shape_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ViT(replace(TINY, **change), device="meta")


def test_resolved_shape_is_what_is_built():
    assert TINY.resolve() == Shape(32, 2, 48, 4, 4)
    assert len(ViT(TINY, device="meta").blocks) == 2


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_both_forms_of_the_tanh_gelu_agree_and_so_do_their_gradients(monkeypatch, dtype, tolerance):
    x = torch.linspace(-12, 12, 2001).to(dtype)
    found = {}
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda answer=compiling: answer)
        at = x.clone().requires_grad_()
        y = tanh_gelu(at)
        (gradient,) = torch.autograd.grad(y.float().sum(), at)
        found[compiling] = torch.stack([y.float(), gradient.float()])
    torch.testing.assert_close(found[True], found[False], rtol=tolerance, atol=tolerance)
