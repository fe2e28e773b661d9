"""Preprocessing: a network sees what its own library's transform would feed it, and it travels whole."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from scalevit.config.run import Model, Preprocessing
from scalevit.evals.features import fit
from scalevit.model import weights
from scalevit.model.formats import preprocessing
from scalevit.model.formats.timm import import_timm
from scalevit.model.vit import ViT

TINY = Model(shape="Ti/4", width=32, depth=1, mlp=48, heads=4, patch=4, image=64, classes=3, pool="token")


@pytest.fixture(scope="module")
def photo():
    """A smooth photograph with red and blue borders, which only some ways of resizing keep."""
    y, x = np.mgrid[0:96, 0:160]
    waves = [127 + 90 * np.sin(x / 23 + k) * np.cos(y / 17 - k) for k in range(3)]
    pixels = np.stack(waves, -1).clip(0, 255).astype(np.uint8)
    pixels[:, :16], pixels[:, -16:] = (250, 20, 20), (20, 20, 250)
    return pixels


@pytest.mark.parametrize(
    ("mode", "crop"), [("center", 0.9), ("center", 0.875), ("squash", 1.0), ("squash", 0.8), ("border", 0.9)]
)
def test_timms_transform_feeds_the_same(photo, mode, crop):
    timm = import_timm()
    given = {
        "input_size": (3, 64, 64), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4),
        "interpolation": "bicubic", "crop_pct": crop, "crop_mode": mode,
    }  # fmt: skip
    transform = timm.data.create_transform(**given, is_training=False)
    theirs = transform(Image.fromarray(photo))[None]
    ours = fit([photo], 64, preprocessing.from_timm(given, 3, 64), whole=False)
    assert (ours - theirs).abs().mean() < 0.02  # Pillow rounds to whole levels, of 1 / 255 / 0.2


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3},
        {"image_mean": 0.4, "image_std": 0.3},
        {"size": 64},
        {
            "image_processor_type": "DeiTImageProcessor", "size": {"height": 72, "width": 72},
            "do_center_crop": True, "crop_size": {"height": 64, "width": 64},
        },
        {
            "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 72},
            "do_center_crop": True, "crop_size": {"height": 64, "width": 64},
        },
    ],
)  # fmt: skip
def test_transformers_processor_feeds_the_same(tmp_path, photo, change):
    import_timm()
    import transformers

    base = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 64, "width": 64},
        "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(base | change))
    kind = getattr(transformers, (base | change)["image_processor_type"])
    theirs = kind.from_pretrained(tmp_path)(Image.fromarray(photo), return_tensors="pt")["pixel_values"]
    ours = fit([photo], 64, preprocessing.from_transformers(tmp_path, "vit", TINY), whole=False)
    assert (ours - torch.as_tensor(theirs)).abs().mean() < 0.015


@pytest.mark.parametrize("target", ["scalevit", "timm", "hf"])
@pytest.mark.parametrize(
    "given",
    [
        Preprocessing(),
        Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", 0.9, "shortest"),
        Preprocessing(interpolation="nearest", crop=1.0, resize="squash"),
        Preprocessing(crop=0.8, resize="squash"),
    ],
)
def test_preprocessing_travels_through_every_format(tmp_path, target, given):
    model = ViT(TINY)
    model.preprocessing = given
    weights.write(model, tmp_path / "m", target)
    if target == "timm":
        about = json.loads((tmp_path / "m" / "config.json").read_text())
        about.pop("scalevit")
        (tmp_path / "m" / "config.json").write_text(json.dumps(about))
    again = weights.load(tmp_path / "m").preprocessing
    sizes = [round(64 / p.crop) for p in (again, given)]
    assert sizes[0] == sizes[1] and replace(again, crop=given.crop) == given


def test_grey_models_see_luminance(photo):
    scaling = Preprocessing((0.0,), (1.0,), crop=1.0, resize="squash")
    ours = fit([photo], (96, 160), scaling, whole=True)
    theirs = np.asarray(Image.fromarray(photo).convert("L")) / 255
    assert ours.shape == (1, 1, 96, 160) and np.abs(ours[0, 0].numpy() - theirs).max() < 0.01
    with pytest.raises(ValueError, match="this model takes 4"):
        fit([photo], 64, Preprocessing((0.5,) * 4, (0.5,) * 4), whole=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_mode": "fancy"}, "crop_mode: 'fancy' is none of center, squash, border"),
        ({"std": [0, 0, 0]}, "pretrained_cfg.std: expected 3 numbers from 1e-06"),
        ({"interpolation": "sharp"}, "interpolation 'sharp': known are nearest"),
    ],
)
def test_what_no_image_can_go_through_is_one_line(change, message):
    with pytest.raises(ValueError, match=message):
        preprocessing.from_timm(change, 3, 64)


def test_an_interpolation_without_a_twin_is_a_note():
    notes = []
    assert (
        preprocessing.from_timm({"interpolation": "lanczos"}, 3, 64, notes.append).interpolation == "bicubic"
    )
    assert notes == ["interpolation lanczos is computed as bicubic"]
