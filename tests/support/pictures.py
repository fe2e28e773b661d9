"""Small sources of every form for the tests of data: smooth random pictures that JPEG keeps well."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from scalevit.data.dataset import open_dataset
from scalevit.data.pack import PackOptions, pack

CLASSES = ("ant", "bee", "cow")


def picture(seed: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A smooth random picture (height, width, 3)."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, form: str = "JPEG", **options) -> bytes:
    """A picture as a file's bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **({"quality": 92} if form == "JPEG" else {}), **options)
    return file.getvalue()


def make_folder(root: Path, count: int = 30) -> Path:
    """A folder of classes with `count` JPEGs."""
    for number in range(count):
        target = root / CLASSES[number % 3] / f"{number:03d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encoded(picture(number, 64 + number % 5, 48 + number % 7)))
    return root


def make_shards(folder: Path, out: Path, form: str, shards: int = 3) -> Path:
    """The same images as tars or tables."""
    store = open_dataset(str(folder))
    pack(store, PackOptions(str(folder), store.samples, shards, form, 0), out)
    return out
