"""scalevit probe from the command line: any models, any data, floors always beside, mistakes in one line."""

import json

import numpy as np
import pytest

from scalevit.cli import main
from scalevit.config.run import Model
from scalevit.evals import probes
from scalevit.evals.backbones import LAST_LAYER, of_vit
from scalevit.evals.datasets.open import open_probe_set
from scalevit.evals.features import extract
from scalevit.model import weights
from scalevit.model.vit import ViT


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model's folder and an .npz of bright and dark stripes."""
    home = tmp_path_factory.mktemp("probe")
    model = ViT(Model(shape="Ti/8", width=32, depth=2, mlp=64, heads=2, image=16, classes=0), seed=1)
    weights.save(model, home / "model")
    rng, y = np.random.default_rng(0), np.arange(80) % 4
    x = rng.integers(0, 60, (80, 8, 8), np.uint8)
    for i, label in enumerate(y):
        x[i, 2 * label : 2 * label + 2] += 30
    np.savez(home / "stripes.npz", x=x, y=y, split=(np.arange(80) >= 48).astype(int))
    return home


def run(capsys, *words):
    code = main.main(["probe", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_json_holds_the_probes_numbers_and_every_floor(home, capsys):
    words = [
        home / "model",
        home / "stripes.npz",
        "--shots",
        2,
        5,
        "--draws",
        3,
        "--cache",
        home / "cache",
        "--json",
    ]
    code, out, err = run(capsys, *words)
    assert code == 0 and "probing stripes" in err
    answer = json.loads(out)
    assert [r["floor"] for r in answer["results"]] == [
        "",
        "",
        "untrained",
        "untrained",
        "raw pixels",
        "raw pixels",
    ]
    data, model = open_probe_set(str(home / "stripes.npz")), weights.load(home / "model")
    x, z = (
        extract(of_vit(model, "m"), i, whole=True, layers=(LAST_LAYER,))[LAST_LAYER]
        for i in (data.support, data.query)
    )
    expected = probes.few_shot(x, data.support_labels, z, data.query_labels, shots=(2, 5), draws=3)
    assert [tuple(r["accuracies"]) for r in answer["results"][:2]] == [e.accuracies for e in expected]
    pixels = answer["results"][-1]
    assert pixels["shots"] == 5 and pixels["mean"] > 0.5 and pixels["low"] < pixels["mean"] <= pixels["high"]
    assert list((home / "cache").rglob("*.npy"))
    assert run(capsys, *words)[1] == out


def test_text_shows_methods_layers_and_strengths(home, capsys):
    code, out, _ = run(
        capsys, home / "stripes.npz", home / "model", "--shots", "5", "all", "--knn",
        "--nearest-mean", "--layers", "blocks.0", "pooled", "--l2", "1", "1024", "--no-cache", "--draws", 1,
        "--figure", home / "layers.png",
    )  # fmt: skip
    assert code == 0
    lines = [line for line in out.splitlines() if "±" in line and "mean ±" not in line]
    assert len(lines) == (2 + 1 + 1) * (2 + 1 + 1)
    assert "5-shot" in out and "all shots" in out
    assert any("nearest-mean blocks.0" in line for line in lines) and any(
        "raw pixels ridge λ=1 " in line for line in lines
    )
    assert (home / "layers.png").read_bytes()[:4] == b"\x89PNG"


def test_figures_know_their_formats(home, capsys):
    common = (home / "model", home / "stripes.npz", "--shots", 2, 5, "--draws", 2, "--no-cache", "--figure")
    assert run(capsys, *common, home / "curve.svg")[0] == 0
    text = (home / "curve.svg").read_text()
    assert text.count("<path") > 10
    code, _, err = run(capsys, *common, home / "curve.docx")
    assert code == 2 and "the suffix must be one of" in err and "probing" not in err


MISTAKES = [
    (["model", "stripes.npz", "--shots", "20"], "class 0 has 12 support images, fewer than 20 shots"),
    (["model", "stripes.npz", "--shots", "0"], "--shots: expected numbers of at least 1, found '0'"),
    (["model", "stripes.npz", "--l2", "-3e0"], "--l2"),
    (["model", "stripes.npz", "--draws", "0"], "--draws must be at least 1"),
    (
        ["model", "stripes.npz", "--layer", "blocks.7", "--shots", "1"],
        "no layer 'blocks.7'; nearest: blocks.",
    ),
    (["model", "stripes.npz", "--image", "17"], "not divisible by patches of 8"),
    (["model", "stripes.npz", "--image", "-8"], "--image: must be at least 1, found -8"),
    (["model", "stripes.npz", "--pictures", "stripes.npz"], "there is a file of that name, not a folder"),
    (["model", "nothing"], "'nothing' is neither a file or folder nor a data set; known: digits"),
    (["model"], "no data among"),
    (["stripes.npz"], "no model among"),
    (["model", "--suite", "vtab"], "--suite vtab needs --root DIR, with folders caltech101"),
    (["model", "--suite", "paper", "--root", "nowhere"], "--root nowhere: no such folder"),
    (["model", "--suite", "paper", "--root", "."], "none of its data sets is there: imagenet, cifar100"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_mistakes_are_one_line(home, capsys, monkeypatch, words, message):
    monkeypatch.chdir(home)
    code, out, err = run(capsys, *words, "--no-cache")
    last = err.strip().splitlines()[-1]
    assert code == 2 and out == "" and message in last and last.startswith("scalevit: ")
    assert "Traceback" not in err
