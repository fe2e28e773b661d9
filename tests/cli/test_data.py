"""`scalevit data …` as a user types it: what it prints, what it leaves on disk, and its exit status."""

import errno
import json
import re
import resource
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, make_folder, picture
from PIL import Image

from scalevit.cli.main import main
from scalevit.data import pack as packing
from scalevit.data.dataset import open_dataset


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "f")


def run(capsys, *words: str) -> tuple[int, dict]:
    code = main(["data", *words, "--json"])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else {}


def test_index_then_stats(folder, capsys):
    code, before = run(capsys, "stats", str(folder))
    assert (code, before["measured"]) == (0, 0)
    code, built = run(capsys, "index", str(folder), "--workers", "1")
    assert code == 0 and built["samples"] == 30 and built["broken"] == []
    _, facts = run(capsys, "stats", str(folder))
    assert facts["images_per_class"] == {"least": 10, "median": 10.0, "most": 10}
    assert facts["width"] == {"least": 64, "median": 66.0, "most": 68}
    assert facts["measured"] == facts["distinct_hashes"] == 30


def test_check_names_everything_that_is_wrong(folder, capsys):
    code, found = run(capsys, "check", str(folder))
    assert code == 0 and found["whole"] and not any(found["listed"].values())
    run(capsys, "index", str(folder), "--workers", "1")
    (folder / "ant/000.jpg").write_bytes((folder / "ant/000.jpg").read_bytes()[:200])
    (folder / "bee/001.jpg").write_bytes((folder / "ant/003.jpg").read_bytes())
    twin = (folder / "cow/002.jpg").read_bytes()
    (folder / "cow/005.jpg").write_bytes(encoded(picture(9, 200, 10)))
    (folder / ".scalevit-index").unlink()
    (folder / "bee/zz.jpg").write_bytes(twin)
    (folder / "dog").mkdir()
    code, found = run(capsys, "check", str(folder))
    assert code == 1
    assert "ant/000.jpg" in found["listed"]["broken"][0] and found["broken"] == 1
    assert found["twins"] == 2 and found["contradictions"] == 2
    assert "200×10" in found["listed"]["absurd"][0]
    assert found["listed"]["classes"] == ["class dog has no image"]


def test_check_in_threads_finds_the_same_and_names_classes_of_few(tmp_path, capsys):
    folder = make_folder(tmp_path / "f", 300)
    (folder / "dog").mkdir()
    for number in (3, 7):
        (folder / f"dog/{number}.jpg").write_bytes((folder / f"ant/{3 * number:03d}.jpg").read_bytes())
    found = [run(capsys, "check", str(folder), "--workers", workers)[1] for workers in ("1", "3")]
    assert found[0] == found[1] and found[0]["samples"] == 302 and found[0]["twins"] == 2
    assert found[0]["listed"]["classes"] == ["class dog has 2, where the median class has 100 images"]


def test_dedup_says_beforehand_how_long_it_takes(folder, tmp_path, capsys):
    assert main(["data", "index", str(folder), "--workers", "1"]) == 0
    assert main(["data", "dedup", str(folder), str(folder), "--out", str(tmp_path / "gone.txt")]) == 0
    said = capsys.readouterr()
    assert re.fullmatch(rf"scalevit: {folder}: copies of 30 images among 30: about \d+ s\n", said.err)
    assert "30 of 30 training samples are near-duplicates" in said.out


def test_check_notices_bytes_that_changed(folder, capsys):
    run(capsys, "index", str(folder), "--workers", "1")
    file = folder / "ant/000.jpg"
    data = bytearray(file.read_bytes())
    data[-40] ^= 1
    file.write_bytes(data)
    code, found = run(capsys, "check", str(folder))
    assert code == 1 and "ant/000.jpg" in found["listed"]["changed"][0]


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_pack_is_restartable_and_repeatable(folder, tmp_path, capsys, form):
    def pack(out):
        words = ["pack", str(folder), "--out", str(out), "--form", form, "--samples-per-shard", "8"]
        code, made = run(capsys, *words)
        assert code == 0
        return made["written"], {file.name: file.read_bytes() for file in sorted(out.iterdir())}

    written, first = pack(tmp_path / "a")
    assert written == 4 and len(first) == 5
    (tmp_path / "a" / f"shard-000002.{form}").unlink()
    assert pack(tmp_path / "a") == (1, first)
    assert open_dataset(str(tmp_path / "a")).samples == 30


def test_a_full_disk_leaves_whole_shards_and_can_go_on(folder, tmp_path, capsys, monkeypatch):
    real, calls = packing.WRITERS["tar"], []

    def full(store, samples, part, left_out):
        real(store, samples, part, left_out)
        calls.append(part)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(part))

    monkeypatch.setitem(packing.WRITERS, "tar", full)
    words = ["pack", str(folder), "--out", str(tmp_path / "a"), "--samples-per-shard", "8"]
    code, stopped = run(capsys, *words)
    assert code == 3 and "No space left" in stopped["stopped"]
    names = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert names == ["pack.json", "shard-000000.tar", "shard-000001.tar"]
    code, made = run(capsys, *words)
    assert code == 0 and made["written"] == 2


def test_pack_refuses_anothers_folder(folder, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/notes.txt").write_text("mine")
    assert main(["data", "pack", str(folder), "--out", str(tmp_path / "a")]) == 2
    assert main(["data", "pack", str(folder), "--out", str(tmp_path / "b")]) == 0
    assert main(["data", "pack", str(folder), "--out", str(tmp_path / "b"), "--seed", "1"]) == 2
    errors = capsys.readouterr().err
    assert "is not empty" in errors and "another recipe" in errors


def test_preview_shows_what_the_model_sees(folder, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    code, made = run(
        capsys,
        "preview",
        str(folder),
        "--out",
        str(out),
        "--image",
        "24",
        "--count",
        "10",
        "--transform",
        "none",
    )
    assert code == 0 and len(made["labels"]) == 10
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (72, 96, 3)
    assert (sheet[48:, 48:] == 0).all() and sheet[:48].std() > 10


def test_mistakes_are_one_line_and_status_two(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for words in (
        ["stats", str(tmp_path / "empty")],
        ["index", str(tmp_path / "none")],
        ["pack"],
        ["polish", "x"],
    ):
        assert main(["data", *words]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("scalevit: ")
    assert list(Path(tmp_path).iterdir()) == [tmp_path / "empty"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pack", "--out", "s3://bucket/shards"), "--out s3://bucket/shards: give a path on a disk"),
        (("pack", "--out", "{}/p", "--samples-per-shard", "0"), "--samples-per-shard must be at least 1"),
        (("preview", "--out", "{}/none/p.png"), "there is no folder"),
        (("preview", "--out", "{}/p.png", "--count", "0"), "--count must be at least 1, found 0"),
        (("preview", "--out", "{}/p.png", "--image", "-1"), "--image must be at least 1, found -1"),
        (("dedup", "{}/f", "--out", "{}/none/x.txt"), "there is no folder"),
        (("index", "--workers", "0"), "--workers must be at least 1"),
        (("check", "--workers", "-2"), "--workers must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is(folder, tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    word, *rest = (one.format(tmp_path) for one in words)
    before = {*tmp_path.rglob("*")}
    assert main(["data", word, str(folder), *rest]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and {*tmp_path.rglob("*")} == before


@pytest.mark.parametrize("word", ["index", "pack", "preview", "dedup"])
def test_no_room_for_what_a_word_writes(folder, tmp_path, capsys, word):
    """Files may not grow beyond 100 bytes, as on a disk that fills up; then they may, and it goes on."""
    out = ["--out", str(tmp_path / ("out.png" if word != "pack" else "out"))]
    words = {
        "index": ["--workers", "1"], "pack": out, "preview": out, "dedup": [str(folder), *out],
    }  # fmt: skip
    if word == "dedup":
        run(capsys, "index", str(folder), "--workers", "1")
    before = {*tmp_path.rglob("*")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        code, stopped = run(capsys, word, str(folder), *words[word])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 3 and "File too large; what is finished stays, run it again" in stopped["stopped"]
    new = {path.name for path in {*tmp_path.rglob("*")} - before}
    assert new <= {".scalevit-index.parts", "out"}
    assert run(capsys, word, str(folder), *words[word])[0] == 0
