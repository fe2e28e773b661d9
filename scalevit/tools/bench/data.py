"""Benchmark of image reading, in images a second and core: a 500×375 JPEG decoded, inception-cropped to 224,
mirrored, and normalised.

Every path is measured twice: up to the uint8 view, which is what our loader hands to the device, and up to
normalised float32 with channels first, which is what PyTorch's usual transforms hand over. Paths alternate on
one thread, in process time. The photographs are parts of scikit-learn's two sample images.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from scalevit.data import decode as decoding
from scalevit.data.crops import inception_box, mirrored, resize, train_view
from scalevit.data.decode import cut
from scalevit.data.loader import as_floats
from scalevit.data.procedural.hashing import key, uniform_one
from scalevit.model.formats.torchvision_shim import import_despite_torchvision

SIDE = 224
ROUNDS = 5
#: The library that ratios are to.
BASELINE = "torchvision"
_KEYS = 4096

#: A reading path: from a JPEG and the image's number to the model's input.
ImagePath = Callable[[bytes, int], Any]


def measure(seconds: float) -> dict[str, Any]:
    """Images a second and core of every path installed, each timed for `seconds`; the ratio to torchvision's
    with the same result; and how far the decoder's pixels are from Pillow's, in grey levels."""
    if not seconds > 0:
        raise ValueError("--seconds must be positive")
    torch.set_num_threads(1)
    jpegs = photographs()
    paths, missing = _paths()
    spent: dict[tuple[str, str], list[float]] = {name: [] for name in paths}
    for _ in range(ROUNDS):
        for name, path in paths.items():
            spent[name].append(_speed(path, jpegs, seconds / ROUNDS))
    medians = {name: float(np.median(values)) for name, values in spent.items()}
    rows = [
        {
            "path": path,
            "to": to,
            "images_per_second": rate,
            "range": float(np.ptp(spent[path, to])),
            "ratio": rate / medians[BASELINE, to] if (BASELINE, to) in medians else None,
        }
        for (path, to), rate in medians.items()
    ]
    gaps = [_grey_levels_apart(jpeg) for jpeg in jpegs]
    return {
        "image": "500×375 JPEG, quality 90",
        "side": SIDE,
        "seconds": seconds,
        "turns": ROUNDS,
        "decoder": "simplejpeg" if decoding.simplejpeg else "Pillow",
        "grey_levels_from_pillow": {"mean": float(np.mean(gaps)), "worst": float(np.max(gaps))},
        "rows": rows,
        "missing": missing,
    }


def table(found: dict[str, Any]) -> str:
    gap = found["grey_levels_from_pillow"]
    lines = [
        f"{found['image']} → random crop → {found['side']} px, one core; {found['decoder']} is "
        f"{gap['mean']:.2f} grey levels from Pillow on average",
        f"{'':<26}{'ends in':>9}{'images/s':>10}{'× torchvision':>15}",
    ]
    for row in found["rows"]:
        ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(f"{row['path']:<26}{row['to']:>9}{row['images_per_second']:>10.0f}{ratio:>15}")
    return "\n".join(lines)


def photographs(count: int = 64, width: int = 500, height: int = 375, quality: int = 90) -> list[bytes]:
    """JPEGs of this size, each another part of a photograph."""
    from sklearn.datasets import load_sample_images

    draw, jpegs = np.random.default_rng(0), list[bytes]()
    whole = [Image.fromarray(image) for image in load_sample_images().images]
    for number in range(count):
        image = whole[number % len(whole)]
        scale = draw.uniform(width / image.width, 1)
        wide, high = int(image.width * scale), int(image.height * scale)
        high = min(high, int(wide * height / width))
        left = int(draw.integers(0, image.width - wide + 1))
        top = int(draw.integers(0, image.height - high + 1))
        part = image.resize((width, height), Image.Resampling.BICUBIC, (left, top, left + wide, top + high))
        file = io.BytesIO()
        part.save(file, "JPEG", quality=quality)
        jpegs.append(file.getvalue())
    return jpegs


def _paths() -> tuple[dict[tuple[str, str], ImagePath], dict[str, str]]:
    """Reading paths by (name, output type), and the reason where a library is missing."""
    keys = [int(one) for one in key(0, np.arange(_KEYS))]

    def ours(data: bytes, number: int) -> np.ndarray:
        return train_view(data, name="", side=SIDE, key=keys[number % _KEYS])

    def on_pillow(data: bytes, number: int) -> np.ndarray:
        one = keys[number % _KEYS]
        image = decoding.decode_reference(data, "")
        height, width = image.shape[:2]
        view = resize(cut(image, inception_box(height, width, one)), SIDE, SIDE)
        return mirrored(view) if uniform_one(one, 0) < 0.5 else view

    def floats(view: Callable[[bytes, int], np.ndarray]) -> ImagePath:
        return lambda data, number: as_floats(torch.from_numpy(view(data, number))[None])

    ways: dict[tuple[str, str], ImagePath] = {}
    for name, way in {"scalevit": ours, "scalevit on Pillow alone": on_pillow}.items():
        ways |= {(name, "uint8"): way, (name, "floats"): floats(way)}
    try:
        views = _torchvision()
    except (ImportError, RuntimeError) as error:
        return ways, {BASELINE: str(error).splitlines()[0]}
    return {(BASELINE, to): way for to, way in views.items()} | ways, {}


def _torchvision() -> dict[str, ImagePath]:
    """Torchvision's transforms on Pillow images, by output type."""
    tv = import_despite_torchvision("torchvision.transforms")
    crop: list[Any] = [tv.RandomResizedCrop(SIDE), tv.RandomHorizontalFlip()]
    view = tv.Compose(crop)
    whole = tv.Compose([*crop, tv.ToTensor(), tv.Normalize([0.5] * 3, [0.5] * 3)])

    def opened(data: bytes) -> Image.Image:
        return Image.open(io.BytesIO(data)).convert("RGB")

    return {
        "uint8": lambda data, number: np.asarray(view(opened(data))),
        "floats": lambda data, number: whole(opened(data)),
    }


def _speed(way: ImagePath, jpegs: list[bytes], seconds: float) -> float:
    """Images a second of processor time."""
    began, done = time.process_time(), 0
    while True:
        way(jpegs[done % len(jpegs)], done)
        done += 1
        spent = time.process_time() - began
        if spent >= seconds:
            return done / spent


def _grey_levels_apart(jpeg: bytes) -> float:
    ours, reference = decoding.decode(jpeg, ""), decoding.decode_reference(jpeg, "")
    return float(np.abs(ours.astype(int) - reference).mean())
