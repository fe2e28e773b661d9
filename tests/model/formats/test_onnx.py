"""ONNX files compute what torch computes, for any batch, and carry the preprocessing."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from scalevit.config.run import Model
from scalevit.model import weights
from scalevit.model.formats import onnx as format_onnx
from scalevit.model.vit import ViT

runtime = pytest.importorskip("onnxruntime")
TINY = Model(shape="Ti/4", width=32, depth=2, mlp=48, heads=4, patch=4, image=16, classes=5, head_bias=1.0)


def randomised(config):
    model, generator = ViT(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return model.eval()


@pytest.mark.slow
def test_onnxruntime_agrees_for_another_batch_size(tmp_path):
    model = randomised(TINY)
    figures = weights.write(model, tmp_path / "m.onnx", "onnx")
    assert figures["largest_difference"] <= 1e-4
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = model(images)
    got = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()
    assert json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"]) == json.loads(
        json.dumps(asdict(model.preprocessing))
    )


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(format_onnx, "_difference", lambda *_: 1e-2)
    monkeypatch.setattr(format_onnx, "_describe", lambda *_: None)
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **_: Path(args[2]).write_text("graph"))
    with pytest.raises(ValueError, match="differs from torch by 1\\.0e-02"):
        weights.write(randomised(TINY), tmp_path / "m.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []
