"""The command writes every format, checks what it wrote, and says a user's mistake in one line."""

import json

import pytest
import torch

from scalevit.cli.main import main
from scalevit.config.run import Model
from scalevit.model import weights
from scalevit.model.vit import ViT

TINY = Model(shape="Ti/4", width=32, depth=1, mlp=48, heads=4, patch=4, image=16, classes=5)


@pytest.fixture
def run(tmp_path):
    model, generator = ViT(TINY), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    weights.save(model, tmp_path / "run" / "model")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("target", "out"), [("scalevit", "m"), ("timm", "m"), ("bigvision", "m.npz"), ("hf", "m")]
)
def test_what_was_written_computes_the_same(run, capsys, target, out):
    out = run.parent / "out" / out
    assert main(["convert", str(run), str(out), "--to", target, "--features", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["largest_difference"] <= 1e-6
    assert data["model"]["classes"] == 0 and data["model"]["heads"] == 4
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(weights.load(out)(images), weights.load(run).features(images))


def test_positions_are_resampled_on_the_way(run, capsys):
    assert main(["convert", str(run), str(run.parent / "large"), "--image", "32"]) == 0
    assert "image 32, map pooling, 5 classes" in capsys.readouterr().out
    assert weights.load(run.parent / "large").pos_embed.shape[1] == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent", "out"], "absent: no such file or folder"),
        (["{run}", "out", "--to", "hf"], "leave it out with --features"),
        (["{run}", "out", "--to", "bigvision"], "ends in .npz"),
        (["{run}", "out", "--to", "caffe"], "invalid choice: 'caffe'"),
        (["{run}", "out", "--image", "18"], "not divisible by patches of 4"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(run, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(run.parent)
    assert main(["convert", *[word.format(run=run) for word in arguments]]) == 2
    error = capsys.readouterr().err
    assert message in error and error.strip().count("\n") == 0
    assert not (run.parent / "out").exists()
