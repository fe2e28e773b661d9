"""Tars are read as written by others, and hostile ones end in one clear error, never in a crash or a hang."""

import io
import json
import os
import tarfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, picture

from scalevit.data.dataset import open_dataset
from scalevit.data.decode import Box, decode, decode_part
from scalevit.data.formats import tar as shards


def make_tar(path, members, form=tarfile.USTAR_FORMAT):
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


IMAGE = encoded(picture(0))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_tarfiles(tmp_path, form):
    names = ["a.jpg", "folder/" * 30 + "b.jpg", "ünï.png", "x" * 90 + ".cls"]
    path = make_tar(tmp_path / "a.tar", [(name, name.encode() * 50) for name in names], form)
    with tarfile.open(path) as tar:
        expected = [(member.name, member.offset_data, member.size) for member in tar]
    assert [(one.name, one.offset, one.length) for one in shards.members(path)] == expected


def test_labels_of_every_kind(tmp_path):
    path = make_tar(
        tmp_path / "a.tar",
        [
            ("1.jpg", IMAGE), ("1.cls", b"7\n"),
            ("2.png", encoded(picture(1), "PNG")), ("2.json", json.dumps({"label": 3, "url": "x"}).encode()),
            ("3.txt", b"4, 5"), ("3.jpeg", IMAGE),
            ("4.json", b"[1, 2, 9]"), ("4.webp", encoded(picture(2), "WEBP")),
            ("5.jpg", IMAGE),
            ("only.txt", b"6"),
        ],
    )  # fmt: skip
    store = open_dataset(path)
    assert [store.labels(n).tolist() for n in range(store.samples)] == [[7], [3], [4, 5], [1, 2, 9], []]
    assert (store.classes, store.multi, store.unlabelled) == (10, True, 1)
    assert store.encoded(4) == IMAGE


@pytest.mark.parametrize(
    ("name", "data"),
    [("1.cls", b"cat\ndog"), ("1.json", b'{"label": 0.5}'), ("1.json", b"[" * 5000), ("1.cls", b"-1"),
     ("1.json", b'{"label": {"a": 1}}'), ("1.json", b"a photograph of a cat"), ("1.cls", b"x" * 2000)],
)  # fmt: skip
def test_labels_that_are_no_classes_name_the_member(tmp_path, name, data):
    with pytest.raises(ValueError, match=rf"a\.tar: {name} holds no class"):
        open_dataset(make_tar(tmp_path / "a.tar", [("1.jpg", IMAGE), (name, data)]))


def test_a_tar_without_images_and_an_empty_file(tmp_path):
    with pytest.raises(ValueError, match="holds no image"):
        open_dataset(make_tar(tmp_path / "a.tar", [("1.cls", b"1")]))
    (tmp_path / "b.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="cut or no tar"):
        open_dataset(str(tmp_path / "b.tar"))


def test_cut_and_damaged_tars(tmp_path):
    whole = Path(make_tar(tmp_path / "a.tar", [("1.jpg", IMAGE), ("2.jpg", IMAGE)])).read_bytes()
    bad = tmp_path / "b.tar"
    for data in (whole[:700], whole[:512], whole[:1000]):
        bad.write_bytes(data)
        with pytest.raises(ValueError, match="is cut"):
            open_dataset(str(bad))
    bad.write_bytes(whole[:100] + b"9" + whole[101:])
    with pytest.raises(ValueError, match="wrong checksum"):
        open_dataset(str(bad))
    bad.write_bytes(b"this is no tar at all" * 100)
    with pytest.raises(ValueError, match=r"b\.tar is no tar"):
        open_dataset(str(bad))


def header(name=b"1.jpg", size=b"00000000000\0", kind=b"0") -> bytes:
    """A header block with a right checksum and any size field."""
    block = bytearray(512)
    block[: len(name)] = name
    block[124:136] = size.ljust(12, b"\0")
    block[148:156], block[156:157] = b" " * 8, kind
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "block",
    [
        header(size=b"77777777777\0"),
        header(size=b"\xff" * 12),
        header(size=b"\x80" + b"\0" * 3 + b"\x7f" * 8),
        header(size=b"-0000000001\0"),
        header(size=b"zzz"),
        header(size=b"00004000000\0", kind=b"L"),
        header(size=b"00000000010\0", kind=b"x") + b"0 path=a\n".ljust(512, b"\0"),
        header(size=b"00000000010\0", kind=b"x") + b"99999999999999999999999 p=".ljust(512, b"\0"),
    ],
)
def test_hostile_headers_end_in_one_error(tmp_path, block):
    (tmp_path / "a.tar").write_bytes(block + bytes(2048))
    with pytest.raises(ValueError, match=r"a\.tar"):
        open_dataset(str(tmp_path / "a.tar"))


def test_names_are_never_paths(tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
        info = tarfile.TarInfo("../../2.jpg")
        info.size = len(IMAGE)
        tar.addfile(info, io.BytesIO(IMAGE))
    store = open_dataset(str(tmp_path / "a.tar"))
    assert store.samples == 1 and store.encoded(0) == IMAGE


@pytest.mark.slow
def test_fuzzing_the_tar_reader_and_the_decoders(tmp_path):
    """Random damage for SCALEVIT_FUZZ_SECONDS (10): always an image, a listing, or a ValueError, and soon."""
    files = [encoded(picture(0, 120, 90), form) for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")]
    files.append(encoded(picture(1, 120, 90), progressive=True))
    members = [("a/" * 60 + "1.jpg", IMAGE), ("a/" * 60 + "1.cls", b"3")]
    forms = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    tars = [Path(make_tar(tmp_path / f"{form}.tar", members, form)).read_bytes() for form in forms]
    draw = np.random.default_rng(4)
    end, runs, longest = time.perf_counter() + float(os.environ.get("SCALEVIT_FUZZ_SECONDS", "10")), 0, 0.0
    while time.perf_counter() < end:
        began = time.perf_counter()
        image, tar = damaged(files[runs % len(files)], draw), damaged(tars[runs % 3], draw)
        (tmp_path / "f.tar").write_bytes(tar)
        for attempt in (
            partial(decode, image, "a"),
            partial(decode_part, image, "a", lambda h, w: Box(h // 3, w // 3, h - h // 3, w - w // 3)),
            partial(shards.scan, str(tmp_path / "f.tar")),
        ):
            with suppress(ValueError):
                attempt()
        longest, runs = max(longest, time.perf_counter() - began), runs + 1
    print(f"{runs} rounds, the longest {longest:.2f} s")
    assert runs > 100 and longest < 5


def damaged(data: bytes, draw) -> bytes:
    """Bytes flipped, a stretch removed, doubled or overwritten, or the end cut off."""
    data = bytearray(data)
    for place in draw.integers(0, len(data), draw.integers(1, 12)):
        data[place] = draw.integers(0, 256)
    start, length = int(draw.integers(0, len(data))), int(draw.integers(1, 200))
    match draw.integers(0, 5):
        case 0:
            del data[start : start + length]
        case 1:
            data[start:start] = data[start : start + length]
        case 2:
            data[start : start + length] = b"\xff" * length
        case 3:
            del data[start:]
    return bytes(data)
