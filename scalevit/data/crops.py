"""What happens to an image on its way into the model: the authors' crops, resizes and flip (paper.md §2).

Everything random is a function of one 64-bit key, made from the seed and the sample's position in the run, so
a resumed run sees the same crops. Images stay uint8; `loader.as_floats` makes [-1, 1] of them on the device.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from scalevit.data.decode import Box, Part, Pixels, decode_part
from scalevit.data.procedural.hashing import uniform_one

try:
    import cv2

    cv2.setNumThreads(1)  # images are the unit of parallelism
except ImportError:
    cv2 = None

Square = UInt8[np.ndarray, "s s 3"]

#: The authors' rule is TensorFlow's `sample_distorted_bounding_box` with these settings.
AREA = (0.05, 1.0)
ASPECT = (0.75, 1.33)
ATTEMPTS = 100
#: An image that is longer than this many times its shorter side is cut to its middle before it is scaled.
LONG = 32


def train_view(data: bytes, name: str, side: int, key: int, *, antialias: bool = False) -> Square:
    """Inception crop of an encoded image, resized to side × side, mirrored half of the time."""
    part = decode_part(data, name, lambda height, width: inception_box(height, width, key))
    view = resize(part, side, side, antialias=antialias)
    return mirrored(view) if uniform_one(key, 0) < 0.5 else view


def mirrored(image: Pixels) -> Pixels:
    """Left and right swapped."""
    return np.ascontiguousarray(image[:, ::-1]) if cv2 is None else cv2.flip(image, 1)


def eval_view(image: Pixels, side: int) -> Square:
    """The shorter side scaled to side × 256/224 by area, then the central square (paper.md §2). Of an image
    that is very long only the middle is scaled."""
    if max(image.shape[:2]) > LONG * min(image.shape[:2]):
        image = _middle(image)
    small = resize_small(image, round(side * 256 / 224))
    top, left = (small.shape[0] - side) // 2, (small.shape[1] - side) // 2
    return np.ascontiguousarray(small[top : top + side, left : left + side])


def _middle(image: Pixels) -> Part:
    """The middle of an image, LONG times as long as it is wide."""
    most = LONG * min(image.shape[:2])
    top, left = (max(0, (side - most) // 2) for side in image.shape[:2])
    return np.ascontiguousarray(image[top : top + most, left : left + most])


def square_view(image: Pixels, side: int) -> Square:
    """The whole image, squeezed into the square; untouched when it has that size."""
    return image if image.shape[:2] == (side, side) else resize(image, side, side, antialias=True)


def inception_box(height: int, width: int, key: int) -> Box:
    """A random box by TensorFlow's rule (kernel of `sample_distorted_bounding_box`, TensorFlow 2).

    An aspect ratio is drawn evenly, then a *height* evenly among those that keep the area within its range
    (so areas are not uniform, unlike torchvision's crop), then the place. The whole image if that never fits.
    """
    for attempt in range(ATTEMPTS):
        draws = 1 + 4 * attempt
        aspect = ASPECT[0] + uniform_one(key, draws) * (ASPECT[1] - ASPECT[0])
        size = _box_size(height, width, aspect, uniform_one(key, draws + 1))
        if size is not None:
            high, wide = size
            # the kernel never draws the last place: Uniform(n) is below n
            top = int(uniform_one(key, draws + 2) * (height - high))
            left = int(uniform_one(key, draws + 3) * (width - wide))
            return Box(top, left, high, wide)
    return Box(0, 0, height, width)


def _box_size(height: int, width: int, aspect: float, draw: float) -> tuple[int, int] | None:
    """(height, width) of a box of this aspect, None when rounding leaves none within the area's range."""
    least, most = AREA[0] * height * width, AREA[1] * height * width
    low, high = round(math.sqrt(least / aspect)), round(math.sqrt(most / aspect))
    if round(high * aspect) > width:
        high = int((width + 0.5 - 1e-7) / aspect)
        high -= round(high * aspect) > width
    high = min(high, height)
    low = min(low, high)
    tall = low + int(draw * (high - low + 1))
    tall += tall * round(tall * aspect) < least
    tall -= tall * round(tall * aspect) > most
    wide = round(tall * aspect)
    fits = least <= tall * wide <= most and 0 < wide <= width and 0 < tall <= height
    return (tall, wide) if fits else None


def resize(image: Pixels, height: int, width: int, *, antialias: bool = False) -> Part:
    """Bilinear with half-pixel centres. Without antialias, as the authors train, two rows and columns are
    mixed however much the image shrinks; with it, all that fall into a pixel."""
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    if antialias:
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    if cv2 is not None:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    mixed = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear", align_corners=False)
    return mixed[0].permute(1, 2, 0).round().to(torch.uint8).contiguous().numpy()


def resize_small(image: Pixels, smaller: int) -> Part:
    """Scaled, by averaging areas, so that the shorter side is `smaller`."""
    height, width = image.shape[:2]
    ratio = smaller / min(height, width)
    size = (max(smaller, round(width * ratio)), max(smaller, round(height * ratio)))
    if cv2 is not None and ratio < 1:
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    kernel = Image.Resampling.BOX if ratio < 1 else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize(size, kernel))
