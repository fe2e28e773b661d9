"""Probe sets from every form, and the mistakes people make with them."""

import gzip
import io
import os
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from scalevit.data.dataset import open_dataset
from scalevit.data.formats import image_files
from scalevit.data.procedural.dataset import Procedural
from scalevit.evals.datasets import builtin, probe_set
from scalevit.evals.datasets.open import is_probe_set, open_probe_set


def arrays(n=12, classes=3, channels=(), seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 6, 5, *channels), np.uint8), np.arange(n) % classes


def save_images(folder, x, y):
    for i, (image, label) in enumerate(zip(x, y)):
        path = folder / f"class{label}" / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def test_digits_are_the_digits_of_scikit_learn():
    found = open_probe_set("digits")
    assert len(found.support) + len(found.query) == 1797 and found.classes == 10
    assert found.support[0].shape == (8, 8) and max(image.max() for image in found.query) == 255
    assert abs(len(found.support) - len(found.query)) <= 10
    assert found.fingerprint == open_probe_set("digits").fingerprint


@pytest.mark.slow
def test_mnist_has_250_of_each_digit_on_either_side():
    found = open_probe_set("mnist")
    assert (np.bincount(found.support_labels) == 250).all() and (np.bincount(found.query_labels) == 250).all()
    assert found.support[0].shape == (28, 28)


def test_unseen_classes_are_balanced_and_their_own():
    found = open_probe_set("unseen-strokes")
    assert (np.bincount(found.support_labels) == 30).all() and found.classes == 64
    trained = Procedural("strokes", 64, 32, seed=0)
    same = (trained.images(np.arange(64)).numpy() == np.stack([found.support[i] for i in range(64)])).all(
        (1, 2, 3)
    )
    assert not same.any()


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_npz_with_a_split_keeps_it(tmp_path, channels):
    x, y = arrays(channels=channels)
    split = np.array([0, 1, 0, 0, 0, 1] * 2)
    np.savez(tmp_path / "mine.npz", x=x, y=y, split=split)
    found = open_probe_set(str(tmp_path / "mine.npz"))
    assert is_probe_set(str(tmp_path / "mine.npz")) and found.name == "mine"
    assert (np.stack(list(found.support)).reshape(x[split == 0].shape) == x[split == 0]).all()
    assert (found.query_labels == y[split == 1]).all()


def test_npz_without_a_split_is_halved_by_class(tmp_path):
    x, y = arrays(n=18)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    found = open_probe_set(str(tmp_path / "a.npz"))
    assert (np.bincount(found.support_labels) == 3).all() and (np.bincount(found.query_labels) == 3).all()
    both = {image.tobytes() for image in [*found.support, *found.query]}
    assert both == {image.tobytes() for image in x}


def test_folders_of_classes_with_and_without_halves(tmp_path):
    x, y = arrays(channels=(3,))
    save_images(tmp_path / "flat", x, y)
    save_images(tmp_path / "split" / "train", x[:9], y[:9])
    save_images(tmp_path / "split" / "val", x[9:], y[9:])
    flat, split = open_probe_set(str(tmp_path / "flat")), open_probe_set(str(tmp_path / "split"))
    assert sorted({*flat.support_labels}) == ["class0", "class1", "class2"]
    assert len(flat.support) == len(flat.query) == 6
    assert len(split.support) == 9
    assert (split.query[0] == x[9]).all() and split.query_labels[0] == f"class{y[9]}"
    assert flat.fingerprint != split.fingerprint
    assert is_probe_set(str(tmp_path / "flat")) and is_probe_set(str(tmp_path / "split"))


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "Testing"), ("TRAIN", "valid")])
def test_halves_are_known_by_many_names(tmp_path, names):
    x, y = arrays(channels=(3,))
    for name, part in zip(names, (slice(9), slice(9, None))):
        save_images(tmp_path / name, x[part], y[part])
    found = open_probe_set(str(tmp_path))
    assert (len(found.support), len(found.query), found.classes) == (9, 3, 3)


def test_grey_and_palette_files_become_colour(tmp_path):
    x, y = arrays(n=8, classes=2)
    save_images(tmp_path, x, y)
    assert open_probe_set(str(tmp_path)).support[0].shape == (6, 5, 3)


def png(image):
    out = io.BytesIO()
    Image.fromarray(image).save(out, "png")
    return out.getvalue()


def write_table(path, x, y, **columns):
    rows = {"image": [{"bytes": png(image), "path": None} for image in x], "label": y.tolist(), **columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), path)


def write_tar(path, x, y):
    with tarfile.open(path, "w") as tar:
        for i, (image, label) in enumerate(zip(x, y)):
            for ending, data in (("png", png(image)), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{i:03}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def test_parquet_and_tars_are_halved_or_say_their_half(tmp_path):
    x, y = arrays(channels=(3,))
    write_table(tmp_path / "all.parquet", x, y)
    write_table(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", x[:9], y[:9])
    write_table(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet", x[9:], y[9:])
    write_tar(tmp_path / "all.tar", x, y)
    table, tar, hub = (open_probe_set(str(tmp_path / name)) for name in ("all.parquet", "all.tar", "hub"))
    assert (np.bincount(table.support_labels) == 2).all()
    assert {image.tobytes() for image in [*table.support, *table.query]} == {image.tobytes() for image in x}
    assert all((a == b).all() for a, b in zip(table.support, tar.support, strict=True))
    assert table.fingerprint == tar.fingerprint != hub.fingerprint
    assert (np.stack(list(hub.query)) == x[9:]).all() and (hub.query_labels == y[9:]).all()
    assert all(is_probe_set(str(tmp_path / name)) for name in ("all.parquet", "all.tar", "hub"))


def halves_are(found, x, y, first=9):
    assert (np.stack(list(found.support)) == x[:first]).all() and (found.support_labels == y[:first]).all()
    assert (np.stack(list(found.query)) == x[first:]).all() and (found.query_labels == y[first:]).all()


def test_shards_in_folders_of_halves_and_a_column_that_tells_them(tmp_path):
    x, y = arrays(channels=(3,))
    for folder, part in (("Train", slice(9)), ("validation", slice(9, None))):
        (tmp_path / "tars" / folder).mkdir(parents=True)
        write_tar(tmp_path / "tars" / folder / "00000.tar", x[part], y[part])
    halves_are(open_probe_set(str(tmp_path / "tars")), x, y)
    write_table(tmp_path / "column.parquet", x, y, split=["train"] * 9 + ["test"] * 3)
    halves_are(open_probe_set(str(tmp_path / "column.parquet")), x, y)
    write_table(tmp_path / "odd.parquet", x, y, split=["train"] * 9 + ["later"] * 3)
    odd = open_dataset(str(tmp_path / "odd.parquet"))
    assert (odd.samples, odd.split, odd.left_out.counts) == (9, "train", {"a row that names no split": 3})


def test_labels_of_tables_may_be_words_and_a_test_half_without_labels_is_no_half(tmp_path):
    x, y = arrays(channels=(3,))
    words = np.array(["cat", "Ant", "ärmel"])[y]
    write_table(tmp_path / "hub" / "train-0.parquet", x[:2], words[:2])
    write_table(tmp_path / "hub" / "train-1.parquet", x[2:9], words[2:9])
    write_table(tmp_path / "hub" / "validation-0.parquet", x[9:], words[9:])
    write_table(tmp_path / "hub" / "test-0.parquet", x[:2], np.array([-1, -1]))
    halves_are(open_probe_set(str(tmp_path / "hub")), x, words)
    write_table(tmp_path / "none.parquet", x, np.full(12, -1))
    with pytest.raises(
        ValueError, match="row 0 of group 0 has 0 labels, where one is needed; its columns: image, label"
    ):
        open_probe_set(str(tmp_path / "none.parquet"))


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes()))


def test_fashion_is_read_from_debians_files(tmp_path, monkeypatch):
    x, y = arrays()
    folder = tmp_path / "dataset-fashion-mnist"
    folder.mkdir()
    monkeypatch.setattr(builtin, "DEBIAN", tmp_path)
    with pytest.raises(ValueError, match="apt install dataset-fashion-mnist"):
        open_probe_set("fashion")
    for name, images, labels in (("train", x[:9], y[:9]), ("t10k", x[9:], y[9:])):
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", labels.astype(np.uint8))
    found = open_probe_set("fashion")
    assert (np.stack(list(found.support)) == x[:9]).all() and (found.query_labels == y[9:]).all()
    assert open_probe_set(str(folder)).fingerprint == found.fingerprint and is_probe_set(str(folder))


def test_models_are_no_sets(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    np.savez(tmp_path / "weights.npz", **{"params/head/bias": np.zeros(3)})
    assert not is_probe_set(str(tmp_path)) and not is_probe_set(str(tmp_path / "weights.npz"))
    assert not is_probe_set("timm:vit_tiny_patch16_224")


MISTAKES = [
    ("no arrays x and y; there: x", lambda x, y: {"x": x}),
    ("x must be uint8", lambda x, y: {"x": x + 0j, "y": y}),
    ("x must be uint8", lambda x, y: {"x": x[:, 0], "y": y}),
    ("one label for each of 12 images", lambda x, y: {"x": x, "y": y[:-1]}),
    ("the query set is empty", lambda x, y: {"x": x, "y": y, "split": 0 * y}),
    ("the support set is empty", lambda x, y: {"x": x, "y": y, "split": 0 * y + 1}),
    ("split must hold a 0", lambda x, y: {"x": x, "y": y, "split": y}),
    ("without a support image: 2$", lambda x, y: {"x": x, "y": y, "split": (y == 2) * 1}),
    ("one class only", lambda x, y: {"x": x, "y": 0 * y}),
]


@pytest.mark.parametrize(("message", "spoil"), MISTAKES)
def test_mistakes_name_the_file(tmp_path, message, spoil):
    np.savez(tmp_path / "bad.npz", **spoil(*arrays()))
    with pytest.raises(ValueError, match=message) as error:
        open_probe_set(str(tmp_path / "bad.npz"))
    assert "bad.npz" in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_cut_or_no_images_are_named(tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"PK\3\4 and then nothing")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name, message in (("cut", "not a whole .npz file"), ("other", "no arrays x and y; there: a")):
        assert is_probe_set(str(tmp_path / f"{name}.npz"))
        with pytest.raises(ValueError, match=message):
            open_probe_set(str(tmp_path / f"{name}.npz"))


def test_unknown_names_empty_folders_and_broken_files(tmp_path):
    with pytest.raises(ValueError, match=r"no data set, \.npz or folder 'digit'; nearest names: digits"):
        open_probe_set("digit")
    with pytest.raises(ValueError, match="no folder for each class, and no image"):
        open_probe_set(str(tmp_path))
    save_images(tmp_path, *arrays())
    for path in tmp_path.rglob("000.png"):
        path.write_text("no image")
    found = open_probe_set(str(tmp_path))
    with pytest.raises(ValueError, match=r"000.png.* image|image.*000.png"):
        list(found.support), list(found.query)


def test_photographs_have_their_left_halves_as_support():
    found = open_probe_set("photographs")
    assert found.classes == 6 and len(found.support) == len(found.query) == 360
    from sklearn.datasets import load_sample_images

    temple = load_sample_images().images[0]
    left, right = temple[:, :320], temple[:, 320:]
    for half, part in ((left, found.support[0]), (right, found.query[0])):
        windows = np.lib.stride_tricks.sliding_window_view(half[:143], (48, 48, 3))
        assert (windows[:, :, 0] == part).all(axis=(2, 3, 4)).any()


def test_big_sets_are_told_apart_by_names_sizes_times_and_a_sample(tmp_path, monkeypatch):
    x, y = arrays(channels=(3,))
    save_images(tmp_path / "flat", x, y)

    def opened():
        """The fingerprint, and how many files were read for it."""
        read, counted = image_files.read_regular, []
        with monkeypatch.context() as patch:
            patch.setattr(image_files, "read_regular", lambda path: counted.append(path) or read(path))
            return open_probe_set(str(tmp_path / "flat")).fingerprint, len(counted)

    small, every = opened()
    monkeypatch.setattr(probe_set, "ALL_BYTES", 100)
    monkeypatch.setattr(probe_set, "SAMPLED", 3)
    big, few = opened()
    assert (every, few) == (12, 3) and opened()[0] == big != small
    os.utime(next(iter((tmp_path / "flat" / "class1").iterdir())), ns=(1, 1))
    assert opened()[0] != big


def layouts(x, y, split):
    """The same images in every spelling: colour, 0 to 255, channels last."""
    first, second = split == 0, split == 1
    words = np.where(split == 0, "train", "Test")
    return {
        "plain": {"x": x, "y": y, "split": split},
        "words": {"x": x, "y": y, "split": words},
        "flags": {"x": x, "y": y, "split": split == 1},
        "named": {"images": x, "labels": y, "split": split},
        "capitals": {"X": x, "Y": y, "Split": split},
        "data": {"data": x, "target": y, "split": split},
        "one hot": {"x": x, "y": np.eye(3)[y.astype(int)], "split": split},
        "validation": {"x_train": x[first], "y_train": y[first], "x_val": x[second], "y_val": y[second]},
        "three words": {
            "x": np.concatenate([x, x[:1]]), "y": np.concatenate([y, y[:1]]),
            "split": np.concatenate([words, ["val"]]),
        },
        "keras": {"x_train": x[first], "y_train": y[first], "x_test": x[second], "y_test": y[second]},
        "medmnist": {
            "train_images": x[first], "train_labels": y[first][:, None], "val_images": x[:1],
            "val_labels": y[:1, None], "test_images": x[second], "test_labels": y[second][:, None],
        },
        "channels first": {"x": x.transpose(0, 3, 1, 2), "y": y, "split": split},
        "unit floats": {"x": (x / 255).astype(np.float32), "y": y.astype(float), "split": split},
        "floats": {"x": x.astype(np.float64), "y": y, "split": split},
        "wide": {"x": x.astype(np.int64), "y": y, "split": split},
    }  # fmt: skip


@pytest.mark.parametrize("name", layouts(np.zeros((1, 1, 1, 1)), np.zeros(1), np.zeros(1)))
def test_arrays_in_every_spelling_are_the_same_set(tmp_path, name):
    x, y = arrays(channels=(3,))
    x[0, 0, 0] = 255, 0, 1
    split = np.arange(len(y)) // 9
    np.savez(tmp_path / "set.npz", **layouts(x, y, split)[name])
    assert is_probe_set(str(tmp_path / "set.npz"))
    found = open_probe_set(str(tmp_path / "set.npz"))
    assert found.support.dtype == np.uint8 and (found.support == x[:9]).all() and (found.query == x[9:]).all()
    assert (found.support_labels == y[:9]).all() and (found.query_labels == y[9:]).all()


@pytest.mark.parametrize("spoil", [-1.0, 256.0, np.nan])
def test_pixels_that_are_none_are_named(tmp_path, spoil):
    x, y = arrays(channels=(3,))
    x = x.astype(np.float32)
    x[3, 1, 1, 1] = spoil
    np.savez(tmp_path / "set.npz", x=x, y=y)
    with pytest.raises(ValueError, match=r"set\.npz: x: pixels must lie in 0 to 255"):
        open_probe_set(str(tmp_path / "set.npz"))
