"""Crops follow TensorFlow's rule, resizes their definitions, and every draw its key."""

import numpy as np
import pytest
import torch
from pictures import encoded
from PIL import Image
from scipy.stats import kstest
from sklearn.datasets import load_sample_images

from scalevit.data import crops
from scalevit.data.crops import (
    AREA,
    ASPECT,
    eval_view,
    inception_box,
    mirrored,
    resize,
    resize_small,
    train_view,
)
from scalevit.data.decode import decode
from scalevit.data.procedural.hashing import key, uniform, uniform_one

PHOTO = load_sample_images().images[0]


def boxes(height: int, width: int, count: int = 4000):
    return np.array([inception_box(height, width, one) for one in key(1, np.arange(count)).tolist()])


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (224, 224), (40, 900)])
def test_boxes_lie_inside_and_within_area_and_aspect(height, width):
    top, left, high, wide = boxes(height, width).T
    assert top.min() >= 0 and left.min() >= 0
    assert (top + high).max() <= height and (left + wide).max() <= width
    area = high * wide / (height * width)
    assert area.min() >= AREA[0] and area.max() <= AREA[1]
    if width < 900:  # too long an image may take the whole as a last resort
        assert (wide / high).min() > ASPECT[0] - 0.02 and (wide / high).max() < ASPECT[1] + 0.02


def test_heights_are_even_given_the_aspect_and_so_areas_are_not():
    """On a large square image rounding is nothing, and the law of the rule has a closed form: given aspect a,
    the height is uniform between sqrt(0.05 / a) and min(1, 1 / a, sqrt(1 / a)) of the side."""
    side = 100_000
    drawn = boxes(side, side).astype(float)
    drawn = drawn[(drawn[:, 2:] < side).all(axis=1)]  # a side that is full leaves no place to draw
    top, left, high, wide = drawn.T
    aspect, tall = wide / high, high / side
    low, most = np.sqrt(AREA[0] / aspect), np.minimum(1, 1 / aspect)
    assert kstest((tall - low) / (most - low), "uniform").pvalue > 1e-3
    assert kstest((aspect - ASPECT[0]) / (ASPECT[1] - ASPECT[0]), "uniform").pvalue > 1e-3
    assert kstest(left / (side - wide), "uniform").pvalue > 1e-3
    assert kstest(top / (side - high), "uniform").pvalue > 1e-3
    area = aspect * tall**2
    assert kstest((area - AREA[0]) / (area.max() - AREA[0]), "uniform").pvalue < 1e-6


def test_one_draw_is_the_batch_draw():
    keys = key(3, np.arange(50))
    for counter in (0, 1, 400):
        assert [uniform_one(one, counter) for one in keys.tolist()] == uniform(keys, counter).tolist()


def test_a_view_is_its_key_and_half_are_mirrored():
    data = encoded(PHOTO)
    keys = key(0, np.arange(200)).tolist()
    assert np.array_equal(train_view(data, "a", 32, keys[5]), train_view(data, "a", 32, keys[5]))
    whole, flips = decode(data, "a"), 0
    for one in keys:
        box = inception_box(*whole.shape[:2], one)
        plain = resize(whole[box.top : box.top + box.height, box.left : box.left + box.width], 32, 32)
        view = train_view(data, "a", 32, one)
        assert np.array_equal(view, plain) or np.array_equal(view, plain[:, ::-1])
        flips += not np.array_equal(view, plain)
    assert 70 < flips < 130


def test_bilinear_mixes_two_rows_and_antialias_all():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::4] = 255
    plain, smooth = resize(stripes, 8, 8), resize(stripes, 8, 8, antialias=True)
    assert plain.max() == 128 or plain.max() == 0  # rows 3 and 4 of every 8: one of them is white
    assert np.abs(smooth[1:-1].astype(int) - 64).max() <= 2


@pytest.mark.parametrize("size", [(20, 30), (300, 500)])
def test_bilinear_is_the_reference_with_and_without_opencv(size, monkeypatch):
    planes = torch.from_numpy(PHOTO.copy()).permute(2, 0, 1)[None].double()
    exact = torch.nn.functional.interpolate(planes, size, mode="bilinear", align_corners=False)
    exact = exact[0].permute(1, 2, 0).numpy()
    assert np.abs(resize(PHOTO, *size) - exact).max() <= 1.01
    flipped = mirrored(PHOTO)
    monkeypatch.setattr(crops, "cv2", None)
    assert np.abs(resize(PHOTO, *size) - exact).max() <= 0.51
    assert np.array_equal(mirrored(PHOTO), flipped)


def test_evaluation_scales_the_shorter_side_by_area_and_cuts_the_middle():
    tall = PHOTO[:, :300]
    small = resize_small(tall, 64)
    assert small.shape == (round(427 * 64 / 300), 64, 3)
    halves = resize_small(PHOTO[:400, :600], 200)
    exact = PHOTO[:400, :600].reshape(200, 2, 300, 2, 3).mean(axis=(1, 3))
    assert np.abs(halves - exact).max() <= 0.76
    view = eval_view(PHOTO, 224)
    whole = resize_small(PHOTO, 256)
    left = (whole.shape[1] - 224) // 2
    assert np.array_equal(view, whole[16:240, left : left + 224])


def test_area_without_opencv_is_the_same(monkeypatch):
    fast = resize_small(PHOTO, 100)  # Pillow weighs whole pixels where the exact area takes parts
    monkeypatch.setattr(crops, "cv2", None)
    assert np.abs(resize_small(PHOTO, 100).astype(int) - fast).mean() < 2
    assert resize_small(PHOTO[:20, :30], 40).shape == (40, 60, 3)
    assert Image.fromarray(eval_view(PHOTO[:50, :60], 32)).size == (32, 32)
