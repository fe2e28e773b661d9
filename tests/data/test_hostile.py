"""Data sets of strangers: decoding is bounded before it begins, and damage of any kind is one line."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalevit.data.crops import eval_view
from scalevit.data.dataset import open_splits
from scalevit.data.decode import MAX_PIXELS, Box, BrokenImage, decode, decode_part, jpeg_head
from scalevit.data.formats.npz import read_arrays
from scalevit.data.index.build import build
from tests.support.pictures import encoded, make_folder, make_shards, picture


def jpeg(width: int, height: int, before: bytes = b"") -> bytes:
    """A small JPEG whose header claims this size, with segments before it."""
    file = io.BytesIO()
    Image.new("L", (64, 64), 128).save(file, "JPEG")
    data = file.getvalue()
    place = jpeg_head(data).place
    return data[:2] + before + data[2:place] + struct.pack(">HH", height, width) + data[place + 4 :]


@pytest.mark.parametrize("before", [b"", b"\xff\x01", b"\xff\xff\xff\xff\xfe\0\4ab", b"\xff\xd0\xff\x01"])
def test_a_bomb_is_refused_whatever_stands_before_its_header(before):
    data = jpeg(20_000, 20_000, before)
    for read in (lambda: decode(data, "x"), lambda: decode_part(data, "x", lambda h, w: Box(0, 0, 9, 9))):
        with pytest.raises(BrokenImage, match="over the limit"):
            read()
    assert jpeg_head(jpeg(300, 200, before))[2:4] == (200, 300)


def test_formats_whose_decoders_take_more_memory_have_a_lower_limit():
    side = int((0.6 * MAX_PIXELS) ** 0.5)
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "TIFF", compression="tiff_deflate")
    with pytest.raises(BrokenImage, match="over the limit"):
        decode(file.getvalue(), "x")


def test_transparency_goes_over_white_in_strips_as_at_once():
    pixels = np.random.default_rng(0).integers(0, 256, (600, 7, 4), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "PNG")
    colours, alpha = pixels[..., :3].astype(float), pixels[..., 3:] / 255
    expected = alpha * colours + (1 - alpha) * 255
    assert np.abs(decode(file.getvalue(), "x") - expected).max() <= 1


def test_a_very_long_image_has_a_central_view_of_bounded_cost():
    image = np.zeros((100_000, 1, 3), np.uint8)
    image[49_990:50_010] = 200
    view = eval_view(image, 16)
    assert view.shape == (16, 16, 3) and (view == 200).all()


def test_arrays_that_unpack_to_far_more_than_they_hold_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((700, 1024, 1024), np.uint8), y=np.zeros(700, int))
    with pytest.raises(ValueError, match="refused"):
        read_arrays(tmp_path / "x.npz")


def test_two_indexers_take_turns(tmp_path):
    source, results = str(make_folder(tmp_path / "f")), []
    threads = [threading.Thread(target=lambda: results.append(build(source))) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(one.kept for one in results) == [0, 1, 1]
    assert not list((tmp_path / "f").glob("*.parts"))


def test_processes_import_nothing_from_the_current_folder(tmp_path):
    (tmp_path / "pickle.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    script = (
        "import sys; sys.path = [p for p in sys.path if p]\n"
        "from scalevit.data.index.build import _clean_module_path, _processes\n"
        "if __name__ == '__main__':\n"
        "    with _clean_module_path(), _processes(1) as pool: print(pool.submit(abs, -1).result())\n"
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "main.py").write_text(script)
    command = [sys.executable, str(tmp_path / "elsewhere" / "main.py")]
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert done.stdout == "1\n", done.stderr
    assert not (tmp_path / "ran").exists()


# --------------------------------------------------------------------------- damage


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Data with a few bytes changed, taken out, or put in."""
    parts = bytearray(data)
    for _ in range(int(rng.integers(1, 8))):
        place, kind = int(rng.integers(len(parts) or 1)), rng.integers(3)
        if kind == 0 and parts:
            parts[place] = int(rng.integers(256))
        elif kind == 1:
            del parts[place : place + int(rng.integers(1, 40))]
        else:
            parts[place:place] = rng.bytes(int(rng.integers(1, 9)))
    return bytes(parts)


def look(source: str) -> None:
    """Ask everything of a source, and read every sample."""
    for dataset in open_splits(source).values():
        dataset.notes(), dataset.class_counts(), dataset.content_id()
        for number in range(dataset.samples):
            dataset.labels(number), dataset.name(number)
            with contextlib.suppress(BrokenImage):
                decode(dataset.encoded(number), "x")


@pytest.mark.parametrize("form", ["tar", "parquet", "npz", "list", "index"])
@pytest.mark.parametrize("seed", range(3))
def test_damage_is_read_counted_or_refused_in_a_line(tmp_path, form, seed):
    folder = make_folder(tmp_path / "f")
    if form in ("tar", "parquet"):
        target = next(make_shards(folder, tmp_path / "p", form, shards=1).glob(f"*.{form}"))
    elif form == "npz":
        target = tmp_path / "a.npz"
        np.savez_compressed(target, x=np.zeros((6, 8, 8, 3), np.uint8), y=np.arange(6) % 2)
    elif form == "list":
        (tmp_path / "l").mkdir()
        for number in range(3):
            (tmp_path / "l" / f"{number}.jpg").write_bytes(encoded(picture(number)))
        target = tmp_path / "l" / "metadata.csv"
        target.write_text('file_name,label,split\n0.jpg,a,train\n1.jpg,"b",val\n2.jpg,65.0,train\n')
    else:
        build(str(folder))
        target = folder / ".scalevit-index"
    whole, rng = target.read_bytes(), np.random.default_rng(seed)
    for _ in range(20):
        target.write_bytes(damaged(whole, rng))
        try:
            look(str(folder if form == "index" else target))
        except ValueError as error:
            assert "\n" not in str(error)
