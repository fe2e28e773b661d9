"""Our own folder round-trips, positions resample as the authors do, and bad files say what is wrong."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalevit.config.run import Model, Preprocessing
from scalevit.model import weights
from scalevit.model.vit import ViT

TINY = Model(shape="Ti/4", width=32, depth=2, mlp=48, heads=4, patch=4, image=16, classes=5)
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "posemb.npz")


def randomised(config, seed=0):
    model, generator = ViT(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return model.eval()


def images(side=16):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"pool": "gap", "positions": "sincos2d", "pre_logits": True, "gelu": "erf"},
        {"pool": "token", "registers": 2, "prefix_positions": True, "qk_norm": True, "layer_scale": True},
        {
            "pool": "gap",
            "class_token": True,
            "pre_norm": True,
            "pooled_norm": True,
            "gelu": "quick",
            "norm_eps": 1e-12,
            "classes": 0,
        },
    ],
)
def test_a_saved_model_loads_to_the_same_outputs(tmp_path, change):
    model = randomised(replace(TINY, **change))
    model.preprocessing = Preprocessing(mean=(0.1, 0.2, 0.3), interpolation="bicubic", crop=1.0)
    weights.save(model, tmp_path / "run" / "model")
    for source in (
        tmp_path / "run",
        tmp_path / "run" / "model",
        tmp_path / "run" / "model" / "model.safetensors",
    ):
        loaded = weights.load(source).eval()
        assert loaded.config == model.config and loaded.preprocessing == model.preprocessing
        assert torch.equal(loaded(images()), model(images()))


def test_a_loaded_model_trains(tmp_path):
    weights.save(randomised(TINY), tmp_path / "m")
    model = weights.load(tmp_path / "m")
    model(images()).sum().backward()
    assert all(value.grad is not None for value in model.parameters())


def test_saving_again_replaces_files_and_leaves_others(tmp_path):
    first, second = randomised(TINY), randomised(TINY, seed=1)
    weights.save(first, tmp_path / "m")
    (tmp_path / "m" / "notes.txt").write_text("mine")
    weights.save(second, tmp_path / "m")
    assert torch.equal(weights.load(tmp_path / "m").head.weight, second.head.weight)
    assert (tmp_path / "m" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]  # no temporary folder stays


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("scalevit.model.formats.files.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        weights.save(ViT(TINY), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted({name.split("/")[0] for name in GOLDEN.files}))
def test_resampled_positions_are_the_authors(name):
    new = weights.resample_positions(torch.from_numpy(GOLDEN[f"{name}/old"]), int(name.split("to")[1]))
    np.testing.assert_allclose(new, GOLDEN[f"{name}/new"], atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.integers(1, 12), st.floats(-2, 2), st.floats(-2, 2))
def test_resampling_keeps_a_plane_a_plane(old, new, a, b):
    """Bilinear with corners on corners is exact on functions that are linear in x and y."""

    def plane(side):
        t = (
            torch.linspace(0, 1, side, dtype=torch.float64)
            if side > 1
            else torch.zeros(1, dtype=torch.float64)
        )
        return (a * t[:, None] + b * t[None, :]).reshape(1, -1, 1).float()

    torch.testing.assert_close(weights.resample_positions(plane(old), new), plane(new), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change", [{}, {"pool": "token", "registers": 1, "prefix_positions": True}, {"positions": "sincos2d"}]
)
def test_another_resolution_keeps_everything_but_the_grid(tmp_path, change):
    model = randomised(replace(TINY, **change))
    weights.save(model, tmp_path / "m")
    large = weights.load(tmp_path / "m", image=24)
    assert large(images(24)).shape == (2, 5) and large.config.image == 24
    prefix = model.prefix if model.config.prefix_positions else 0
    assert torch.equal(large.pos_embed[:, :prefix], model.pos_embed[:, :prefix])
    for corner in (0, -1):
        if model.config.positions == "learned":
            assert torch.equal(large.pos_embed[0, prefix:][corner], model.pos_embed[0, prefix:][corner])
    if model.config.positions == "sincos2d":
        assert torch.equal(large.pos_embed, ViT(replace(model.config, image=24)).pos_embed)
    with pytest.raises(ValueError, match="not divisible by patches of 4"):
        weights.load(tmp_path / "m", image=18)


def test_without_head_logits_are_the_features():
    model = randomised(TINY)
    assert torch.equal(weights.without_head(model)(images()), model.features(images()))


def damaged(folder: Path, how: str) -> None:
    config, tensors = folder / "config.json", folder / "model.safetensors"
    about = json.loads(config.read_text())
    if how == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    elif how == "no weights":
        tensors.unlink()
    elif how == "no JSON":
        config.write_text("{")
    elif how == "unknown key":
        about["scalevit"]["model"]["wdith"] = about["scalevit"]["model"].pop("width")
    elif how == "heads":
        about["scalevit"]["model"]["heads"] = 5
    elif how == "nobody's":
        about = {"weights": "?"}
    if how in ("unknown key", "heads", "nobody's"):
        config.write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "it is damaged"),
        ("no weights", r"holds none of model\.safetensors"),
        ("no JSON", "cannot read"),
        ("unknown key", r"wdith: no such key; nearest: model\.width"),
        ("heads", "5 heads do not divide the width 32"),
        ("nobody's", "neither an architecture of timm nor a model_type"),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path, how, message):
    weights.save(ViT(TINY), tmp_path / "m")
    damaged(tmp_path / "m", how)
    with pytest.raises(ValueError, match=message) as caught:
        weights.load(tmp_path / "m")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_what_is_no_model_is_said(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "bare.pt")
    (tmp_path / "letter.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    for source, message in [
        ("bare.pt", "put their config.json beside them"),
        ("letter.txt", "not a format of weights"),
        ("empty", "no model in it"),
        ("absent", "names elsewhere begin with timm:, hf-hub:"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            weights.load(tmp_path / source)
        assert "\n" not in str(caught.value)
