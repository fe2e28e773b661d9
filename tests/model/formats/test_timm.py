"""timm's models become ours with equal outputs, and ours load in timm without a line of our code."""

import json
from dataclasses import replace

import pytest
import torch

from scalevit.config.run import Model, Preprocessing
from scalevit.model import weights
from scalevit.model.formats import timm as format_timm
from scalevit.model.vit import ViT

timm = pytest.importorskip("timm")
TINY = Model(shape="Ti/4", width=32, depth=2, mlp=48, heads=4, patch=4, image=16, classes=5)
SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 4, "img_size": 64, "num_classes": 7}


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return module.eval()


def images(side):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def outputs(*models, side):
    with torch.no_grad():
        return [model.eval()(images(side)) for model in models]


def close(ours, theirs, tolerance=1e-5):
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


GAP = {"class_token": False, "global_pool": "avg", "fc_norm": False}
#: name at timm, arguments; what is special about it
MODELS = [
    ("vit_small_patch16_224", {"depth": 2, "img_size": 64}),
    ("vit_small_patch16_224", {"depth": 2, "img_size": 64, **GAP}),
    ("vit_base_patch16_siglip_224", SMALL),
    ("vit_giantopt_patch16_siglip_256", SMALL),  # tanh GELU
    ("vit_small_patch16_224", {**SMALL, "global_pool": "avg"}),  # norm after pooling, class token not pooled
    ("vit_medium_patch16_reg4_gap_256", SMALL),
    ("vit_so150m_patch16_reg4_map_256", SMALL),
    ("vit_small_patch14_reg4_dinov2", {**SMALL, "img_size": 56}),  # layer scale
    ("vit_gigantic_patch14_clip_224", {**SMALL, "img_size": 56}),  # pre-norm, epsilon 1e-5
    ("vit_base_patch16_clip_quickgelu_224", SMALL),
    pytest.param("vit_small_patch16_224", {}, marks=pytest.mark.slow),  # whole S/16, class token and GAP
    pytest.param("vit_small_patch16_224", GAP, marks=pytest.mark.slow),
    pytest.param("vit_so400m_patch14_siglip_224", {"depth": 3, "num_classes": 0}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "args"), MODELS)
def test_outputs_are_timms_and_the_round_trip_is_identical(tmp_path, name, args):
    theirs = randomised(timm.create_model(name, **args))
    package = format_timm.from_module(theirs)
    ours = ViT(package.config, device="meta")
    ours.load_state_dict(package.state, assign=True)
    ours.preprocessing = package.preprocessing
    side = package.config.image
    close(*outputs(ours, theirs, side=side))

    weights.write(ours, tmp_path / "m", "timm")
    again = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True)
    assert again.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in theirs.state_dict().items())
    assert torch.equal(*outputs(again, theirs, side=side))
    assert tuple(again.pretrained_cfg["mean"]) == tuple(theirs.pretrained_cfg["mean"])


@pytest.mark.parametrize("change", [
    {}, {"pool": "gap", "positions": "sincos2d"}, {"pool": "token", "registers": 2, "qk_norm": True},
    {"pool": "gap", "class_token": True, "prefix_positions": True, "pooled_norm": True, "norm_eps": 1e-5},
])  # fmt: skip
def test_our_models_load_in_timm(tmp_path, change):
    ours = randomised(ViT(replace(TINY, **change)))
    weights.save(ours, tmp_path / "m")
    close(*outputs(ours, timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True), side=16))


@pytest.mark.parametrize(
    ("pool", "args"),
    [
        ("map", {"global_pool": "map", "class_token": False}),
        ("gap", {"global_pool": "avg", "class_token": False, "fc_norm": False}),
        ("token", {"no_embed_class": True}),
    ],
)
def test_our_npz_is_what_timm_takes_for_big_visions(tmp_path, pool, args):
    """timm has a reader of big_vision's files of its own."""
    ours = randomised(ViT(replace(TINY, pool=pool)))
    weights.write(ours, tmp_path / "w.npz", "bigvision")
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 1.5}
    theirs = timm.create_model("vit_base_patch16_224", num_classes=5, act_layer="gelu_tanh", **sizes, **args)
    theirs.load_pretrained(str(tmp_path / "w.npz"))
    close(*outputs(ours, theirs, side=16))


@pytest.mark.parametrize("mlp", [48, 49, 3333, 4304, 6144, 8192])
def test_every_mlp_width_survives_timms_ratio(mlp):
    about = format_timm.description(replace(TINY, width=1152, mlp=mlp), Preprocessing())
    assert int(1152 * about["model_args"]["mlp_ratio"]) == mlp


def test_a_folder_that_timm_wrote_loads(tmp_path):
    theirs = randomised(timm.create_model("vit_small_patch16_224", **SMALL))
    timm.models.save_for_hf(theirs, tmp_path / "m", safe_serialization=True, model_args=SMALL)
    for source in (tmp_path / "m", f"local-dir:{tmp_path / 'm'}", f"timm-local:{tmp_path / 'm'}"):
        ours = weights.load(source)
        close(*outputs(ours, theirs, side=64))
    assert ours.preprocessing.crop == 0.9 and ours.preprocessing.interpolation == "bicubic"


def test_wrong_heads_and_missing_tensors_are_named(tmp_path):
    weights.save(ViT(TINY), tmp_path / "m")
    about = json.loads((tmp_path / "m" / "config.json").read_text())
    del about["scalevit"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(about | {"num_classes": 9}))
    with pytest.raises(ValueError, match=r"left over|head.bias is \(5,\) but should be \(9,\)"):
        weights.load(tmp_path / "m")


def test_what_timm_cannot_build_still_saves_but_not_as_timm(tmp_path):
    model = ViT(replace(TINY, pre_logits=True))
    weights.save(model, tmp_path / "m")
    assert "pre-logits" in json.loads((tmp_path / "m" / "config.json").read_text())["timm"]
    with pytest.raises(ValueError, match="no pre-logits layer"):
        weights.write(model, tmp_path / "n", "timm")
    with pytest.raises(ValueError, match="epsilon 1e-06 and 1e-05, this model has 1e-12"):
        weights.write(ViT(replace(TINY, norm_eps=1e-12)), tmp_path / "n", "timm")
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_small_plus_patch16_dinov3", "no plain VisionTransformer"),
        ("vit_base_patch16_rpn_224", "ResPostBlock"),
        ("vit_giant_patch14_dinov2", "GluMlp"),
        ("resnet18", "no plain VisionTransformer"),
    ],
)
def test_other_architectures_are_refused(name, message):
    with torch.device("meta"):
        module = timm.create_model(name)
    with pytest.raises(ValueError, match=message):
        format_timm.config_of(module)


def test_what_timm_cannot_build_is_one_line(tmp_path):
    weights.save(ViT(TINY), tmp_path / "m")
    for change, message in [
        ({"model_args": {"dpth": 2}}, "model_args.dpth: no argument"),
        ({"architecture": "vit_huge_p3"}, "timm has no architecture 'vit_huge_p3'; nearest: davit_huge"),
    ]:
        about = json.loads((tmp_path / "m" / "config.json").read_text())
        about.pop("scalevit", None)
        (tmp_path / "m" / "config.json").write_text(json.dumps(about | change))
        with pytest.raises(ValueError, match=message) as caught:
            weights.load(tmp_path / "m")
        assert "\n" not in str(caught.value)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"timm:vit_smal_patch16_224: .*nearest: vit_small_patch16_224"):
        weights.load("timm:vit_smal_patch16_224")
