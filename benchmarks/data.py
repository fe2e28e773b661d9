"""Images a second and core: a 500×375 JPEG decoded, inception-cropped to 224, flipped and normalised.

    python benchmarks/data.py --seconds 5

Each path runs alone on one thread, in turns, timed in processor time; the median of the turns is given. The
photographs are scikit-learn's two sample images, cut into different parts, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from scalevit.data import decode as decoding
from scalevit.data.decode import cut
from scalevit.data.hashing import key, uniform_one
from scalevit.data.transforms import inception_box, mirrored, resize, train_view

SIDE = 224
TURNS = 5


def photographs(count: int = 64, width: int = 500, height: int = 375, quality: int = 90) -> list[bytes]:
    """JPEGs of this size, each another part of a photograph."""
    from sklearn.datasets import load_sample_images

    draw = np.random.default_rng(0)
    jpegs = []
    for number in range(count):
        image = Image.fromarray(load_sample_images().images[number % 2])
        scale = draw.uniform(width / image.width, 1)
        wide, high = int(image.width * scale), int(image.height * scale)
        high = min(high, int(wide * height / width))
        left, top = (draw.integers(0, image.width - wide + 1), draw.integers(0, image.height - high + 1))
        part = image.resize((width, height), Image.Resampling.BICUBIC, (left, top, left + wide, top + high))
        file = io.BytesIO()
        part.save(file, "JPEG", quality=quality)
        jpegs.append(file.getvalue())
    return jpegs


def paths() -> dict[str, Callable[[bytes, int], object]]:
    """The ways to the same result, by name; each takes a JPEG and the number of the image."""

    keys = [int(one) for one in key(0, np.arange(100_000))]

    def ours(data: bytes, number: int) -> object:
        return train_view(data, "", SIDE, keys[number])

    def ours_pillow(data: bytes, number: int) -> object:
        image = decoding.decode_reference(data, "")
        view = resize(cut(image, inception_box(*image.shape[:2], keys[number])), SIDE, SIDE)
        return mirrored(view) if uniform_one(keys[number], 0) < 0.5 else view

    def pillow_box(data: bytes, number: int) -> object:
        image = Image.open(io.BytesIO(data))
        box = inception_box(image.height, image.width, keys[number])
        edges = (box.left, box.top, box.left + box.width, box.top + box.height)
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, edges))

    return {
        "torchvision": _torchvision(),
        "scalevit": ours,
        "scalevit, Pillow": ours_pillow,
        "Pillow box": pillow_box,
    }


def _torchvision() -> Callable[[bytes, int], object]:
    """PyTorch's usual path: float tensors leave it, normalised."""
    from torchvision import transforms as tv

    view = tv.Compose(
        [
            tv.RandomResizedCrop(SIDE),
            tv.RandomHorizontalFlip(),
            tv.ToTensor(),
            tv.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    return lambda data, number: view(Image.open(io.BytesIO(data)).convert("RGB"))


def _declare_missing_operators() -> object:
    """A CPU build of torch lacks what torchvision's import asks for; its Pillow transforms do not need it."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def speed(path: Callable[[bytes, int], object], jpegs: list[bytes], seconds: float) -> float:
    """Images a second of processor time."""
    began, done = time.process_time(), 0
    while time.process_time() - began < seconds:
        path(jpegs[done % len(jpegs)], done)
        done += 1
    return done / (time.process_time() - began)


def measure(seconds: float = 5.0) -> dict[str, object]:
    """Images a second and core of every path, the ratio to torchvision's, and how far pixels are off."""
    torch.set_num_threads(1)
    kept = None if torch.cuda.is_available() else _declare_missing_operators()
    jpegs, ways = photographs(), paths()
    turns = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, path in ways.items():
            turns[name].append(speed(path, jpegs, seconds / TURNS))
    rates = {name: float(np.median(values)) for name, values in turns.items()}
    spread = {name: float(np.ptp(values)) for name, values in turns.items()}
    gaps = [
        np.abs(decoding.decode(j, "").astype(int) - decoding.decode_reference(j, "")).mean() for j in jpegs
    ]
    del kept
    return {
        "images_per_second_per_core": rates,
        "spread": spread,
        "times_torchvision": {name: rate / rates["torchvision"] for name, rate in rates.items()},
        "decoder": "simplejpeg" if decoding.simplejpeg else "Pillow",
        "grey_levels_from_pillow": {"mean": float(np.mean(gaps)), "worst": float(np.max(gaps))},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="processor time for each path (5)")
    print(json.dumps(measure(parser.parse_args().seconds), indent=2))
