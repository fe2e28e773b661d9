"""A perceptual hash of 64 bits: signs of an image's lowest frequencies, close for images that look alike.

The luminance is averaged down to 32 × 32 and transformed (DCT-II, as in Zauner's pHash, 2010); a bit says
whether a coefficient is above the median of the 64. Mirrored and cropped copies are found by hashing these
views of the *evaluation* image, which are few.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from scalevit.data.decode import Box

_SIDE, _BITS = 32, 8
_GRID = np.arange(_SIDE)
_DCT = np.cos(np.pi / _SIDE * (_GRID[None, :] + 0.5) * _GRID[: _BITS + 1, None]).astype(np.float32)
_WEIGHTS = (np.uint64(1) << np.arange(64, dtype=np.uint64)).astype(np.uint64)

#: What a copy may have lost at its borders, as a share of each side: (top, bottom, left, right).
CROPS = (
    (0.0, 0.0, 0.0, 0.0),
    (0.025, 0.025, 0.025, 0.025),
    (0.05, 0.05, 0.05, 0.05),
    (0.05, 0.0, 0.05, 0.0),
    (0.05, 0.0, 0.0, 0.05),
    (0.0, 0.05, 0.05, 0.0),
    (0.0, 0.05, 0.0, 0.05),
    (0.05, 0.0, 0.025, 0.025),
    (0.0, 0.05, 0.025, 0.025),
    (0.025, 0.025, 0.05, 0.0),
    (0.025, 0.025, 0.0, 0.05),
)


def luminance(pixels: UInt8[np.ndarray, "h w 3"], side: int = 0) -> Float[np.ndarray, "h2 w2"]:
    """Grey levels 0 to 255 as float32; averaged down, or interpolated up, to side × side when given."""
    grey = Image.fromarray(pixels).convert("L")
    return np.asarray(_squeezed(grey, side) if side else grey, np.float32)


def _squeezed(grey: Image.Image, side: int) -> Image.Image:
    """One rule for whole images and views: two ways up would make hashes of small copies differ."""
    larger = min(grey.size) > side
    return grey.resize((side, side), Image.Resampling.BOX if larger else Image.Resampling.BILINEAR)


def phash(grey: Float[np.ndarray, "h w"]) -> int:
    """The hash of grey levels of any size."""
    if grey.shape != (_SIDE, _SIDE):
        grey = np.asarray(_squeezed(Image.fromarray(grey), _SIDE))
    waves = _DCT @ grey @ _DCT.T
    lowest = waves[:_BITS, :_BITS].ravel().copy()
    lowest[0] = waves[0, _BITS]  # the mean says how bright the image is, not what it shows
    return int((_WEIGHTS * (lowest > np.median(lowest))).sum())


def crop_box(height: int, width: int, crop: tuple[float, float, float, float]) -> Box:
    """The part that remains when these shares of the sides are lost."""
    top, bottom, left, right = crop
    first, start = round(top * height), round(left * width)
    return Box(first, start, height - first - round(bottom * height), width - start - round(right * width))


def views(grey: Float[np.ndarray, "h w"]) -> list[Float[np.ndarray, "h2 w2"]]:
    """What copies of an image may look like: each of CROPS, and each of these mirrored."""
    parts = []
    for crop in CROPS:
        box = crop_box(grey.shape[0], grey.shape[1], crop)
        part = grey[box.top : box.top + box.height, box.left : box.left + box.width]
        parts += [np.ascontiguousarray(part), np.ascontiguousarray(part[:, ::-1])]
    return parts


def distance(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Bits in which hashes (uint64, broadcast) differ."""
    return np.bitwise_count(some ^ others)
