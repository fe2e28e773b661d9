"""Stand-ins of the usual layouts, read by a model that knows the answer from an image's brightness."""

import argparse
import json

import numpy as np
import pytest
import torch
from PIL import Image

from scalevit.commands import evaluate
from scalevit.evals import backbones
from scalevit.evals.backbones import LAST, LOGITS, Backbone
from scalevit.evals.features import Preprocessing
from scalevit.evals.testsets import open_tests, synsets


def brightness(outputs):
    """Names class k for an image of grey value 200 · k / outputs."""

    def run(images, wanted):
        level = (images.mean((1, 2, 3)) * 255 * outputs / 200)[:, None]
        logits = -((level - torch.arange(outputs)) ** 2)
        return {LOGITS: logits, LAST: level}

    plain = Preprocessing((0.0,) * 3, (1.0,) * 3, crop=1.0)
    return Backbone("brightness", run, (LAST,), 8, plain, None, outputs=outputs)


def image(path, k, outputs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((9, 12, 3), round(200 * k / outputs), np.uint8)).save(path)


def run(monkeypatch, outputs, *data, **options):
    monkeypatch.setattr(backbones, "open_model", lambda word, image=0, scale="": brightness(outputs))
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
    (test,) = open_tests(str(tmp_path), 1000)
    assert list(test.truth) == [(0,), (150,), (998,)]
    assert open_tests(str(tmp_path), 3)[0].truth == [(0,), (1,), (2,)]
    assert top1(run(monkeypatch, 1000, tmp_path, restrict=True)) == [1.0]
    with pytest.raises(ValueError, match=r"3 folders for a head of 20 classes; say which is which \(--map\)"):
        open_tests(str(tmp_path), 20)


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
