"""A listing finds the samples of every layout by one rule, and counts and names whatever it leaves out."""

import io
import json
import os
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scalevit.cli.main import main
from scalevit.config.run import Data
from scalevit.data.class_names import order_class_names
from scalevit.data.dataset import open_dataset, open_splits
from scalevit.data.formats.image_files import image_type
from scalevit.data.index.build import build
from scalevit.data.index.content import hash_of_labels, join_hashes
from scalevit.data.index.read import RECORD, index_path
from scalevit.data.left_out import LeftOut
from scalevit.data.options import ListingOptions
from scalevit.data.registry import describe_source, open_source
from scalevit.evals.datasets.open import open_probe_set


def jpeg(colour: int, form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (24, 20), (colour % 256, 90, 200)).save(file, form)
    return file.getvalue()


def fill(folder, count=3, first=0, suffix=".jpg"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}{suffix}").write_bytes(jpeg(first + 20 * number))
    return folder


def classes_of(dataset) -> list[str]:
    return [dataset.class_names[int(dataset.labels(n)[0])] for n in range(dataset.samples)]


# --------------------------------------------------------------------------- folders


@given(st.sets(st.integers(0, 500), min_size=1, max_size=30))
def test_class_names_that_are_numbers_are_ordered_as_numbers(numbers):
    assert [int(name) for name in order_class_names(map(str, numbers))] == sorted(numbers)
    assert order_class_names({"b10", "b9", "2"}) == ("2", "b10", "b9")


def test_folders_that_are_numbers_are_classes_in_their_order(tmp_path):
    for number in range(12):
        fill(tmp_path / str(number + 1), 1)
    dataset = open_dataset(str(tmp_path))
    assert dataset.class_names == tuple(str(n + 1) for n in range(12))
    assert [int(dataset.labels(n)[0]) for n in range(12)] == list(range(12))
    assert build(str(tmp_path)).samples == 12
    assert open_dataset(str(tmp_path)).class_names == dataset.class_names


def test_what_no_user_put_there_is_no_sample(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name)
        (tmp_path / name / "._0.jpg").write_bytes(b"\0\5\x16\7")
        (tmp_path / name / "Thumbs.db").write_bytes(b"x")
        fill(tmp_path / name / "@eaDir", 1)
    for name in (".ipynb_checkpoints", "__MACOSX"):
        fill(tmp_path / name, 2)
    dataset = open_dataset(str(tmp_path))
    assert (dataset.samples, dataset.class_names, dataset.left_out.total) == (6, ("cat", "dog"), 0)


def test_images_are_known_by_their_first_bytes_and_others_are_counted(tmp_path):
    fill(tmp_path / "cat", 2, suffix=".jfif")
    fill(tmp_path / "dog", 2, suffix=".picture")
    (tmp_path / "dog" / "notes.doc").write_text("none")
    (tmp_path / "beside.png").write_bytes(jpeg(1, "PNG"))
    dataset = open_dataset(str(tmp_path))
    assert dataset.samples == 4
    assert dataset.left_out.counts == {"an image beside the class folders": 1, "not an image": 1}
    assert "notes.doc" in " ".join(dataset.left_out.lines())
    for form, ending in (("PNG", "png"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tif"), ("WEBP", "webp")):
        assert image_type(jpeg(1, form)[:32]) == ending
    assert image_type(b"BM is a word") is None and image_type(b"") is None


def test_links_are_followed_inside_only_and_never_in_circles(tmp_path):
    root, other = tmp_path / "set", fill(tmp_path / "private", 2)
    fill(root / "cat"), fill(root / "store" / "more", 2)
    (root / "cat" / "circle").symlink_to(root / "cat")
    (root / "cat" / "again").symlink_to(root / "store" / "more")
    (root / "cat" / "x.jpg").symlink_to(other / "0.jpg")
    (root / "cat" / "nothing.jpg").symlink_to(root / "gone.jpg")
    (root / "leaves").symlink_to(other)
    os.mkfifo(root / "cat" / "pipe.jpg")
    dataset = open_dataset(str(root))
    assert (dataset.samples, dataset.class_names) == (7, ("cat", "store"))
    counts = dataset.left_out.counts
    assert counts["a link that leaves the data set"] == 2 and counts["a device, pipe or socket"] == 1
    assert counts["a folder that is listed already"] == 1 and counts["a link to nothing"] == 1
    assert open_dataset(str(root), ListingOptions(follow_links=True)).samples == 10


def test_an_index_cannot_lead_out_of_its_folder(tmp_path):
    """Names in an index of a stranger are looked up below the folder or refused."""
    fill(tmp_path / "set" / "aaaaaaaa", 1), fill(tmp_path / "private", 1)
    build(str(tmp_path / "set"))
    target = index_path(str(tmp_path / "set"), "folder")
    target.write_bytes(target.read_bytes().replace(b'"aaaaaaaa"', b'"../private"'[:10].ljust(10, b" ")))
    target.write_bytes(target.read_bytes().replace(b'"../privat', b'".."      '))
    dataset = open_dataset(str(tmp_path / "set"))
    with pytest.raises(ValueError, match=r"leaves the data set|No such file"):
        dataset.encoded(0)


# --------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("train", "query"), [("train", "val"), ("Train", "Eval"), ("training", "dev"), ("train", "test")]
)
def test_a_root_with_splits_trains_on_its_train_half(tmp_path, train, query):
    for name in ("cat", "dog"):
        fill(tmp_path / train / name), fill(tmp_path / query / name, 2, 100)
    dataset = open_dataset(str(tmp_path))
    assert (dataset.samples, dataset.class_names, dataset.split) == (6, ("cat", "dog"), "train")
    assert "train split is used" in dataset.notes()[0]
    found = open_probe_set(str(tmp_path))
    assert (len(found.support), len(found.query), found.class_names) == (6, 4, ("cat", "dog"))
    fill(tmp_path / query / "yak", 1)
    with pytest.raises(ValueError, match="classes that its train split lacks: yak"):
        open_source(Data(str(tmp_path)), image=8, classes=2)


def test_a_class_called_train_is_a_class(tmp_path):
    for name in ("train", "car", "bus"):
        fill(tmp_path / name)
    assert open_dataset(str(tmp_path)).class_names == ("bus", "car", "train")


def test_a_test_half_without_labels_gives_way_to_val(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / "train" / name), fill(tmp_path / "val" / name, 2, 100)
    fill(tmp_path / "test" / "images", 4)
    fill(tmp_path / "devkit", 1)
    assert len(open_probe_set(str(tmp_path)).query) == 4
    assert open_dataset(str(tmp_path)).left_out.counts == {"beside the split folders": 1}


# --------------------------------------------------------------------------- lists


LISTS = {
    "metadata.csv": "file_name,label\n0.jpg,dog\n1.jpg,cat\n2.jpg,dog\n",
    "metadata.jsonl": '{"file_name": "0.jpg", "label": "dog"}\n{"file_name": "1.jpg", "label": "cat"}\n'
    '{"file_name": "2.jpg", "label": "dog"}\n',
    "labels.csv": "label;name\n\"dog\";0\n\"cat\";1\n\"dog\";2\n",
    "train.txt": "images/0.jpg dog\n./images/1.jpg cat\n2.jpg dog\n",
    "list.tsv": "dog\t0.jpg\ncat\t1.jpg\ndog\t2.jpg\n",
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_images(tmp_path, name):
    fill(tmp_path / ("images" if name == "train.txt" else ""), 4)
    (tmp_path / name).write_text(LISTS[name])
    for source in (tmp_path, tmp_path / name):
        dataset = open_dataset(str(source))
        assert classes_of(dataset) == ["dog", "cat", "dog"] and dataset.class_names == ("cat", "dog")
        assert dataset.encoded(1) == jpeg(20)
    assert dataset.left_out.counts == {"an image that the list leaves out": 1}


def test_rows_without_an_image_and_images_without_a_row_are_counted(tmp_path):
    fill(tmp_path, 3)
    (tmp_path / "metadata.csv").write_text("file_name,label\n0.jpg,a\n9.jpg,b\n../../etc/passwd,b\n1.jpg,b\n")
    dataset = open_dataset(str(tmp_path))
    assert dataset.samples == 2
    assert dataset.left_out.counts == {"listed, but not there": 2, "an image that the list leaves out": 1}


def test_columns_are_chosen_by_key_or_refused_with_the_list(tmp_path):
    fill(tmp_path, 2)
    (tmp_path / "metadata.csv").write_text(
        "file_name,target,category,split\n0.jpg,1,x,train\n1.jpg,2,y,val\n"
    )
    with pytest.raises(ValueError, match="several columns may hold the label: target, category"):
        open_dataset(str(tmp_path))
    splits = open_splits(str(tmp_path), ListingOptions(label="category"))
    assert {name: classes_of(part) for name, part in splits.items()} == {"train": ["x"], "val": ["y"]}
    with pytest.raises(ValueError, match="no column or key 'categry'; nearest: category"):
        open_dataset(str(tmp_path), ListingOptions(label="categry"))


# --------------------------------------------------------------------------- tables and tars


def table(path, labels, **columns):
    images = pa.array([{"bytes": jpeg(20 * n), "path": None} for n in range(len(labels))])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**columns, "image": images, "label": labels}), path)


def test_shards_that_lack_a_class_are_joined_by_name(tmp_path):
    table(tmp_path / "a.parquet", ["dog", "cat"])
    table(tmp_path / "b.parquet", ["emu", "dog"])
    dataset = open_dataset(str(tmp_path))
    assert (dataset.class_names, classes_of(dataset)) == (("cat", "dog", "emu"), ["dog", "cat", "emu", "dog"])
    assert dataset.class_counts().tolist() == dataset.class_counts().tolist() == [1, 2, 1]
    build(str(tmp_path))
    again = open_dataset(str(tmp_path))
    assert (classes_of(again), again.content_id()) == (classes_of(dataset), dataset.content_id())


def test_the_image_column_is_the_one_that_is_called_so(tmp_path):
    masks = pa.array([{"bytes": b"mask", "path": None}] * 2)
    table(tmp_path / "a.parquet", [1.0, 0.0], mask=masks, md5=pa.array([bytes(16)] * 2, pa.binary()))
    dataset = open_dataset(str(tmp_path / "a.parquet"))
    assert dataset.encoded(1) == jpeg(20) and [int(dataset.labels(n)[0]) for n in (0, 1)] == [1, 0]
    chosen = open_dataset(str(tmp_path / "a.parquet"), ListingOptions(image="mask"))
    assert chosen.encoded(0) == b"mask"
    pq.write_table(pa.table({"left": masks, "right": masks}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="several columns may hold the image: left, right"):
        open_dataset(str(tmp_path / "b.parquet"))


def test_train_and_test_shards_are_told_apart(tmp_path):
    table(tmp_path / "data" / "train-00000-of-00001.parquet", [0, 1, 1])
    table(tmp_path / "data" / "test-00000-of-00001.parquet", [0, 1])
    assert {name: part.samples for name, part in open_splits(str(tmp_path)).items()} == {
        "train": 3,
        "test": 2,
    }
    assert open_dataset(str(tmp_path)).samples == 3


def tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["{k}.jpg", "{k}.cls"], True), (["scan.{k}.v2.jpg", "scan.{k}.v2.cls"], True),
        (["{k}.input.jpg", "{k}.target.cls"], True), (["./a/{k}.JPG", "./a/{k}.CLS"], True),
        (["{k}.img", "{k}.cls"], True), (["{c}/{k}.jpg"], False),
    ],
)  # fmt: skip
def test_names_in_tars(tmp_path, names, labels):
    members = []
    for number in range(6):
        for name in names:
            label = str(number % 2).encode()
            data = label if name.lower().endswith("cls") else jpeg(number)
            members.append((name.format(k=f"{number:03}", c="xy"[number % 2]), data))
    in_turn = open_dataset(tar(tmp_path / "a.tar", members))
    apart = open_dataset(tar(tmp_path / "b.tar", members[:: len(names)] + (members[1::2] if labels else [])))
    for dataset in (in_turn, apart):
        assert (dataset.samples, dataset.unlabelled, dataset.classes) == (6, 0, 2)
        assert [int(dataset.labels(n)[0]) for n in range(6)] == [0, 1] * 3


def test_members_of_a_tar_that_are_no_sample_are_counted(tmp_path):
    members = [("readme.md", b"text"), ("0.jpg", jpeg(0)), ("0.cls", b"0"), ("1.jpg", b""), ("1.cls", b"1")]
    dataset = open_dataset(tar(tmp_path / "a.tar", members))
    assert dataset.left_out.counts == {"no image among its members": 1, "an empty image": 1}
    with pytest.raises(ValueError, match=r"one of several images of a sample \(\.left\.jpg, \.right\.jpg\)"):
        open_dataset(tar(tmp_path / "b.tar", [("0.left.jpg", jpeg(0)), ("0.right.jpg", jpeg(1))]))


@pytest.mark.parametrize("label", [1 << 20, 2**31 - 1])
def test_labels_are_bounded(tmp_path, label):
    with pytest.raises(ValueError, match="out of range"):
        open_dataset(tar(tmp_path / "a.tar", [("0.jpg", jpeg(0)), ("0.cls", str(label).encode())]))


# --------------------------------------------------------------------------- identity, commands


def test_the_content_hash_is_of_samples_and_not_of_where_they_lie(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / "a" / name)
    first = describe_source(Data(str(tmp_path / "a")))
    build(str(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    moved = describe_source(Data(str(tmp_path / "b")))
    assert moved.content_id == first.content_id
    assert (moved.classes, moved.class_names, moved.samples) == (2, ("cat", "dog"), 6)
    out = str(tmp_path / "packed")
    arguments = ["--form", "parquet", "--order", "kept", "--samples-per-shard", "2"]
    assert main(["data", "pack", str(tmp_path / "b"), "--out", out, *arguments]) == 0
    assert describe_source(Data(out)).content_id == first.content_id
    (tmp_path / "b" / "dog").rename(tmp_path / "b" / "emu")
    assert build(str(tmp_path / "b")).kept == 0
    assert describe_source(Data(str(tmp_path / "b"))).content_id != first.content_id


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(0, 40))
def test_hashes_of_shards_join(labels, cut):
    records = np.zeros(len(labels), RECORD)
    records["label"], records["labels"] = labels, 1
    none, cut = np.zeros(0, np.uint32), min(cut, len(labels))
    parts = [hash_of_labels(part, none, "abcdef") for part in (records[:cut], records[cut:])]
    assert join_hashes(parts, [cut, len(labels) - cut]) == hash_of_labels(records, none, "abcdef")


def test_check_says_all_whole_only_when_nothing_was_left_out(tmp_path, capsys):
    fill(tmp_path / "cat"), fill(tmp_path / "dog")
    assert main(["data", "check", str(tmp_path), "--workers", "1"]) == 0
    assert "all whole" in capsys.readouterr().out
    (tmp_path / "dog" / "\x1b]0;x\x07.doc").write_text("no image")
    assert main(["data", "check", str(tmp_path), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "all whole" not in said and "1 left out: not an image" in said and "\x1b" not in said
    assert main(["data", "check", str(tmp_path), "--strict"]) == 2
    assert "not an image" in capsys.readouterr().err


def test_what_is_left_out_adds_up():
    one, other = LeftOut(), LeftOut()
    for number in range(7):
        one.add("a", f"{number}"), other.add("a", "x")
    both = one.merge([other])
    assert both.counts == {"a": 14} and both.names["a"] == ["0", "1", "2", "3", "4"]
    assert LeftOut.of_dict(json.loads(json.dumps(both.as_dict()))) == both
