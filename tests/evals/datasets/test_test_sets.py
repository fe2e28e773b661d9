"""Stand-ins of the usual layouts, read by a model that knows the answer from an image's brightness."""

import argparse
import json

import numpy as np
import pytest
import torch
from PIL import Image

from scalevit.cli import evaluate
from scalevit.evals import backbones
from scalevit.evals.backbones import LAST_LAYER, LOGITS, Backbone
from scalevit.evals.datasets.test_sets import open_test_sets
from scalevit.evals.datasets.wordnet import synsets
from scalevit.evals.features import Preprocessing


def brightness(outputs):
    """Names class k for an image of grey value 200 · k / outputs."""

    def run(images, wanted):
        level = (images.mean((1, 2, 3)) * 255 * outputs / 200)[:, None]
        logits = -((level - torch.arange(outputs)) ** 2)
        return {LOGITS: logits, LAST_LAYER: level}

    plain = Preprocessing((0.0,) * 3, (1.0,) * 3, crop=1.0)
    return Backbone("brightness", run, (LAST_LAYER,), 8, plain, None, outputs=outputs)


def image(path, k, outputs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((9, 12, 3), round(200 * k / outputs), np.uint8)).save(path)


def run(monkeypatch, outputs, *data, **options):
    monkeypatch.setattr(backbones, "open_model", lambda word, **options: brightness(outputs))
    parser = argparse.ArgumentParser()
    evaluate.arguments(parser)
    words = ["model", *map(str, data)]
    for name, value in options.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return evaluate.main(parser.parse_args(words))


def top1(answer):
    return [m["top1"] for m in answer.data["results"].values()]


def test_numbered_folders_are_in_numerical_order(tmp_path, monkeypatch):
    for k in range(12):  # as text, 10 and 11 come before 2
        image(tmp_path / str(k) / "a.png", k, 12)
    answer = run(monkeypatch, 12, tmp_path)
    assert top1(answer) == [1.0] and "100.00" in answer.text


def test_wordnet_folders_whole_and_in_part(tmp_path, monkeypatch):
    """A and R: some of the 1000 classes, named by id; a head of as many classes takes them in order."""
    ids = synsets()
    for k in (0, 150, 998):
        image(tmp_path / ids[k] / "a.png", k, 1000)
    (test,) = open_test_sets(str(tmp_path), 1000)
    assert list(test.truth) == [(0,), (150,), (998,)]
    assert open_test_sets(str(tmp_path), 3)[0].truth == [(0,), (1,), (2,)]
    assert top1(run(monkeypatch, 1000, tmp_path, restrict=True)) == [1.0]
    with pytest.raises(ValueError, match=r"3 folders for a head of 20 classes; say which is which \(--map\)"):
        open_test_sets(str(tmp_path), 20)


def test_a_map_names_several_classes_and_leaves_folders_out(tmp_path, monkeypatch):
    for name, k in (("chair", 1), ("Armchair", 2), ("unknown", 3)):
        image(tmp_path / "objects" / name / "a.png", k, 4)
    (tmp_path / "map.json").write_text(json.dumps({"chair": [0, 1], "Armchair": 3}))
    answer = run(monkeypatch, 4, tmp_path / "objects", map=tmp_path / "map.json")
    (found,) = answer.data["results"].values()
    assert found["images"] == 2 and found["unlabelled"] == 1 and found["top1"] == 0.5


def test_flat_folders_take_labels_by_name_by_order_and_from_real(tmp_path, monkeypatch):
    flat = tmp_path / "val"
    for number, k in ((1, 2), (2, 0), (3, 1)):
        image(flat / f"ILSVRC2012_val_{number:08}.png", k, 4)
    (tmp_path / "order.txt").write_text("2\n0\n1\n")
    (tmp_path / "names.txt").write_text(
        "".join(f"ILSVRC2012_val_{n:08}.png {k}\n" for n, k in ((3, 1), (2, 0), (1, 3)))
    )
    (tmp_path / "real.json").write_text(json.dumps([[2, 3], [], [0]] + [[]] * 49_997))
    assert top1(run(monkeypatch, 4, flat, labels=tmp_path / "order.txt")) == [1.0]
    assert top1(run(monkeypatch, 4, flat, labels=tmp_path / "names.txt")) == [pytest.approx(2 / 3)]
    (real,) = run(monkeypatch, 4, flat, labels=tmp_path / "real.json").data["results"].values()
    assert (real["images"], real["top1"]) == (2, 0.5)
    (tmp_path / "order.txt").write_text("2\n0\n")
    with pytest.raises(ValueError, match="2 labels for 3 images"):
        run(monkeypatch, 4, flat, labels=tmp_path / "order.txt")


def test_lists_of_labels_may_hold_wordnet_ids_and_columns(tmp_path):
    """As val.txt, Kaggle's LOC_val_solution.csv (with boxes), and a list of ids a line hold them."""
    ids, flat = synsets(), tmp_path / "val"
    for number in (1, 2):
        image(flat / f"ILSVRC2012_val_{number:08}.png", 0, 4)
    solution = (
        "ImageId,PredictionString\nILSVRC2012_val_00000002,{} 1 2 3 4\nILSVRC2012_val_00000001,{} 5 6 7 8\n"
    )
    (tmp_path / "kaggle.csv").write_text(solution.format(ids[7], ids[998]))
    (tmp_path / "ids.txt").write_text(f"{ids[998]}\n{ids[7]}\n")
    (tmp_path / "named.json").write_text(
        json.dumps({f"ILSVRC2012_val_{n:08}": k for n, k in ((2, 7), (1, [998]))})
    )
    for name in ("kaggle.csv", "ids.txt", "named.json"):
        assert open_test_sets(str(flat), 1000, labels=tmp_path / name)[0].truth == [(998,), (7,)]
    (tmp_path / "words.txt").write_text("0\ntench\n")
    with pytest.raises(
        ValueError, match=r"words\.txt: a class must be a number or a WordNet id, found 'tench'"
    ):
        open_test_sets(str(flat), 1000, labels=tmp_path / "words.txt")


def test_heads_of_all_of_imagenet_are_asked_by_wordnet_id(tmp_path):
    """Folders of ids, V2's numbers and ReaL's, for the 21 843 outputs of the authors' public weights."""
    ids, every = synsets(), synsets(21_843)
    image(tmp_path / "a" / ids[150] / "a.png", 0, 4)
    assert open_test_sets(str(tmp_path / "a"), 21_843)[0].truth == [(every.index(ids[150]),)]
    for k in range(1000):
        (tmp_path / "v2" / str(k)).mkdir(parents=True)
    image(tmp_path / "v2" / "10" / "a.png", 0, 4)
    assert open_test_sets(str(tmp_path / "v2"), 21_843)[0].truth == [(every.index(ids[10]),)]
    assert open_test_sets(str(tmp_path / "v2"), 1000)[0].truth == [(10,)]
    image(tmp_path / "val" / "ILSVRC2012_val_00000002.png", 0, 4)  # whose ReaL labels are 970 and 795
    (found,) = open_test_sets(str(tmp_path / "val"), 21_843, real=True)
    assert found.truth == [(every.index(ids[970]), every.index(ids[795]))]
    assert open_test_sets(str(tmp_path / "val"), 1000, real=True)[0].truth == [(970, 795)]


def test_objectnet_as_it_is_given_away(tmp_path, monkeypatch):
    """Two folders that mean classes of ImageNet, one of them two, and one that means none; a red border."""
    root = tmp_path / "objectnet-1.0"
    for name, k in (("alarm_clock", 410), ("band_aid", 420), ("air_freshener", 5)):
        image(root / "images" / name / "a.png", k, 1000)
        path = root / "images" / name / "a.png"
        framed = np.full((13, 16, 3), (255, 0, 0), np.uint8)
        framed[2:-2, 2:-2] = np.asarray(Image.open(path))
        Image.fromarray(framed).save(path)
    folder = root / "mappings"
    folder.mkdir()
    labels = {"alarm_clock": "Alarm clock", "band_aid": "Band Aid", "air_freshener": "Air freshener"}
    lines = ["Band Aid", "digital clock", "analog clock"]
    (folder / "folder_to_objectnet_label.json").write_text(json.dumps(labels))
    (folder / "imagenet_to_label_2012_v2").write_text("\n".join(lines) + "\n")
    (folder / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps({"420": 0, "530": 1, "410": 2}))
    known = {"Alarm clock": "analog clock; digital clock", "Band Aid": "Band Aid"}
    (folder / "objectnet_to_imagenet_1k.json").write_text(json.dumps(known))
    for target in (root, root / "images"):
        (found,) = run(monkeypatch, 1000, target).data["results"].values()
        assert (found["images"], found["unlabelled"], found["top1"]) == (2, 1, 1.0)
    (folder / "imagenet_to_label_2012_v2").write_text("Band Aid\n")
    with pytest.raises(ValueError, match="not ObjectNet's mappings") as error:
        open_test_sets(str(root), 1000)
    assert "\n" not in str(error.value)


def test_a_folder_of_halves_is_its_test_half_and_misses_no_number(tmp_path, monkeypatch):
    for name, k in (("ant", 0), ("bee", 1), ("cat", 2)):
        image(tmp_path / "Train" / name / "a.png", 0, 3)
        if name != "ant":
            image(tmp_path / "Val" / name / "a.png", k, 3)
    answer = run(monkeypatch, 3, tmp_path)
    assert top1(answer) == [1.0] and "class 2 cat: 100.0 % of 1" in answer.text
    assert list(answer.data["results"]) == [tmp_path.name]
    image(tmp_path / "Val" / "dog" / "a.png", 0, 3)
    with pytest.raises(ValueError, match=r"dog is no class of its train split \(ant, bee, cat\)"):
        run(monkeypatch, 3, tmp_path)


def test_sets_of_one_name_are_kept_apart(tmp_path, monkeypatch):
    for folder in ("a", "b"):
        for k in range(3):
            image(tmp_path / folder / "val" / str(k) / "a.png", k if folder == "a" else 0, 3)
    answer = run(monkeypatch, 3, tmp_path / "a" / "val", tmp_path / "b" / "val")
    assert top1(answer) == [1.0, pytest.approx(1 / 3)]


def test_corruptions_are_apart_and_averaged(tmp_path, monkeypatch):
    for corruption, shift in (("fog", 0), ("blur", 1)):
        for severity in (1, 2):
            for k in range(3):
                image(tmp_path / corruption / str(severity) / f"{k}" / "a.png", k + shift * (severity - 1), 3)
    answer = run(monkeypatch, 3, tmp_path)
    assert list(answer.data["results"]) == ["blur 1", "blur 2", "fog 1", "fog 2"]
    assert answer.data["corruption_error"]["fog"] == 0
    assert answer.data["corruption_error"]["blur"] == pytest.approx((0 + 2 / 3) / 2)
    assert answer.data["mean_corruption_error"] == pytest.approx(1 / 6)
    assert "mean error over corruptions: 16.67 %" in answer.text


def test_arrays_keep_their_query_half_and_a_missing_head_is_said(tmp_path, monkeypatch):
    x = np.stack([np.full((8, 8), round(200 * k / 3), np.uint8) for k in (0, 1, 2, 0, 1, 2)])
    np.savez(tmp_path / "a.npz", x=x, y=[0, 1, 2, 0, 1, 0], split=[0, 0, 0, 1, 1, 1])
    assert top1(run(monkeypatch, 3, tmp_path / "a.npz")) == [pytest.approx(2 / 3)]
    with pytest.raises(ValueError, match="has no head; scalevit probe measures its features"):
        run(monkeypatch, 0, tmp_path / "a.npz")


@pytest.mark.parametrize("crops", [5, 10])
def test_views_at_either_end_are_averaged_with_the_centre(tmp_path, monkeypatch, crops):
    """Left half class 0, right half class 3: the centre says between, corners one or the other."""
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 8:] = 150
    (tmp_path / "0").mkdir()
    Image.fromarray(pixels).save(tmp_path / "0" / "a.png")
    answer = run(monkeypatch, 4, tmp_path, crops=crops)
    levels = torch.tensor([1.5, 0, 0, 3, 3])[:, None]
    share = (-((levels - torch.arange(4)) ** 2)).softmax(1)[:, 0].mean()
    (found,) = answer.data["results"].values()
    assert found["nll"] == pytest.approx(-share.log().item(), rel=1e-3)
    assert answer.data["crops"] == crops
