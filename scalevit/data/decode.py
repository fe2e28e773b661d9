"""Decoding: bytes of one image to (height, width, 3) uint8 RGB, or an error that names the sample.

JPEGs go through simplejpeg where it is installed; everything else, and every JPEG that it does not take, goes
through Pillow, which is also the reference. Pixels are as a person sees them: EXIF orientation applied,
transparency over white, 16 bits scaled to 8, the first frame of an animation.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, features

from scalevit.data.formats.image_files import image_type

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

#: Images of more pixels are refused before they are decoded.
MAX_PIXELS = 89_478_485
#: Of formats whose decoders take several times the pixels' memory, half as many.
MAX_PIXELS_OF: dict[str, int] = dict.fromkeys(("WEBP", "TIFF", "AVIF", "JPEG2000", "HEIF"), MAX_PIXELS // 2)
#: A progressive JPEG of more scans is refused: each costs a pass over all pixels.
MAX_SCANS = 100
#: Rows that are composed over white at a time.
_STRIP = 256


def _formats() -> tuple[str, ...]:
    """Pillow's formats that are decoded, with those that this installation has."""
    more = {"jpg_2000": "JPEG2000", "avif": "AVIF"}
    found = [name for feature, name in more.items() if _has_feature(feature)]
    if find_spec("pillow_heif"):
        import_module("pillow_heif").register_heif_opener()
        found.append("HEIF")
    return ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", *found)


def _has_feature(name: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an older Pillow does not know the feature
        return bool(features.check(name))


FORMATS = _formats()

Pixels = UInt8[np.ndarray, "h w 3"]
Part = UInt8[np.ndarray, "h2 w2 3"]


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class BrokenImage(ValueError):
    """An image that cannot be used: the message names the sample and the reason."""


def decode(data: bytes, name: str) -> Pixels:
    """The pixels of an encoded image. Raises BrokenImage naming the sample `name`."""
    if simplejpeg is not None and data[:2] == b"\xff\xd8":
        pixels = _decode_jpeg(data, name)
        if pixels is not None:
            return pixels
    return decode_reference(data, name)


def decode_reference(data: bytes, name: str) -> Pixels:
    """The same through Pillow alone."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_bombs(image.width, image.height, name, MAX_PIXELS_OF.get(str(image.format), MAX_PIXELS))
            _refuse_scans(data, name)
            image.load()
            pixels = _as_rgb(image)
            return np.ascontiguousarray(_upright(pixels, _orientation_of(image)))
    except BrokenImage:
        raise
    except Exception as error:  # Pillow raises nearly every kind on damaged files
        raise BrokenImage(f"{name}: not a whole image ({_reason(error)})") from None


def image_ending(data: bytes, name: str) -> str:
    """The file ending that fits the first bytes; BrokenImage when they are no image's."""
    ending = image_type(data[:32])
    if ending is None:
        raise BrokenImage(f"{name}: not an image ({len(data)} bytes beginning with {data[:4]!r})")
    return ending


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "of no known format"
    return (" ".join(str(error).split()) or type(error).__name__)[:120]


def _refuse_bombs(width: int, height: int, name: str, most: int = MAX_PIXELS) -> None:
    if width * height > most:
        raise BrokenImage(f"{name}: {width}×{height} pixels are over the limit of {most}")


def _refuse_scans(data: bytes, name: str) -> None:
    if data[:2] == b"\xff\xd8" and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise BrokenImage(f"{name}: {scans} scans of a progressive JPEG are over the limit of {MAX_SCANS}")


def _decode_jpeg(data: bytes, name: str) -> Pixels | None:
    """Through libjpeg-turbo; None where Pillow has to look: CMYK, and damage that it may know how to take."""
    assert simplejpeg is not None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _refuse_bombs(int(width), int(height), name)
        if colours not in ("RGB", "YCbCr", "Gray"):
            return None
        head = jpeg_head(data)
        if head.progressive:
            _refuse_scans(data, name)
        pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=True)
    except BrokenImage:
        raise
    except (ValueError, KeyError):  # KeyError: a sampling of colours that simplejpeg has no name for
        return None
    return pixels if head.orientation == 1 else np.ascontiguousarray(_upright(pixels, head.orientation))


def decode_part(data: bytes, name: str, choose: Callable[[int, int], Box]) -> Pixels:
    """The part that `choose(height, width)` asks for, the same pixels as cut from the whole image.

    Rows below the part are never decoded: the height in the header of a plain JPEG is lowered to where the
    part ends, and libjpeg stops there. It cannot notice damage that lies in the rows it does read, which is
    why a file without its end marker takes the careful way."""
    fast = simplejpeg
    head = jpeg_head(data) if fast is not None and data[:2] == b"\xff\xd8" else None
    if (
        fast is None
        or head is None
        or not head.plain
        or head.orientation != 1
        or not data.endswith(b"\xff\xd9")
    ):
        image = decode(data, name)
        return cut(image, choose(*image.shape[:2]))
    if not _is_size(data, head.height, head.width):
        image = decode(data, name)
        return cut(image, choose(*image.shape[:2]))
    _refuse_bombs(head.width, head.height, name)
    box = choose(head.height, head.width)
    rows = box.top + box.height + 2  # colour is stored at half resolution and mixed with the row below
    if rows >= head.height:
        return cut(decode(data, name), box)
    shorter = b"".join((data[: head.place], rows.to_bytes(2, "big"), data[head.place + 2 :]))
    try:
        return cut(fast.decode_jpeg(shorter, "RGB", fastdct=True, strict=False), box)
    except (ValueError, KeyError):
        return cut(decode(data, name), box)


def _is_size(data: bytes, height: int, width: int) -> bool:
    """Whether the decoder itself finds this size in a JPEG's header."""
    assert simplejpeg is not None
    try:
        return tuple(map(int, simplejpeg.decode_jpeg_header(data)[:2])) == (height, width)
    except (ValueError, KeyError):
        return False


def cut(image: Pixels, box: Box) -> Part:
    """That part of the image, without copying it."""
    return image[box.top : box.top + box.height, box.left : box.left + box.width]


# --------------------------------------------------------------------------- headers, orientation, modes


class JpegHead(NamedTuple):
    """orientation: EXIF, 1 to 8. marker: which kind of frame, 0 when none was found. place: where the header
    holds the height. components: colours stored."""

    orientation: int = 1
    marker: int = 0
    height: int = 0
    width: int = 0
    components: int = 0
    place: int = 0

    @property
    def progressive(self) -> bool:
        return self.marker in (0xC2, 0xC6, 0xCA, 0xCE)

    @property
    def plain(self) -> bool:
        """One pass of Huffman-coded rows, grey or three colours."""
        return self.marker in (0xC0, 0xC1) and self.components in (1, 3) and self.height > 0


def jpeg_head(data: bytes) -> JpegHead:
    """What the segments before the pixels say; never fails."""
    place, orientation = 2, 1
    while place + 10 < len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if (
            marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7
        ):  # fill bytes, and markers without a length
            place += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xE1 and data[place + 4 : place + 10] == b"Exif\0\0":
            orientation = _tiff_orientation(data[place + 10 : place + 2 + length])
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 5)
            return JpegHead(orientation, marker, height, width, data[place + 9], place + 5)
        elif marker == 0xDA:
            break
        place += 2 + length
    return JpegHead(orientation)


def _tiff_orientation(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    try:
        if order is None:
            return 1
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, first)
        for entry in range(entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, first + 2 + 12 * entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _orientation_of(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF says nothing about the pixels
        return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The eight orientations of EXIF: mirrored ones are even below 5 and odd from there."""
    turned = {
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: p.transpose(1, 0, 2)[:, ::-1],
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: p.transpose(1, 0, 2)[::-1],
    }.get(orientation)
    return turned(pixels) if turned else pixels


def _as_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "RGB":
        return np.asarray(image)
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        return _eight_bits(np.asarray(image))
    if image.mode == "F":
        raise ValueError("pixels are floating point, of unknown range")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _over_white(image)
    return np.asarray(image.convert("RGB"))


def _over_white(image: Image.Image) -> np.ndarray:
    """RGB of an image with transparency, in strips: few images take more memory."""
    seen = image.convert("RGBA")
    pixels = np.empty((seen.height, seen.width, 3), np.uint8)
    for top in range(0, seen.height, _STRIP):
        strip = seen.crop((0, top, seen.width, min(top + _STRIP, seen.height)))
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        pixels[top : top + _STRIP] = np.asarray(Image.alpha_composite(white, strip).convert("RGB"))
    return pixels


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    scaled = (np.clip(grey.astype(np.int64), 0, 65535) * 255 + 32767) // 65535
    return np.repeat(scaled.astype(np.uint8)[:, :, None], 3, axis=2)
