"""How many planted copies `scalevit data dedup` finds, and how many distinct images it takes for copies.

    python benchmarks/dedup.py --distinct 100000

Evaluation images are parts of scikit-learn's two sample photographs; copies of each are recompressed, halved,
cropped by 5 %, mirrored, brightened and darkened. Distinct images are random fields with the spectrum of
photographs (amplitude 1/f) and procedural fractals, none of which shows what an evaluation image shows.
"""

from __future__ import annotations

import argparse
import io
import json
import time

import numpy as np
from PIL import Image, ImageEnhance
from PIL.Image import Transpose

from scalevit.data.dedup import ALIKE, RADIUS, Table, candidates
from scalevit.data.fingerprint import CROPS, likeness, luminance, phash, views

SIDE = 64


def parts_of_photographs(count: int) -> list[Image.Image]:
    """Different parts of two photographs, a fifth to all of their area."""
    from sklearn.datasets import load_sample_images

    draw = np.random.default_rng(1)
    chosen = []
    for number in range(count):
        image = Image.fromarray(load_sample_images().images[number % 2])
        scale = draw.uniform(0.45, 1)
        width, height = int(image.width * scale), int(image.height * scale * draw.uniform(0.8, 1))
        left, top = draw.integers(0, image.width - width + 1), draw.integers(0, image.height - height + 1)
        chosen.append(image.crop((left, top, left + width, top + height)))
    return chosen


def copies(image: Image.Image, draw: np.random.Generator) -> dict[str, Image.Image]:
    """Near-duplicates by kind."""
    width, height = image.size
    lost = [draw.uniform(0, 0.05), draw.uniform(0, 0.05)]
    box = (lost[0] * width, lost[1] * height, width * (0.95 + lost[0]), height * (0.95 + lost[1]))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    return {
        "recompressed": Image.open(file).convert("RGB"),
        "halved": image.resize((width // 2, height // 2), Image.Resampling.BICUBIC),
        "cropped 5 %": image.crop(tuple(int(edge) for edge in box)),
        "mirrored": image.transpose(Transpose.FLIP_LEFT_RIGHT),
        "brighter 10 %": ImageEnhance.Brightness(image).enhance(1.1),
        "darker 10 %": ImageEnhance.Brightness(image).enhance(0.9),
    }


def distinct_images(count: int):
    """Grey images, half random fields of amplitude 1/f, half procedural fractals."""
    from scalevit.data.procedural import Procedural

    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :])
    frequency[0, 0] = 1
    draw = np.random.default_rng(2)
    fractals = Procedural("fractals", 100_000, SIDE, 0, 0.0)
    for start in range(0, count, 500):
        half = min(500, count - start) // 2
        noise = draw.normal(size=(half, *frequency.shape)) + 1j * draw.normal(size=(half, *frequency.shape))
        fields = np.fft.irfft2(noise / frequency, s=(SIDE, SIDE))
        yield from (np.clip(128 + 50 * f / f.std(), 0, 255).astype(np.float32) for f in fields)
        yield from (luminance(i) for i in fractals.images(np.arange(start, start + half)).numpy())


def measure(evaluation: int, distinct: int) -> dict[str, object]:
    """Recall by kind, by hash alone and confirmed; false candidates and false removals."""
    draw, images = np.random.default_rng(3), parts_of_photographs(evaluation)
    seen = [views(luminance(np.asarray(image))) for image in images]
    table = Table(np.array([phash(view) for one in seen for view in one], np.uint64))
    owners = np.repeat(np.arange(evaluation), 2 * len(CROPS))
    greys, kinds = [], []
    for image in images:
        for kind, copy in copies(image, draw).items():
            greys.append(luminance(np.asarray(copy)))
            kinds.append(kind)
    began = time.perf_counter()
    hit, sure = _found(greys, seen, table, owners)
    names = np.array(kinds)
    others = list(distinct_images(distinct))
    false_hit, false_sure = _found(others, seen, table, owners)
    return {
        "evaluation_images": evaluation,
        "radius": RADIUS,
        "alike": ALIKE,
        "recall": {
            "all": float(sure.mean()),
            **{k: float(sure[names == k].mean()) for k in dict.fromkeys(kinds)},
        },
        "recall_of_hashes_alone": float(hit.mean()),
        "distinct_images": len(others),
        "false_candidates": int(false_hit.sum()),
        "false_removals": int(false_sure.sum()),
        "seconds": time.perf_counter() - began,
    }


def _found(greys: list, seen: list, table: Table, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which images are candidates, and which of them are confirmed."""
    hashes = np.array([phash(grey) for grey in greys], np.uint64)
    hit, sure = np.zeros(len(greys), bool), np.zeros(len(greys), bool)
    for matches in candidates(hashes, table, owners):
        number = matches[0].train
        hit[number] = True
        sure[number] = any(likeness(greys[number], seen[m.evaluation][m.view]) >= ALIKE for m in matches)
    return hit, sure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluation", type=int, default=500)
    parser.add_argument("--distinct", type=int, default=100_000)
    args = parser.parse_args()
    print(json.dumps(measure(args.evaluation, args.distinct), indent=2))
