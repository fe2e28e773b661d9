"""Every kind of image file comes out as a person sees it, or is refused with its name."""

import io

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image
from sklearn.datasets import load_sample_images

from scalevit.data import decode as decoding
from scalevit.data.decode import Box, BrokenImage, cut, decode, decode_part, decode_reference, jpeg_head

PHOTO = load_sample_images().images[1]


def gap(some: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(some.astype(int) - other.astype(int)).mean())


@pytest.mark.parametrize("quality", [50, 92])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_the_fast_path_is_within_two_grey_levels_of_pillow(quality, subsampling):
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "JPEG", quality=quality, subsampling=subsampling)
    assert gap(decode(file.getvalue(), "a"), decode_reference(file.getvalue(), "a")) <= 2


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_other_formats(form):
    options = {"lossless": True} if form == "WEBP" else {}
    image = picture(3)
    assert gap(decode(encoded(image, form, **options), "a"), image) <= (10 if form == "GIF" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("reader", [decode, decode_reference])
def test_exif_orientation(orientation, reader):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PHOTO[:96, :160], exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert reader(data, "a").shape == upright.shape
    assert gap(reader(data, "a"), upright) < 2


def test_parts_are_the_pixels_of_the_whole():
    draw = np.random.default_rng(0)
    for subsampling in (0, 2):
        data = encoded(PHOTO, subsampling=subsampling)
        whole = decode(data, "a")
        for _ in range(25):
            height, width = int(draw.integers(1, 428)), int(draw.integers(1, 641))
            box = Box(int(draw.integers(0, 428 - height)), int(draw.integers(0, 641 - width)), height, width)
            assert np.array_equal(decode_part(data, "a", lambda h, w, box=box: box), cut(whole, box))


def test_a_part_of_a_turned_or_progressive_image():
    exif = Image.Exif()
    exif[0x0112] = 6
    box = Box(5, 7, 40, 30)
    for options in ({"exif": exif}, {"progressive": True}):
        data = encoded(PHOTO[:200, :300], **options)
        assert np.array_equal(decode_part(data, "a", lambda h, w: box), cut(decode(data, "a"), box))


def test_modes():
    grey16 = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    seen = decode(encoded(grey16, "PNG"), "a")
    assert np.abs(seen[..., 0].astype(float) - grey16 / 257).max() <= 0.51
    cmyk = Image.fromarray(picture(1)).convert("CMYK")
    file = io.BytesIO()
    cmyk.save(file, "JPEG", quality=95)
    assert gap(decode(file.getvalue(), "a"), picture(1)) < 4
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:, 4:, 3] = 255
    seen = decode(encoded(clear, "PNG"), "a")
    assert (seen[:, :4] == 255).all() and (seen[:, 4:] == 0).all()
    palette = Image.fromarray(picture(2)).quantize(16)
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=0)
    assert decode(file.getvalue(), "a").shape == (48, 64, 3)


def test_an_animation_is_its_first_frame():
    frames = [Image.fromarray(picture(seed)) for seed in (5, 6)]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert gap(decode(file.getvalue(), "a"), picture(5)) == 0


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "reader", [decode, lambda data, name: decode_part(data, name, lambda h, w: Box(0, 0, h, w))]
)
def test_truncated_files_are_refused_by_name(form, reader):
    data = encoded(PHOTO[:100, :100], form)
    with pytest.raises(BrokenImage, match=r"shard-7\.tar at byte 512"):
        reader(data[: len(data) // 2], "shard-7.tar at byte 512")


@pytest.mark.parametrize("data", [b"", b"GIF8", b"\xff\xd8\xff\xd9", b"<html>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(BrokenImage, match="sample 3"):
        decode(data, "sample 3")


def test_bombs_are_refused_before_they_are_decoded():
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(BrokenImage, match="bomb"):
        decode(bomb, "bomb")
    data = bytearray(encoded(PHOTO))
    place = jpeg_head(bytes(data)).place
    data[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(BrokenImage, match="over the limit"):
        decode(bytes(data), "bomb")
    with pytest.raises(BrokenImage, match="over the limit"):
        decode_part(bytes(data), "bomb", lambda h, w: Box(0, 0, 1, 1))
    scans = encoded(PHOTO[:64, :64], progressive=True)
    with pytest.raises(BrokenImage, match="scans"):
        decode(scans[:-2] + b"\xff\xda" * 200 + b"\xff\xd9", "scans")


def test_without_the_jpeg_extra_pillow_does_it_all(monkeypatch):
    data = encoded(PHOTO)
    fast = decode(data, "a")
    monkeypatch.setattr(decoding, "simplejpeg", None)
    assert np.array_equal(decode(data, "a"), decode_reference(data, "a"))
    assert gap(fast, decode(data, "a")) <= 2
    assert decode_part(data, "a", lambda h, w: Box(1, 2, 3, 4)).shape == (3, 4, 3)
