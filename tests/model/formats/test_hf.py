"""transformers' SigLIP and ViT become ours with equal outputs, and ours load there with nothing missing."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from scalevit.config.run import Model, Preprocessing
from scalevit.model import weights
from scalevit.model.vit import ViT

transformers = pytest.importorskip("transformers")
TINY = Model(shape="Ti/4", width=32, depth=2, mlp=48, heads=4, patch=4, image=16, classes=0)
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "image_size": 16, "patch_size": 4,
}  # fmt: skip


def siglip(**changes):
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**{**SMALL, **changes}))


def vit(kind="ViTModel", pooler=True, **changes):
    config = transformers.ViTConfig(**{**SMALL, **changes})
    extra = {} if kind != "ViTModel" or pooler else {"add_pooling_layer": False}
    return getattr(transformers, kind)(config, **extra)


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return module.eval()


def images(side=16):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def answer(module, side=16):
    with torch.no_grad():
        out = module.eval()(images(side))
    if isinstance(out, torch.Tensor):
        return out
    if "logits" in out:
        return out.logits
    return out.last_hidden_state[:, 0] if out.pooler_output is None else out.pooler_output


def close(ours, theirs):
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


#: class at transformers, its model, arguments of from_pretrained
MODELS = {
    "SigLIP": lambda: (siglip(), {}),
    "So400m-shaped SigLIP": lambda: (
        siglip(
            hidden_size=1152, intermediate_size=4304, num_attention_heads=16, patch_size=14, image_size=56
        ),
        {},
    ),
    "ViT with pooler": lambda: (vit(), {}),
    "ViT": lambda: (vit(pooler=False, hidden_act="gelu_pytorch_tanh"), {"add_pooling_layer": False}),
    "classifier": lambda: (vit("ViTForImageClassification", num_labels=3, layer_norm_eps=1e-6), {}),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if "So400m" in n else []) for n in MODELS]
)
def test_outputs_are_theirs_and_the_round_trip_is_identical(tmp_path, name):
    theirs, how = MODELS[name]()
    randomised(theirs).save_pretrained(tmp_path / "theirs")
    ours, side = weights.load(tmp_path / "theirs"), theirs.config.image_size
    close(answer(ours, side), answer(theirs, side))
    assert ours.config.norm_eps == theirs.config.layer_norm_eps

    weights.write(ours, tmp_path / "ours", "hf")
    again, report = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True, **how)
    assert not any(report.values()), report
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in theirs.state_dict().items())
    assert torch.equal(answer(again, side), answer(theirs, side))


def test_the_vision_tower_of_a_whole_siglip_is_taken(tmp_path):
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
            "vocab_size": 49408, "max_position_embeddings": 4, "projection_size": 32}  # fmt: skip
    whole = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=SMALL))
    randomised(whole).save_pretrained(tmp_path / "m")
    close(answer(weights.load(tmp_path / "m")), answer(whole.vision_model))


def test_names_as_transformers_5_has_them_in_memory(tmp_path):
    theirs = randomised(vit("ViTForImageClassification", num_labels=3))
    theirs.config.save_pretrained(tmp_path)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    assert "vit.layers.0.attention.q_proj.weight" in theirs.state_dict()
    close(answer(weights.load(tmp_path)), answer(theirs))


def test_a_file_in_shards_is_read_whole(tmp_path):
    theirs = randomised(siglip())
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    close(answer(weights.load(tmp_path)), answer(theirs))


def test_positions_without_a_class_slot_get_one_of_zeros(tmp_path):
    ours = randomised(ViT(replace(TINY, pool="token", classes=3)))
    weights.write(ours, tmp_path / "m", "hf")
    close(answer(transformers.ViTForImageClassification.from_pretrained(tmp_path / "m")), answer(ours))


def test_preprocessing_travels(tmp_path):
    ours = ViT(TINY)
    ours.preprocessing = Preprocessing(
        mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="nearest", crop=1.0, resize="squash"
    )
    weights.write(ours, tmp_path / "m", "hf")
    assert weights.load(tmp_path / "m").preprocessing == ours.preprocessing
    processor = json.loads((tmp_path / "m" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 16, "width": 16} and processor["resample"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 4}, "no classifier behind its pooling head: leave it out with --features"),
        ({"pool": "gap"}, "mean pooling; try --to timm"),
        ({"pool": "token", "pre_logits": True, "classes": 4}, "either a pooler or a classifier"),
        ({"registers": 1, "qk_norm": True}, "register tokens, normalised queries and keys"),
    ],
)
def test_what_transformers_would_compute_otherwise_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        weights.write(ViT(replace(TINY, **change)), tmp_path / "m", "hf")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "'bert' of transformers; known: vit"),
        ({"num_attention_heads": 5}, "5 heads do not divide the width 32"),
        ({"image_size": 64}, r"position_embedding.weight is \(16, 32\) but should be \(256, 32\)"),
        ({"hidden_act": "relu"}, "activation 'relu'"),
        ({"num_hidden_layers": 3}, r"missing: encoder.layers.2"),
        ({"num_hidden_layers": 1}, r"left over: encoder.layers.1"),
    ],
)
def test_a_description_that_does_not_fit_is_one_line(tmp_path, change, message):
    weights.write(ViT(TINY), tmp_path / "m", "hf")
    about = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(about | change))
    with pytest.raises(ValueError, match=message) as caught:
        weights.load(tmp_path / "m")
    assert "\n" not in str(caught.value)
