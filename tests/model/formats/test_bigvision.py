"""Every dialect of big_vision's npz loads to the same outputs; what is wrong with a file is said."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalevit.config.run import Model, Preprocessing
from scalevit.model import weights
from scalevit.model.formats import bigvision
from scalevit.model.vit import ViT

TINY = Model(shape="Ti/4", width=32, depth=2, mlp=48, heads=4, patch=4, image=16, classes=5)


def randomised(config, seed=0):
    model, generator = ViT(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return model.eval()


def images(side=16):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def saved(tmp_path: Path, arrays) -> Path:
    np.savez(tmp_path / "weights.npz", **arrays)
    return tmp_path / "weights.npz"


def scanned(flat):
    layers = [name for name in flat if "encoderblock_0/" in name]
    out = {name: value for name, value in flat.items() if "encoderblock_" not in name}
    for name in layers:
        stack = [flat[name.replace("encoderblock_0", f"encoderblock_{i}")] for i in range(2)]
        out[name.replace("encoderblock_0", "encoderblock")] = np.stack(stack)
    return out


def old(flat):
    """ViT and AugReg: positions in the encoder with a slot for the class token, other module numbers."""
    out = {}
    for name, value in flat.items():
        if "encoderblock_" in name:
            name = name.replace("LayerNorm_1", "LayerNorm_2").replace("MlpBlock_0", "MlpBlock_3")
            name = name.replace("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1")
        out[name] = value
    slot = np.full((1, 1, 32), 0.25, np.float32)
    out["Transformer/posembed_input/pos_embedding"] = np.concatenate([slot, out.pop("pos_embedding")], axis=1)
    out["cls"] = out["cls"] - slot
    return out


def unnested(flat):
    return {name.removeprefix("MAPHead_0/"): value for name, value in flat.items()}


DIALECTS = {
    "params/": ("map", lambda flat: prefixed(flat, "params/")),
    "no prefix": ("gap", lambda flat: flat),
    "opt/target/": ("token", lambda flat: prefixed(flat, "opt/target/") | {"opt/step": np.ones(1)}),
    "params/img/": ("map", lambda flat: prefixed(flat, "params/img/") | {"params/t": np.ones(1)}),
    "scan": ("map", scanned),
    "old": ("token", old),
    "inlined MAP head": ("map", unnested),
    "bfloat16": ("gap", lambda flat: {n: halved(v).view("V2") for n, v in flat.items()}),
}  # fmt: skip


def prefixed(flat, prefix):
    return {f"{prefix}{name}": value for name, value in flat.items()}


def halved(value):
    return (value.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_gives_the_same_outputs(tmp_path, name):
    pool, speak = DIALECTS[name]
    model = randomised(replace(TINY, pool=pool))
    if name == "bfloat16":
        for value in model.parameters():
            value.data = value.data.view(torch.int32).bitwise_and(-65536).view(torch.float32)
    loaded = weights.load(saved(tmp_path, speak(bigvision.from_ours(model))))
    assert loaded.config == replace(TINY, pool=pool, shape="S/4")
    with torch.no_grad():
        torch.testing.assert_close(loaded(images()), model(images()), rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    heads=st.integers(1, 4), head_dim=st.integers(1, 9), mlp=st.integers(1, 20), depth=st.integers(1, 3),
    patch=st.integers(1, 5), grid=st.integers(1, 4), classes=st.integers(0, 3),
    pool=st.sampled_from(["map", "gap", "token"]),
)  # fmt: skip
def test_any_shape_is_read_off_its_tensors_and_comes_back(
    heads, head_dim, mlp, depth, patch, grid, classes, pool
):
    model = randomised(Model("S/1", heads * head_dim, depth, mlp, heads, patch, grid * patch, classes, pool))
    flat = bigvision.from_ours(model)
    config = bigvision.infer(flat)
    assert config == replace(model.config, shape=f"S/{patch}")
    back = bigvision.to_ours(flat, ViT(config, device="meta"))
    assert all(torch.equal(value, back[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("pool", ["map", "gap", "token"])
def test_round_trip_is_identical(tmp_path, pool):
    flat = {f"params/{n}": v for n, v in bigvision.from_ours(randomised(replace(TINY, pool=pool))).items()}
    weights.write(weights.load(saved(tmp_path, flat)), tmp_path / "again.npz", "bigvision")
    again = np.load(tmp_path / "again.npz")
    assert {*again.files} == flat.keys()
    assert all(np.array_equal(again[name], value) for name, value in flat.items())


def test_a_class_tokens_position_is_added_to_it(tmp_path):
    model = randomised(replace(TINY, pool="token", prefix_positions=True))
    weights.write(model, tmp_path / "w.npz", "bigvision")
    with torch.no_grad():
        torch.testing.assert_close(
            weights.load(tmp_path / "w.npz")(images()), model(images()), rtol=1e-5, atol=1e-5
        )


def test_computed_positions_need_an_image_size(tmp_path):
    model = randomised(replace(TINY, pool="gap", positions="sincos2d", pre_logits=True))
    path = saved(tmp_path, bigvision.from_ours(model))
    with pytest.raises(ValueError, match="say the image size"):
        weights.load(path)
    with torch.no_grad():
        assert torch.equal(weights.load(path, image=16)(images()), model(images()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gelu": "erf"}, "GELU other than tanh"),
        ({"registers": 2, "qk_norm": True}, "register tokens, normalised queries and keys"),
        ({"pool": "gap", "pooled_norm": True}, "norm after pooling"),
        ({"norm_eps": 1e-5}, "epsilon of 1e-05"),
    ],
)
def test_what_big_vision_would_compute_otherwise_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        weights.write(ViT(replace(TINY, **change)), tmp_path / "w.npz", "bigvision")
    assert not (tmp_path / "w.npz").exists()


def test_other_normalisation_is_refused(tmp_path):
    model = ViT(TINY)
    model.preprocessing = Preprocessing(mean=(0.4, 0.4, 0.4))
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        weights.write(model, tmp_path / "w.npz", "bigvision")


def broken(flat, how):
    query = "Transformer/encoderblock_1/MultiHeadDotProductAttention_0/query/kernel"
    changes = {
        "a missing tensor": {n: v for n, v in flat.items() if n != query},
        "a tensor too many": flat | {"Transformer/encoderblock_1/Layernorm_0/scale": np.ones(3, np.float32)},
        "wrong heads": flat | {query: flat[query].reshape(32, 2, 16)},
        "257 positions": flat | {"pos_embedding": np.zeros((1, 257, 32), np.float32)},
        "NaN": flat | {"head/bias": np.full(5, np.nan, np.float32)},
        "another network": {"conv/kernel": np.ones(3)},
    }
    return changes[how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("a missing tensor", r"missing: Transformer/encoderblock_1/\S*query/kernel \(nearest"),
        (
            "a tensor too many",
            r"left over: \S*Layernorm_0/scale \(nearest to the first: \S*LayerNorm_0/scale",
        ),
        ("wrong heads", r"query/kernel is \(32, 2, 16\) but should be \(32, 4, 8\)"),
        ("257 positions", "257 positions, which is no square"),
        ("NaN", r"NaN or infinite values in head.bias"),
        ("another network", "not a ViT of big_vision"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(tmp_path, how, message):
    path = saved(tmp_path, broken(bigvision.from_ours(randomised(TINY)), how))
    with pytest.raises(ValueError, match=message) as caught:
        weights.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize("kind", ["pickle", "object array", "truncated", "text", "npy"])
def test_nothing_is_unpickled_and_damage_is_one_line(tmp_path, kind):
    path = tmp_path / "w.npz"
    np.savez(path, x=np.arange(1000))
    whole = path.read_bytes()
    if kind == "object array":
        np.savez(path, x=np.array([Bomb()], dtype=object), allow_pickle=True)
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.arange(3))
    else:
        content = {"pickle": pickle.dumps(Bomb()), "truncated": whole[: len(whole) // 2], "text": b"hello"}
        path.write_bytes(content[kind])
    with pytest.raises(ValueError, match="no readable npz") as caught:
        weights.load(path)
    assert "\n" not in str(caught.value)
