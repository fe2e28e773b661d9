"""An index is small, mapped, made once, continued when interrupted, and never outlives its shard."""

import os
import shutil
from pathlib import Path

import faulty_index
import numpy as np
import pytest
from pictures import make_folder, make_shards

from scalevit.cli.main import main
from scalevit.data import dataset
from scalevit.data.dataset import dataset_of_shards, open_dataset
from scalevit.data.decode import decode
from scalevit.data.dedup.phash import luminance, phash
from scalevit.data.index import build as indexing
from scalevit.data.index import manifest
from scalevit.data.index.build import build
from scalevit.data.index.read import BROKEN, RECORD, Builder, Header, index_path, read_index, write_index


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "f")


def test_a_sample_takes_at_most_48_bytes(tmp_path):
    """Names as ImageNet's included."""
    assert RECORD.itemsize == 40
    names = [f"n0{1440764 + number // 400}_{number * 37 % 40_000}.JPEG" for number in range(10_000)]
    builder = Builder(Header("folder", "f", 0, "", names=("a",)))
    for name in names:
        builder.add(0, 1, (0,), name=name)
    write_index(builder.done(), tmp_path / "index")
    assert (tmp_path / "index").stat().st_size < 48 * len(names)
    index = read_index(tmp_path / "index")
    assert [index.text_of(number) for number in range(0, 10_000, 7)] == names[::7]


@pytest.mark.parametrize("form", ["folder", "tar", "parquet"])
def test_what_was_measured_is_true(folder, tmp_path, form):
    import zlib

    path = str(folder if form == "folder" else make_shards(folder, tmp_path / "p", form))
    before = open_dataset(path)
    assert build(path).samples == 30
    store = open_dataset(path)
    assert all(isinstance(shard.records.base, np.memmap) for shard in store.shards)
    for number in range(30):
        data = store.encoded(number)
        shard, inside = store.locate(number)
        record, pixels = shard.records[inside], decode(data, "a")
        assert (record["height"], record["width"]) == pixels.shape[:2]
        assert (record["checksum"], record["length"]) == (zlib.crc32(data), len(data))
        assert record["phash"] == phash(luminance(pixels, 32))
        assert data == before.encoded(number)
        assert store.labels(number).tolist() == before.labels(number).tolist()


def test_a_second_pass_measures_nothing(folder, monkeypatch):
    build(str(folder))
    monkeypatch.setattr(indexing, "_measure", lambda *_: pytest.fail("measured again"))
    assert build(str(folder)).kept == 1


def test_an_interrupted_pass_goes_on_where_it_stopped(folder, monkeypatch):
    monkeypatch.setattr(indexing, "CHUNK", 8)
    real, measured = indexing._measure, []

    def stopping(index, number, record, reader):
        if len(measured) == 20:
            raise KeyboardInterrupt
        measured.append(number)
        real(index, number, record, reader)

    monkeypatch.setattr(indexing, "_measure", stopping)
    with pytest.raises(KeyboardInterrupt):
        build(str(folder))
    assert not index_path(str(folder), "folder").exists()  # nothing half-written under the final name
    measured.clear()
    build(str(folder))
    assert measured == [*range(16, 30)]
    assert not list(folder.glob("*.parts"))
    monkeypatch.setattr(indexing, "_measure", real)
    whole = open_dataset(str(folder)).records().copy()
    index_path(str(folder), "folder").unlink()
    build(str(folder))
    assert (open_dataset(str(folder)).records() == whole).all()


def test_processes_find_the_same_and_progress_is_that_of_all_shards(folder, tmp_path):
    packed = make_shards(folder, tmp_path / "p", "tar")
    build(str(packed))
    alone, told = open_dataset(str(packed)).records().copy(), []
    for file in packed.glob("*.scalevit-index"):
        file.unlink()
    built = build(str(packed), workers=2, progress=lambda *both: told.append(both))
    assert (built.samples, built.kept, told[-1]) == (30, 0, (30, 30))
    assert all(total >= 30 for _, total in told)
    assert (open_dataset(str(packed)).records() == alone).all()


def test_alone_the_progress_is_told_chunk_by_chunk(folder, monkeypatch):
    monkeypatch.setattr(indexing, "CHUNK", 8)
    told = []
    build(str(folder), progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in dict.fromkeys(told)] == [0, 8, 16, 24, 30]
    assert {total for _, total in told} == {30}


def test_a_process_that_dies_says_what_it_read(folder, tmp_path, monkeypatch):
    """Killed as by an exhausted machine; the same command goes on afterwards."""
    packed = make_shards(folder, tmp_path / "p", "tar")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))
    monkeypatch.setattr(indexing, "_measure_chunk", faulty_index.killed)
    with pytest.raises(ValueError, match=r"a process died .* read: .*shard-.*tar at byte \d+"):
        build(str(packed), workers=2)
    monkeypatch.undo()
    assert build(str(packed)).samples == 30


def test_broken_samples_are_named(folder):
    (folder / "bee/001.jpg").write_bytes(b"\xff\xd8 no image")
    built = build(str(folder))
    assert [Path(name).name for name in built.broken] == ["001.jpg"]
    assert (open_dataset(str(folder)).records()["flags"] & BROKEN).astype(bool).sum() == 1


def test_a_changed_shard_is_refused_and_indexed_anew(folder, tmp_path):
    packed = make_shards(folder, tmp_path / "p", "tar", shards=1)
    shard = packed / "shard-000000.tar"
    build(str(packed))
    os.utime(shard, (1, 1))
    with pytest.raises(ValueError, match="changed after it was indexed; run scalevit data index"):
        open_dataset(str(packed))
    assert build(str(packed)).kept == 0
    assert open_dataset(str(packed)).samples == 30
    build(str(folder))
    (folder / "ant/new.jpg").write_bytes((folder / "ant/000.jpg").read_bytes())
    with pytest.raises(ValueError, match="changed after it was indexed"):
        open_dataset(str(folder))


def test_an_index_moves_with_its_folder(folder, tmp_path):
    build(str(folder))
    shutil.move(folder, tmp_path / "elsewhere")
    store = open_dataset(str(tmp_path / "elsewhere"))
    assert store.shards[0].header.measured and len(store.encoded(3)) > 100


def test_a_cut_index_is_said_to_be(folder):
    build(str(folder))
    target = index_path(str(folder), "folder")
    target.write_bytes(target.read_bytes()[:600])
    with pytest.raises(ValueError, match="is cut; run scalevit data index"):
        open_dataset(str(folder))
    target.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="is no index"):
        open_dataset(str(folder))
    assert build(str(folder)).samples == 30


def test_an_index_of_another_version_is_said_to_be_and_made_anew(folder, capsys):
    build(str(folder))
    target = index_path(str(folder), "folder")
    new = target.read_bytes()
    target.write_bytes(new.replace(b"scalevit index 4", b"scalevit index 3"))
    (folder / ".scalevit-index.parts").mkdir()
    (folder / ".scalevit-index.parts/listing").write_bytes(target.read_bytes())  # it was interrupted, too
    assert main(["data", "stats", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.endswith(f"is of another version of scalevit; run scalevit data index {folder}\n")
    assert error.count("\n") == 1
    assert build(str(folder)).kept == 0
    assert target.read_bytes() == new and not list(folder.glob("*.parts"))


def test_what_is_not_ours_to_write_is_indexed_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALEVIT_CACHE", str(tmp_path / "cache"))
    assert index_path("s3://bucket/a.tar", "tar").parent == tmp_path / "cache"
    assert index_path("s3://bucket/a.tar", "tar") != index_path("s3://bucket/b.tar", "tar")


# --------------------------------------------------------------------------- many shards together


@pytest.fixture
def many(folder, tmp_path):
    packed = make_shards(folder, tmp_path / "p", "tar", shards=6)
    build(str(packed))
    return packed


def test_a_source_of_many_shards_opens_none_of_them(many, monkeypatch):
    alone = dataset_of_shards([dataset._open_shard(str(file), "tar") for file in sorted(many.glob("*.tar"))])
    asked, real = [], manifest.open_index
    monkeypatch.setattr(dataset, "open_index", lambda *_: pytest.fail("opened"))
    monkeypatch.setattr(manifest, "open_index", lambda *command: asked.append(command[0]) or real(*command))
    store = open_dataset(str(many))
    assert asked == []
    assert (store.samples, store.facts, store.measured) == (alone.samples, alone.facts, True)
    assert store.encoded(17) == alone.encoded(17) and store.name(17) == alone.name(17)
    assert [Path(one).name for one in asked] == ["shard-000003.tar"]
    assert (store.records() == alone.records()).all() and len(asked) == 6
    shutil.move(many, many.parent / "elsewhere")
    assert open_dataset(str(many.parent / "elsewhere")).name(0).startswith(str(many.parent / "elsewhere"))


def test_a_catalogue_of_what_is_no_more_is_not_used(many):
    last = sorted(many.glob("*.tar"))[-1]
    os.utime(last, (1, 1))
    with pytest.raises(ValueError, match=r"shard-000005\.tar changed after it was indexed"):
        open_dataset(str(many))
    last.unlink()
    assert open_dataset(str(many)).samples == 25
    (many / manifest.SUFFIX).write_bytes(b"nonsense")
    assert open_dataset(str(many)).samples == 25


def test_a_shard_is_looked_at_when_it_is_opened(many, monkeypatch):
    monkeypatch.setattr(manifest, "_LOOKED_AT", 2)
    os.utime(many / "shard-000001.tar", (1, 1))
    store = open_dataset(str(many))
    with pytest.raises(ValueError, match=r"shard-000001\.tar changed after it was indexed"):
        store.encoded(7)
    (many / "shard-000004.tar.scalevit-index").unlink()
    with pytest.raises(ValueError, match="has another index than before; run scalevit data index"):
        store.encoded(22)
