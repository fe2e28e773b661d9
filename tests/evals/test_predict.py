"""Prediction of image files: probabilities, features, images that cannot be read."""

import json

import numpy as np
import pytest
import torch
from pictures import make_folder, make_shards
from PIL import Image

import scalevit as sv
from scalevit.cli.main import main
from scalevit.config.run import Model
from scalevit.data.decode import decode
from scalevit.evals.predict import predict

TINY = Model(shape="mu/4", width=32, depth=1, mlp=64, heads=2, patch=4, image=16, classes=3, head_bias=0.0)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("predict")
    model = sv.ViT(TINY, seed=0)
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    sv.save(model, root / "model")
    make_folder(root / "photos", 7)
    make_shards(root / "photos", root / "shards", "tar", 2)
    return root, model


def probabilities(model, path):
    """Closed form: the pixels of one image through preprocessing, model and softmax."""
    pixels = torch.from_numpy(np.array(decode(path.read_bytes(), path.name))).permute(2, 0, 1)[None].float()
    short = round(16 / 0.875)
    scale = short / min(pixels.shape[-2:])
    size = [max(16, round(side * scale)) for side in pixels.shape[-2:]]
    x = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
    top, left = (size[0] - 16) // 2, (size[1] - 16) // 2
    x = x.clamp(0, 255)[:, :, top : top + 16, left : left + 16] / 127.5 - 1
    with torch.no_grad():
        return model(x).softmax(-1)[0]


def test_probabilities_are_the_models(places):
    root, model = places
    path = root / "photos" / "ant" / "000.jpg"
    (found,) = predict(root / "model", path, top=3)
    wanted = probabilities(model, path)
    assert list(found.probabilities) == pytest.approx(wanted.sort(descending=True).values.tolist(), abs=1e-5)
    assert [int(name) for name in found.classes] == wanted.argsort(descending=True).tolist()
    assert found.best == str(int(wanted.argmax()))


def test_preprocess_takes_paths_arrays_and_pil_images_alike(places):
    root, model = places
    path = root / "photos" / "ant" / "000.jpg"
    with Image.open(path) as picture:
        inputs = [
            sv.preprocess(model, one) for one in (path, decode(path.read_bytes(), ""), picture.convert("RGB"))
        ]
    assert inputs[0].shape == (1, 3, 16, 16)
    assert torch.equal(inputs[0], inputs[1])
    assert (inputs[0] - inputs[2]).abs().mean() < 0.02  # another JPEG decoder
    with torch.no_grad():
        assert model(inputs[0])[0].softmax(-1) == pytest.approx(probabilities(model, path), abs=1e-5)


def test_tokens_and_classes_are_found_under_timms_names(places):
    _, model = places
    images = torch.rand(2, 3, 16, 16)
    tokens = model.forward_features(images)
    assert tokens.shape == (2, 16, 32)
    assert model.num_classes == 3
    stages = {}
    model.features(images, stages)
    assert torch.equal(tokens, model.norm(stages["encoded"]))


def test_folders_files_and_shards_agree(places):
    root, _ = places
    folder = predict(root / "model", root / "photos")
    assert len(folder) == 7
    files = predict(root / "model", [p.image for p in folder])
    assert [(p.image, p.classes) for p in files] == [(p.image, p.classes) for p in folder]
    shards = predict(root / "model", root / "shards")
    assert sorted(p.probabilities[0] for p in shards) == pytest.approx(
        sorted(p.probabilities[0] for p in folder)
    )


def test_an_image_that_cannot_be_read_costs_itself(places, tmp_path, capsys):
    root, _ = places
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "=1+1.jpg").write_bytes((root / "photos" / "ant" / "000.jpg").read_bytes())
    table = tmp_path / "out.csv"
    (tmp_path / "notes.docx").write_bytes(b"no image either")
    assert main(["predict", str(root / "model"), str(tmp_path), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["predictions"]
    assert [bool(row["error"]) for row in rows] == [False, True]
    assert main(["predict", str(root / "model"), str(tmp_path), "--csv", str(table), "--quiet"]) == 1
    said = capsys.readouterr()
    assert "2 images, 1 of which cannot be read" in said.out
    assert "broken.jpg" in said.out
    assert "1 left out: not an image" in said.out
    assert "notes.docx" in said.out
    assert said.err == ""
    assert len(table.read_text().splitlines()) == 3


def test_features_are_the_models_in_the_order_of_the_names(places, tmp_path, capsys):
    root, _ = places
    out = tmp_path / "features.npy"
    assert main(["predict", str(root / "model"), str(root / "photos"), "--features", str(out)]) == 0
    names = json.loads((tmp_path / "features.names.json").read_text())
    table = np.load(out)
    assert table.shape == (7, 32)
    assert names == sorted(names)
    parquet = pytest.importorskip("pyarrow.parquet")
    assert (
        main(["predict", str(root / "model"), str(root / "photos"), "--features", f"{tmp_path}/f.parquet"])
        == 0
    )
    read = parquet.read_table(tmp_path / "f.parquet").to_pydict()
    assert read["image"] == names
    assert np.array(read["features"], np.float32) == pytest.approx(table)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model", "nowhere.jpg"], "no such file"),
        (["model", "empty"], "no image"),
        (["model", "photos", "--top", "0"], "--top must be at least 1"),
        (["model", "photos", "--features", "f.csv"], ".npy or .parquet"),
        (["model", "photos", "--layer", "blocks.0"], "--layer belongs to"),
        (["model", "photos", "--features", "f.npy", "--layer", "blocks.9"], "has no layer"),
        (["headless", "photos"], "has no head"),
    ],
)
def test_mistakes_are_one_line(places, monkeypatch, capsys, words, said):
    root, _ = places
    monkeypatch.chdir(root)
    (root / "empty").mkdir(exist_ok=True)
    if not (root / "headless").exists():
        sv.save(sv.ViT(Model(**{**vars(TINY), "classes": 0}), seed=0), root / "headless")
    assert main(["predict", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (root / "f.npy").exists()
