"""Whether an image is a copy of another: the two are laid over each other, and what differs is judged.

Four numbers (where the crop begins and how much it keeps, down and across) and the light (gain and offset)
are fitted by Gauss-Newton steps (Lucas & Kanade, 1981) on luminance at 64 × 64. Then the *slopes* of the two
must agree: two shirts have the same outline, and grey levels that correlate above 0.98, but other folds.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float
from PIL import Image

SIDE = 64
_STEPS = 10
#: How often images are blurred to find the place from afar, and to judge: JPEG's noise and differences of
#: resampling go.
_COARSE, _FINE = 12, 2
#: A side is brought down to another's only where it is larger by this factor.
_FINER = 1.5
#: Parts of an image that a copy may show: where it begins, and what it keeps.
_START, _SPAN = (-0.015, 0.115), (0.885, 1.015)
#: Changes of light that a copy may have.
_GAIN, _OFFSET = (0.8, 1.25), 30.0
#: How well the slopes of two thumbnails must agree. Images below 64 pixels show less that could differ.
_AGREE, _AGREE_SMALL = 0.8, 0.96
#: Slopes in grey levels a pixel below which there is nothing to compare but the grey itself, and how near
#: that must be.
_FLAT, _SAME = 0.15, 0.5

Grey = Float[np.ndarray, "s s"]
Crop = tuple[float, float, float, float]
_PLACE = ((np.arange(SIDE) + 0.5) / SIDE).astype(np.float32)


def thumbnail(grey: Float[np.ndarray, "h w"]) -> Grey:
    """What is kept of an image for comparing: grey levels averaged to 64 × 64, or to its shorter side."""
    side = min(SIDE, *grey.shape)
    return _resized(grey, side, Image.Resampling.BOX)


def is_duplicate(copy: Grey, original: Grey, crop: Crop) -> bool:
    """Whether a thumbnail is a copy of the original's; see `likeness`."""
    small = min(len(copy), len(original)) < SIDE
    return similarity(copy, original, crop) >= (_AGREE_SMALL if small else _AGREE)


def mirrored(original: Grey, crop: Crop) -> tuple[Grey, Crop]:
    """Left and right swapped."""
    top, bottom, left, right = crop
    return np.ascontiguousarray(original[:, ::-1]), (top, bottom, right, left)


def similarity(copy: Grey, original: Grey, crop: Crop) -> float:
    """How well the slopes of two thumbnails agree, at most 1, once the copy is laid over the original.
    crop: what the copy may have lost at the (top, bottom, left, right), as a share of each side, at first."""
    if len(original) > _FINER * len(copy):
        original = _resized(original, len(copy), Image.Resampling.BOX)
    if len(copy) > _FINER * len(original):
        copy = _resized(copy, len(original), Image.Resampling.BOX)
    place = np.array([crop[0], 1 - crop[0] - crop[1], crop[2], 1 - crop[2] - crop[3]])
    target, source = _enlarged(copy), _enlarged(original)
    place, *_ = _laid(_smooth(target, _COARSE), _smooth(source, _COARSE), place)
    target, source = _smooth(target, _FINE), _smooth(source, _FINE)
    _, laid, gain, offset = _laid(target, source, place)
    if not (_GAIN[0] <= gain <= _GAIN[1] and abs(offset) <= _OFFSET):
        return _sameness(target, source)
    return _agreement(target, laid)


def _resized(grey: np.ndarray, side: int, kernel: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(grey.astype(np.float32)).resize((side, side), kernel))


def _enlarged(grey: np.ndarray) -> np.ndarray:
    return grey.astype(np.float32) if len(grey) == SIDE else _resized(grey, SIDE, Image.Resampling.BICUBIC)


@lru_cache
def _blur(times: int) -> np.ndarray:
    """So many times a quarter of each neighbour and half of itself."""
    padded = np.pad(np.eye(SIDE), ((1, 1), (0, 0)), mode="edge")
    once = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return np.linalg.matrix_power(once, times).astype(np.float32)


def _smooth(grey: np.ndarray, times: int) -> np.ndarray:
    return _blur(times) @ grey @ _blur(times).T


def _laid(
    target: np.ndarray, source: np.ndarray, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """(place, the part of `source` there, in the light of `target`, gain, offset), nearest to `target`."""
    best, found = np.inf, (place, source, 0.0, 0.0)
    for _ in range(_STEPS):
        part = _sampled(place[0], place[1]) @ source @ _sampled(place[2], place[3]).T
        gain, offset = _light(part, target)
        laid = np.clip(gain * part + offset, 0, 255)
        rest = target - laid
        error = float((rest * rest).mean())
        if error > 0.999 * best:
            break
        best, found = error, (place, laid, gain, offset)
        place = _inside(place + _step(laid, rest, place))
    return found


def _sampled(start: float, span: float) -> np.ndarray:
    """The matrix that takes 64 even places of this stretch of a unit image from its 64 rows, linearly."""
    place = np.clip((start + span * _PLACE) * SIDE - 0.5, 0, SIDE - 1)
    low = np.minimum(place.astype(np.int64), SIDE - 2)
    rows, share = np.arange(SIDE), (place - low).astype(np.float32)
    matrix = np.zeros((SIDE, SIDE), np.float32)
    matrix[rows, low], matrix[rows, low + 1] = 1 - share, share
    return matrix


def _light(part: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Gain and offset that bring `part` nearest to `target`, where that is neither black nor white: what was
    cut off by brightening says nothing about it."""
    inner = (target > 4) & (target < 240)
    if inner.mean() > 0.02:
        part, target = part[inner], target[inner]
    middle, level = part.mean(), target.mean()
    spread = ((part - middle) ** 2).mean()
    gain = float(((part - middle) * (target - level)).mean() / max(spread, 1e-3))
    return gain, float(level - gain * middle)


def _step(laid: np.ndarray, rest: np.ndarray, place: np.ndarray) -> np.ndarray:
    """How far the place should move; light is solved for at the same time, and fitted anew afterwards."""
    down, across = np.gradient(laid)
    down, across = down * (SIDE / place[1]), across * (SIDE / place[3])
    columns = [down, down * _PLACE[:, None], across, across * _PLACE, laid, np.ones_like(laid)]
    slopes = np.stack([column.ravel() for column in columns])
    normal = (slopes @ slopes.T).astype(np.float64)
    normal[np.diag_indices(6)] *= 1.0001
    normal[np.diag_indices(6)] += 1.0
    return np.clip(np.linalg.solve(normal, slopes @ rest.ravel())[:4], -0.02, 0.02)


def _inside(place: np.ndarray) -> np.ndarray:
    start, span = np.clip(place[[0, 2]], *_START), np.clip(place[[1, 3]], *_SPAN)
    span = np.minimum(span, _SPAN[1] - start)
    return np.array([start[0], span[0], start[1], span[1]])


def _agreement(target: np.ndarray, laid: np.ndarray) -> float:
    """One minus the share of the slopes' energy that differs; an even rise from side to side is none."""
    mine, theirs = _slopes(target), _slopes(laid)
    energy = max(float((mine**2).mean()), float((theirs**2).mean()))
    if energy < _FLAT**2:
        return _sameness(target, laid)
    return 1 - float(((mine - theirs) ** 2).mean()) / energy


def _sameness(target: np.ndarray, laid: np.ndarray) -> float:
    """1 for two pages without a detail that are the same everywhere, else 0."""
    return float(np.abs(target - laid).max() < _SAME)


def _slopes(grey: np.ndarray) -> np.ndarray:
    down, across = np.gradient(grey)
    return np.stack([down - down.mean(), across - across.mean()])
