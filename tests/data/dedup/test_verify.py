"""Copies are laid over their originals and recognised; what only shares layout and grey levels is not."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from scalevit.data.dedup.phash import luminance
from scalevit.data.dedup.verify import SIDE, is_duplicate, mirrored, similarity, thumbnail

WHOLE = (0.0, 0.0, 0.0, 0.0)
PHOTOS = [Image.fromarray(image) for image in load_sample_images().images]


def grey(image: Image.Image) -> np.ndarray:
    return thumbnail(luminance(np.asarray(image)))


def recompressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize("photo", PHOTOS)
def test_a_copy_is_recognised(photo):
    light = ImageEnhance.Brightness(photo)
    for copy in (
        recompressed(photo), photo.resize((photo.width // 3, photo.height // 3)), light.enhance(1.12),
        light.enhance(0.88), photo.resize((photo.width, photo.height // 2)),
    ):  # fmt: skip
        assert is_duplicate(grey(copy), grey(photo), WHOLE)


@settings(deadline=None, max_examples=25)
@given(top=st.floats(0, 0.05), bottom=st.floats(0, 0.05), left=st.floats(0, 0.05), right=st.floats(0, 0.05))
def test_a_crop_is_found_from_a_view_not_quite_there(top, bottom, left, right):
    photo = PHOTOS[1]
    box = (left * photo.width, top * photo.height, (1 - right) * photo.width, (1 - bottom) * photo.height)
    copy = grey(photo.crop(tuple(round(edge) for edge in box)))
    near = tuple(0.025 * round(lost / 0.025) for lost in (top, bottom, left, right))
    assert is_duplicate(copy, grey(photo), near)
    flipped = np.ascontiguousarray(copy[:, ::-1])
    assert is_duplicate(flipped, *mirrored(grey(photo), near)) and not is_duplicate(
        flipped, grey(photo), near
    )


def test_brightening_that_cuts_whites_off_is_seen_through():
    photo = Image.fromarray(np.clip(np.asarray(PHOTOS[0]).astype(int) + 70, 0, 250).astype(np.uint8))
    copy = ImageEnhance.Brightness(photo).enhance(1.1)
    assert (luminance(np.asarray(copy)) >= 254).mean() > 0.15
    assert is_duplicate(grey(copy), grey(photo), WHOLE)


def garment(seed: int) -> np.ndarray:
    """One outline, as all shirts have; the folds are of the seed."""
    draw = np.random.default_rng(seed)
    folds = Image.fromarray(draw.uniform(100, 250, (7, 7)).astype(np.float32)).resize((28, 28), 3)
    outline = np.zeros((28, 28), np.float32)
    outline[3:26, 7:21] = outline[4:12, 2:26] = 1
    return outline * np.asarray(folds)


def test_shirts_with_one_outline_are_told_apart():
    shirts = [garment(seed) for seed in range(12)]
    for one in shirts:
        for other in shirts:
            assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.8
            assert is_duplicate(thumbnail(one), thumbnail(other), WHOLE) == (one is other)
    assert not is_duplicate(
        thumbnail(shirts[0]), thumbnail(shirts[0] * 0.6), WHOLE
    )  # a grey shirt, not a white one


def test_empty_pages_are_alike_when_they_are_the_same():
    page = np.full((SIDE, SIDE), 200, np.float32)
    ramp = page + np.linspace(0, 40, SIDE, dtype=np.float32)
    assert similarity(page, page, WHOLE) == 1
    assert not is_duplicate(page, page + 3, WHOLE)
    assert not is_duplicate(ramp, page, WHOLE)
