"""A folder, tars and tables of the same images give the same samples; what is wrong with one is said."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from http_server import serving
from pictures import CLASSES, encoded, make_folder, make_shards, picture

from scalevit.cli.main import main
from scalevit.config.run import Data
from scalevit.data import training_images
from scalevit.data.dataset import open_dataset
from scalevit.data.decode import BrokenImage
from scalevit.data.dedup.search import Match
from scalevit.data.exclusions import write_exclusions
from scalevit.data.formats.tables import schema_for
from scalevit.data.index.build import build
from scalevit.data.registry import batches_of, open_source

pyarrow = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("folder"))


def test_a_folder_is_its_files(folder):
    store = open_dataset(str(folder))
    assert (store.samples, store.classes, store.class_names) == (30, 3, CLASSES)
    for number in range(30):
        assert Path(store.name(number)).read_bytes() == store.encoded(number)
        assert f"/{CLASSES[store.labels(number)[0]]}/" in store.name(number)


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_packed_samples_are_the_folders(folder, tmp_path, form):
    store, packed = open_dataset(str(folder)), open_dataset(str(make_shards(folder, tmp_path / "p", form)))
    assert packed.samples == 30 and len(packed.shards) == 3
    assert {s.header.samples for s in packed.shards} == {10}

    def content(one):
        return sorted((one.encoded(n), tuple(one.labels(n))) for n in range(one.samples))

    assert content(packed) == content(store)
    order = [store.encoded(n) for n in range(30)]
    assert [packed.encoded(n) for n in range(30)] != order  # shuffled
    assert max(np.bincount([packed.labels(n)[0] for n in range(10)])) < 10  # and balanced


def test_multi_label_tables_become_multi_hot(tmp_path):
    rows = [{"image": {"bytes": encoded(picture(n))}, "labels": [n % 2, 3]} for n in range(8)]
    pq.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=3)
    batches = batches_of(Data(str(tmp_path / "a.parquet")), image=16, classes=5, batch=8)
    labels = batches[0].labels
    assert labels.shape == (8, 5) and labels.dtype == torch.float32
    assert labels.sum(dim=0).tolist() == [4, 4, 0, 8, 0]


def as_datasets_saves(folder, out, rows: int):
    """What `datasets.save_to_disk` leaves: Arrow streams, two files of JSON, types beside the schema."""
    out.mkdir()
    schema, store = schema_for(CLASSES, multi=False), open_dataset(str(folder))
    for shard, numbers in enumerate(np.array_split(np.arange(store.samples), 2)):
        with (
            pyarrow.OSFile(str(out / f"data-0000{shard}-of-00002.arrow"), "wb") as file,
            pyarrow.ipc.new_stream(file, schema) as stream,
        ):
            images = [{"bytes": store.encoded(n), "path": None} for n in numbers.tolist()]
            columns = {"image": images, "label": [int(store.labels(n)[0]) for n in numbers.tolist()]}
            stream.write_table(pyarrow.table(columns, schema), max_chunksize=rows)
    (out / "state.json").write_text("{}")
    (out / "dataset_info.json").write_text("{}")
    return out


def test_what_datasets_saved_is_the_folder(folder, tmp_path):
    saved = as_datasets_saves(folder, tmp_path / "saved", 4)
    mine, theirs = open_dataset(str(folder)), open_dataset(str(saved))
    build(str(saved))
    for store in (theirs, open_dataset(str(saved))):
        assert (store.samples, store.class_names, len(store.shards)) == (30, CLASSES, 2)
        assert [store.encoded(n) for n in range(30)] == [mine.encoded(n) for n in range(30)]
        assert [store.labels(n).tolist() for n in range(30)] == [mine.labels(n).tolist() for n in range(30)]
    assert len({int(record["offset"]) for record in theirs.shards[0].records}) == 4
    with serving(saved) as (address, _):
        far = open_dataset(f"{address}/data-{{00000..00001}}-of-00002.arrow")
        assert far.encoded(29) == mine.encoded(29) and far.name(29).endswith(theirs.name(29)[-40:])
    cut = tmp_path / "cut.arrow"
    for size, message in (
        (0, "is no Arrow stream"),
        (100, "is no Arrow stream"),
        (9_000, "is damaged or cut"),
    ):
        cut.write_bytes((saved / "data-00000-of-00002.arrow").read_bytes()[:size])
        with pytest.raises(ValueError, match=rf"cut.arrow {message}") as error:
            open_dataset(str(cut))
        assert "\n" not in str(error.value)


def test_packed_tables_keep_the_names_of_classes(folder, tmp_path):
    packed = make_shards(folder, tmp_path / "p", "parquet")
    assert open_dataset(str(packed)).class_names == CLASSES
    features = json.loads(pq.read_schema(packed / "shard-000000.parquet").metadata[b"huggingface"])
    assert features["info"]["features"] == {
        "image": {"_type": "Image"}, "label": {"names": [*CLASSES], "_type": "ClassLabel"},
    }  # fmt: skip


def test_several_labels_one_and_none_mean_the_same_in_every_form(tmp_path):
    """Beside images in a folder, packed into tars and tables: a sample of no class is no unlabelled one."""
    flat, labels = tmp_path / "flat", [[0, 2], [1], [], [2], [0, 1, 2], []]
    flat.mkdir()
    for number, some in enumerate(labels):
        (flat / f"{number}.jpg").write_bytes(encoded(picture(number)))
        (flat / f"{number}.json").write_text(json.dumps({"labels": some}))
    packs = [make_shards(flat, tmp_path / form, form, shards=1) for form in ("tar", "parquet")]
    build(str(flat))
    hot = torch.tensor([[c in some for c in range(3)] for some in labels], dtype=torch.float32)
    for path in (flat, *packs):
        store = open_dataset(str(path))
        assert (store.samples, store.classes, store.multi, store.unlabelled) == (6, 3, True, 0)
        batch = batches_of(Data(str(path)), image=16, classes=3, batch=6)[0]
        assert sorted(batch.labels.tolist()) == sorted(hot.tolist())
    assert open_dataset(str(flat)).name(4) == f"{flat}/4.jpg"
    (flat / "6.jpg").write_bytes(encoded(picture(6)))  # of which nothing is known
    with pytest.raises(ValueError, match="changed after it was indexed"):
        open_dataset(str(flat))
    build(str(flat))
    for path in (flat, *(make_shards(flat, tmp_path / f"{form}-7", form) for form in ("tar", "parquet"))):
        assert open_dataset(str(path)).unlabelled == 1
        with pytest.raises(ValueError, match="1 of 7 samples have no label"):
            open_source(Data(str(path)), image=16, classes=3)


def test_what_is_wrong_is_one_line(folder, tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/1.txt").write_bytes(b"3")
    (tmp_path / "empty/cat").mkdir(parents=True)
    (tmp_path / "x.parquet").write_bytes(b"PAR1nothing")
    pq.write_table(pyarrow.table({"a": [1]}), tmp_path / "none.parquet")
    pq.write_table(pyarrow.table({"image": [b"x"], "label": [0.5]}), tmp_path / "floats.parquet")
    for path, message in (
        ("missing", "no such file or folder"),
        ("flat", "no folder for each class, and no image"),
        ("empty", "no image"),
        ("x.parquet", "is no parquet table"),
        ("none.parquet", "no column of images"),
        ("floats.parquet", "must be numbers, names or lists"),
        ("s-{0..3}.tar", "No such file"),
        ("*.tar", "no file matches"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            open_dataset(str(tmp_path / path))
        assert "\n" not in str(error.value)


def test_labels_must_fit_the_model(folder, tmp_path):
    with pytest.raises(ValueError, match=r"set model.classes=3"):
        open_source(Data(str(folder)), image=16, classes=2)
    pq.write_table(pyarrow.table({"image": [encoded(picture(0))]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="1 of 1 samples have no label"):
        open_source(Data(str(tmp_path / "a.parquet")), image=16, classes=2)
    with pytest.raises(ValueError, match="images=31 asks for more"):
        batches_of(Data(str(folder), images=31), image=16, classes=3, batch=8)


def test_unknown_sources_name_the_nearest():
    with pytest.raises(ValueError, match="nearest: strokes"):
        open_source(Data("stroke"), image=16, classes=2)
    with pytest.raises(ValueError, match=r"needs model.classes"):
        open_source(Data("strokes"), image=16, classes=0)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_same_samples_and_crops_for_three_epochs_stopped_anywhere(folder, workers, world):
    def loader(workers, rank=0, world=1):
        data = Data(str(folder), transform="inception", workers=workers)
        return batches_of(data, image=24, classes=3, batch=10, rank=rank, world=world)

    alone, epochs = loader(0), 9
    for stop in (0, 1, 5):  # the run is cut before this step, and another process goes on
        shares = [loader(workers, rank, world).iter_from(stop) for rank in range(world)]
        for step in range(stop, epochs):
            parts = [next(share)[1] for share in shares]
            assert torch.equal(torch.cat([part.images for part in parts]), alone[step].images)
            assert torch.equal(torch.cat([part.labels for part in parts]), alone[step].labels)
    first, again = alone[0], alone[3]  # the next epoch: other samples, other crops
    assert not torch.equal(first.images, again.images)


def test_whatever_fails_in_a_worker_names_the_sample(folder, monkeypatch):
    def view(data, name, side, key):
        raise MemoryError if "bee/004" in name else BrokenImage("cut")

    monkeypatch.setitem(training_images.VIEWS, "none", view)
    loader = batches_of(Data(str(folder), workers=2, tolerate=1.0), image=16, classes=3, batch=10)
    with pytest.raises(RuntimeError, match=r"sample 11, .*bee/004\.jpg: MemoryError"):
        next(loader.iter_from(0))


def test_a_broken_sample_is_its_neighbour_and_too_many_stop_the_run(tmp_path):
    folder = make_folder(tmp_path / "f")
    (folder / "ant/000.jpg").write_bytes(b"\xff\xd8 broken")
    data = Data(str(folder), tolerate=0.1)
    source = open_source(data, image=16, classes=3)
    numbers = np.arange(2)
    images, labels, broken = source.get(numbers, numbers)
    assert torch.equal(images[0], images[1]) and labels.tolist() == [0, 0]
    (one,) = broken
    assert one.name.endswith("ant/000.jpg") and "ant/000.jpg" in one.reason
    strict = open_source(Data(str(folder), tolerate=0.0), image=16, classes=3)
    with pytest.raises(ValueError, match=r"over data.tolerate=0; the first: .*000.jpg.*scalevit data check"):
        strict.get(numbers, numbers)
    for file in folder.glob("*/*.jpg"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 30 samples can be decoded"):
        open_source(Data(str(folder), tolerate=1.0), image=16, classes=3).get(numbers, numbers)


def test_excluded_samples_are_left_out(folder, tmp_path):
    store = open_dataset(str(folder))
    gone = [0, 1, 7, 29]
    write_exclusions(tmp_path / "ex.txt", store, [(Match(n, 0, 0, 0), "copy") for n in gone])
    source = open_source(Data(str(folder), exclude=str(tmp_path / "ex.txt")), image=16, classes=3)
    assert source.samples == 26
    assert [source.number(n) for n in range(26)] == [n for n in range(30) if n not in gone]
    shuffled = make_shards(folder, tmp_path / "p", "tar")  # as many samples, and others at these numbers
    for path, text, message in (
        (shuffled, None, "of another source, or in another order; dedup again"),
        (folder, "# scalevit exclusions; samples: 31\n", "of another source"),
        (folder, "# scalevit exclusions; samples: 30\n30\tx/0.jpg\n", "of another source"),
        (folder, "a list\nof names\n", "is no list of exclusions"),
    ):
        if text:
            (tmp_path / "ex.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            open_source(Data(str(path), exclude=str(tmp_path / "ex.txt")), image=16, classes=3)
    write_exclusions(tmp_path / "ex.txt", store, [(Match(n, 0, 0, 0), "copy") for n in range(30)])
    with pytest.raises(ValueError, match="excludes all 30 samples"):
        open_source(Data(str(folder), exclude=str(tmp_path / "ex.txt")), image=16, classes=3)


@pytest.mark.parametrize("order", ["kept", "shuffled"])
def test_a_pack_leaves_out_what_is_excluded(folder, tmp_path, order):
    store, gone = open_dataset(str(folder)), [0, 1, 7, 29]
    write_exclusions(tmp_path / "ex.txt", store, [(Match(n, 0, 0, 0), "copy") for n in gone])
    words = ["--out", str(tmp_path / "p"), "--exclude", str(tmp_path / "ex.txt"), "--order", order]
    assert main(["data", "pack", str(folder), *words, "--samples-per-shard", "9"]) == 0
    packed, kept = open_dataset(str(tmp_path / "p")), [n for n in range(30) if n not in gone]
    found = [packed.encoded(n) for n in range(packed.samples)]
    assert sorted(found) == sorted(store.encoded(n) for n in kept)
    assert (found == [store.encoded(n) for n in kept]) == (order == "kept")
