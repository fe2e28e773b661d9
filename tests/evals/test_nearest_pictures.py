"""Where pooling looks and what is found alike: against the model's own arithmetic, and in the report."""

import base64
import json
import re

import numpy as np
import pytest
import torch

from scalevit.cli import main
from scalevit.config.run import Model, Preprocessing
from scalevit.evals.attention_maps import attention_maps
from scalevit.evals.backbones import of_vit, open_model
from scalevit.evals.nearest_pictures import nearest_neighbours, spread_over_classes
from scalevit.evals.normalisation import PRESETS, mismatch_warning
from scalevit.model import weights
from scalevit.model.vit import ViT
from scalevit.study.report.run_images import BYTES, PNG, run_images

TINY = {"shape": "Ti/4", "width": 32, "depth": 2, "mlp": 64, "heads": 2, "image": 16, "classes": 0}


def network(pool, **more):
    net = ViT(Model(pool=pool, **TINY, **more), seed=2)
    with torch.no_grad():
        for value in net.parameters():
            value.normal_(std=0.3, generator=torch.Generator().manual_seed(value.numel()))
    return net.eval()


IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.inference_mode()
def test_maps_weights_times_values_are_what_the_pooling_gives():
    net = network("map", registers=2)
    taps = {}
    net.features(IMAGES, taps)
    found = attention_maps(net, IMAGES)
    assert found.shape == (3, 2, 4, 4) and found.sum((-1, -2)) == pytest.approx(1, abs=1e-5)
    pool, tokens = net.attn_pool, net.norm(taps["encoded"])[:, net.prefix :]
    values = pool.kv(tokens).view(3, 16, 2, 2, 16)[:, :, 1]
    y = pool.proj(torch.einsum("bhn,bnhe->bhe", found.flatten(2), values).flatten(1))
    torch.testing.assert_close(net.fc_norm(y + pool.mlp(pool.norm(y))), taps["pooled"], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("registers", [0, 3])
def test_the_class_tokens_weights_are_those_of_the_last_block(registers):
    net = network("token", registers=registers)
    taps = {}
    net.features(IMAGES, taps)
    found, last = attention_maps(net, IMAGES), net.blocks[-1]
    x = last.norm1(taps["blocks.0"])
    q, k, _ = last.attn.qkv(x).view(3, -1, 3, 2, 16).permute(2, 0, 3, 1, 4)
    whole = (q @ k.transpose(-2, -1) / 4).softmax(-1)
    assert torch.allclose(found.flatten(2), whole[:, :, 0, 1 + registers :], atol=1e-6)
    assert bool((found.sum((-1, -2)) < 1).all())


def test_a_mean_has_nothing_to_show():
    assert of_vit(network("gap"), "mean").attention_maps is None
    with pytest.raises(ValueError, match="every patch weighs the same"):
        attention_maps(network("gap"), IMAGES)


def test_neighbours_are_those_of_the_smallest_angle():
    rng = np.random.default_rng(0)
    support = rng.normal(size=(50, 8)).astype(np.float32)
    query = support[[7, 3]] * 1.0
    assert nearest_neighbours(query, support, 3)[:, 0].tolist() == [7, 3]
    centred = support - support.mean(0)
    cosine = centred @ centred[7] / np.linalg.norm(centred, axis=1)
    assert nearest_neighbours(query, support, 5)[0].tolist() == np.argsort(-cosine)[:5].tolist()


def test_shown_images_come_from_many_classes():
    labels = np.repeat([4, 5, 6], [5, 1, 9])
    assert labels[spread_over_classes(labels, 3)].tolist() == [4, 5, 6]
    assert sorted(labels[spread_over_classes(labels, 7)].tolist()) == [4, 4, 4, 5, 6, 6, 6]
    assert len(spread_over_classes(labels, 99)) == 15 and len(set(spread_over_classes(labels, 99))) == 15


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A run's folder with pictures of two models: the paths that were printed."""
    home = tmp_path_factory.mktemp("pictures")
    weights.save(network("map"), home / "model")
    assert main.main(["pretrain", "demo", "--out", str(home / "run"), "schedule.steps=2", "schedule.warmup=1",
                     "schedule.cooldown=1", "train.batch=8", "probe.datasets=[]"]) == 0  # fmt: skip
    common = ["probe", "digits", "--shots", "1", "--draws", "1", "--no-cache"]
    assert main.main([*common, str(home / "model"), "--pictures", str(home / "run" / "pictures")]) == 0
    return home


def test_pictures_are_files_and_the_runs_report_shows_them(drawn, capsys):
    names = sorted(path.name for path in (drawn / "run" / "pictures").iterdir())
    assert names == ["digits-attention.png", "digits-neighbours.png", "digits-shots.png"]
    assert main.main(["report", str(drawn / "run")]) == 0
    inside = re.findall(r"data:image/png;base64,([^\"]+)", (drawn / "run" / "report.html").read_text())
    assert [base64.b64decode(text) for text in inside] == [
        (drawn / "run" / "pictures" / name).read_bytes() for name in names
    ]


def test_several_models_share_their_curves_and_layers_have_their_own(drawn, tmp_path, capsys):
    words = [
        "probe",
        "digits",
        str(drawn / "model"),
        str(drawn / "run"),
        "--shots",
        "1",
        "--draws",
        "1",
        "--json",
    ]
    folder = tmp_path / "pictures"
    assert main.main([*words, "--no-cache", "--layers", "all", "--pictures", str(folder)]) == 0
    told = json.loads(capsys.readouterr().out)["pictures"]
    there = [path for path in folder.rglob("*") if path.is_file()]
    assert {*map(str, there)} == {*told} and (folder / "digits-layers.png") in there and len(there) == 4


def test_a_page_takes_no_more_pictures_than_it_can_hold(drawn, tmp_path):
    run = tmp_path / "run"
    (run / "pictures").mkdir(parents=True)
    (run / "records.jsonl").touch()
    (run / "pictures" / "a.png").write_bytes(PNG + b"x" * (BYTES - 18))
    (run / "pictures" / "b.png").write_bytes(PNG + b"x" * 12)
    assert [picture.name for picture in run_images([tmp_path])] == ["a"]


def test_a_call_that_contradicts_the_weights_is_said_and_obeyed(drawn, capsys):
    kept = open_model(str(drawn / "model"))
    changed = open_model(str(drawn / "model"), scale="imagenet")
    said = capsys.readouterr().err
    assert "warning: these weights came with mean 0.5/0.5/0.5 and std 0.5/0.5/0.5, as the authors" in said
    assert "--scale imagenet is how most of timm's other networks" in said
    assert changed.preprocessing.mean == PRESETS["imagenet"].mean
    assert changed.preprocessing.crop == kept.preprocessing.crop
    assert changed.untrained().preprocessing == changed.preprocessing
    assert open_model(str(drawn / "model"), scale="half").preprocessing == kept.preprocessing
    assert capsys.readouterr().err == ""


def test_a_scale_that_nobody_uses_has_no_likely_cause():
    said = mismatch_warning(Preprocessing((0.1, 0.2, 0.3), (1.0, 1.0, 1.0)), "clip")
    assert "mean 0.1/0.2/0.3 and std 1/1/1; --scale clip is how CLIP" in said
