"""Visual towers of open_clip become ours with equal outputs: CLIPA (no norm before the blocks) and laion."""

import json

import pytest
import torch

from scalevit.model import weights
from scalevit.model.formats import openclip

open_clip = pytest.importorskip("open_clip")
SMALL = {"width": 64, "head_width": 16, "layers": 2, "image_size": 56}
TEXT = {"width": 16, "heads": 2, "layers": 1, "vocab_size": 20, "context_length": 4}


def folder(tmp_path, name, **vision):
    """The model and its folder, laid out as open_clip's hub repositories are."""
    config = open_clip.get_model_config(name)
    config = {
        **config,
        "embed_dim": 24,
        "vision_cfg": {**config["vision_cfg"], **SMALL, **vision},
        "text_cfg": TEXT,
    }
    config.pop("custom_text", None)
    theirs, generator = open_clip.CLIP(**config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in theirs.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    torch.save(theirs.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    about = {"model_cfg": config, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    (tmp_path / openclip.CONFIG).write_text(json.dumps(about))
    return theirs.eval()


@pytest.mark.parametrize(
    ("name", "pool", "pre_norm", "gelu"),
    [
        ("ViT-bigG-14-CLIPA", "gap", False, "erf"),
        ("ViT-bigG-14", "token", True, "erf"),
        ("ViT-g-14", "token", True, "erf"),
        ("ViT-H-14-quickgelu", "token", True, "quick"),
    ],
)
def test_outputs_are_open_clips(tmp_path, name, pool, pre_norm, gelu):
    theirs = folder(tmp_path, name)
    ours = weights.load(tmp_path).eval()
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = theirs.visual(images)
        assert (ours(images) - want).abs().max() <= 1e-5 * want.abs().max()
    assert (ours.config.pool, ours.config.pre_norm, ours.config.gelu) == (pool, pre_norm, gelu)
    assert ours.preprocessing.mean == (0.1, 0.2, 0.3) and ours.preprocessing.crop == 1.0


def test_a_tower_goes_on_to_timm(tmp_path):
    """From open_clip through ours into a folder that timm loads: nothing on the way changes an output."""
    timm = pytest.importorskip("timm")
    theirs = folder(tmp_path, "ViT-bigG-14-CLIPA")
    weights.write(weights.load(tmp_path), tmp_path / "out", "timm")
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = theirs.visual(images)
        got = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()(images)
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 3}, "missing: transformer.resblocks.2"),
        ({"head_width": 5}, "heads do not divide"),
        ({"timm_model_name": "vit_base_patch16_siglip_224"}, "load it as timm:vit_base"),
        ({"attentional_pool": True}, "uses attentional_pool"),
    ],
)
def test_a_tower_that_is_not_ours_is_one_line(tmp_path, change, message):
    folder(tmp_path, "ViT-bigG-14")
    about = json.loads((tmp_path / openclip.CONFIG).read_text())
    about["model_cfg"]["vision_cfg"] |= change
    (tmp_path / openclip.CONFIG).write_text(json.dumps(about))
    with pytest.raises(ValueError, match=message) as caught:
        weights.load(tmp_path)
    assert "\n" not in str(caught.value)
