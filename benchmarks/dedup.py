"""How many planted copies `scalevit data dedup` finds, and how many distinct images it takes for copies.

    python benchmarks/dedup.py --distinct 100000
    python benchmarks/dedup.py --photographs /usr/share/backgrounds --seed 11 --distinct 20000

Evaluation images are parts of photographs; copies of each are recompressed, halved, cropped by 5 %, mirrored,
brightened and darkened. Without a folder the photographs are scikit-learn's two, and distinct images are
random fields with the spectrum of photographs (amplitude 1/f) and procedural fractals. With a folder (which
must not hold a picture twice), evaluation images are of every other one, and distinct images of the rest.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from PIL.Image import Transpose

from scalevit.data.dedup import ALIKE, RADIUS, Table, candidates
from scalevit.data.fingerprint import CROPS, likeness, luminance, phash, views

SIDE = 64
#: Photographs of a folder are brought to this shorter side first.
SHORTER = 480


def photographs(folder: Path | None) -> list[Image.Image]:
    """All of a folder's, in the order of their paths; scikit-learn's two without one."""
    if folder is None:
        from sklearn.datasets import load_sample_images

        return [Image.fromarray(image) for image in load_sample_images().images]
    found = [Image.open(file).convert("RGB") for file in sorted(folder.rglob("*.jpg"))]
    scales = [SHORTER / min(image.size) for image in found]
    return [i.resize((round(i.width * s), round(i.height * s))) for i, s in zip(found, scales)]


def parts(whole: list[Image.Image], count: int, seed: int) -> Iterator[Image.Image]:
    """Different parts of photographs in turn, a fifth to all of their area."""
    draw = np.random.default_rng(seed)
    for number in range(count):
        image = whole[number % len(whole)]
        scale = draw.uniform(0.45, 1)
        width, height = int(image.width * scale), int(image.height * scale * draw.uniform(0.8, 1))
        left, top = draw.integers(0, image.width - width + 1), draw.integers(0, image.height - height + 1)
        yield image.crop((left, top, left + width, top + height))


def small_parts(whole: list[Image.Image], count: int, seed: int) -> Iterator[np.ndarray]:
    """Grey levels of parts of photographs, all of one size."""
    return (luminance(np.asarray(part.resize((SIDE, SIDE)))) for part in parts(whole, count, seed))


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


def measure(evaluation: int, distinct: int, folder: Path | None, seed: int) -> dict[str, object]:
    """Recall by kind, by hash alone and confirmed; false candidates and false removals."""
    whole = photographs(folder)
    theirs, rest = (whole, []) if folder is None else (whole[::2], whole[1::2])
    draw, images = np.random.default_rng(seed + 2), list(parts(theirs, evaluation, seed))
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
    others = list(small_parts(rest, distinct, seed + 3) if rest else distinct_images(distinct))
    false_hit, false_sure = _found(others, seen, table, owners)
    return {
        "photographs": len(whole),
        "seed": seed,
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
    parser.add_argument("--photographs", type=Path, help="a folder of JPEGs")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    print(json.dumps(measure(args.evaluation, args.distinct, args.photographs, args.seed), indent=2))
