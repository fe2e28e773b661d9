"""Features: fitted images, batches over ranks, the cache, every kind of model; rows and floors for a run."""

import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from scalevit.config.run import Model, Preprocessing, Probe
from scalevit.evals import features, in_training
from scalevit.evals.backbones import LAST_LAYER, of_vit, open_model
from scalevit.evals.datasets.probe_set import from_arrays
from scalevit.evals.features import FeatureCache, WorkShare, extract, fit, raw_pixels
from scalevit.model import weights
from scalevit.model.vit import ViT

PLAIN = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop=0.5)


def small(seed=0, **changes):
    config = Model(shape="Ti/8", width=32, depth=2, mlp=64, heads=2, image=16, classes=5, **changes)
    model = ViT(config, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model


def photographs(n, seed=0, sides=(9, 40)):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*rng.integers(*sides, 2), 3), np.uint8) for _ in range(n)]


# --------------------------------------------------------------------------- images


def test_whole_images_are_scaled_and_nothing_else():
    x = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    out = fit(list(x), 16, Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.5, 0.2, 0.1)), whole=True)
    expected = (x / 255 - [0.5, 0.4, 0.3]) / [0.5, 0.2, 0.1]
    assert np.abs(out.numpy() - expected.transpose(0, 3, 1, 2)).max() < 1e-5


def test_photographs_lose_their_border_and_keep_their_aspect():
    image = np.zeros((32, 64, 3), np.uint8)
    image[8:24, 24:40] = 255  # exactly the central half of the short side
    assert (fit([image], 16, PLAIN, whole=False) == 1).all()
    assert fit([image], 16, PLAIN, whole=True).mean() == pytest.approx(1 / 8, abs=0.01)


def test_grey_is_colour_with_three_equal_channels_and_tiny_images_grow():
    grey = np.random.default_rng(1).integers(0, 256, (1, 7), np.uint8)
    out = fit([grey], 16, PLAIN, whole=True)
    assert out.shape == (1, 3, 16, 16)
    assert torch.equal(out, fit([np.stack([grey] * 3, axis=-1)], 16, PLAIN, whole=True))


def test_images_of_many_sizes_are_what_they_are_alone():
    images = photographs(4)
    together = fit(images, 16, PLAIN, whole=False)
    assert torch.equal(together, torch.cat([fit([image], 16, PLAIN, whole=False) for image in images]))


def test_pixels_are_pixels():
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
    assert np.allclose(raw_pixels(x), x.reshape(3, -1) / 255)
    assert raw_pixels(np.full((2, 64, 20, 3), 51, np.uint8)).shape == (2, 3 * 32 * 20)


# --------------------------------------------------------------------------- extraction


def test_features_are_the_models_own_and_layers_are_means_over_patches():
    model, images = small(registers=1), np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)
    out = extract(of_vit(model, "m"), images, whole=True, layers=(LAST_LAYER, "blocks.0"), batch=3)
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        taps = model.intermediates(x)
    assert np.abs(out[LAST_LAYER] - taps["pre_logits"].numpy()).max() < 1e-5
    assert np.abs(out["blocks.0"] - taps["blocks.0"][:, 1:].mean(1).numpy()).max() < 1e-5


def in_threads(world, work):
    """`work(share)` of each rank, in threads that gather through a barrier."""
    barrier, slots, results = threading.Barrier(world, timeout=30), [None] * world, [None] * world

    def gather(rank, own):
        slots[rank] = own
        barrier.wait()
        found = list(slots)
        barrier.wait()
        return found

    def run(rank):
        try:
            results[rank] = work(WorkShare(rank, world, lambda own: gather(rank, own)))
        except ValueError as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return results


@pytest.mark.parametrize("world", [2, 3, 5])
def test_any_number_of_ranks_gives_the_same_bits(world):
    backbone, images = of_vit(small(), "m"), photographs(23)
    alone = extract(backbone, images, whole=False, layers=(LAST_LAYER,), batch=4)[LAST_LAYER]
    results = in_threads(
        world,
        lambda share: extract(backbone, images, whole=False, layers=(LAST_LAYER,), batch=4, share=share),
    )
    assert all((found[LAST_LAYER] == alone).all() for found in results)


def test_a_broken_image_stops_every_rank():
    class Broken(list):
        def __getitem__(self, index):
            if index == 9:
                raise ValueError("image 9 is broken")
            return super().__getitem__(index)

    backbone, images = of_vit(small(), "m"), Broken(photographs(10))
    results = in_threads(
        3, lambda share: extract(backbone, images, whole=False, layers=(LAST_LAYER,), batch=2, share=share)
    )
    assert [str(found) for found in results] == ["image 9 is broken"] * 3


def test_unknown_layers_and_damaged_weights_are_named():
    model, images = small(), np.zeros((2, 16, 16), np.uint8)
    with pytest.raises(ValueError, match=r"no layer 'block\.1'; nearest: blocks\.1"):
        extract(of_vit(model, "m"), images, whole=True, layers=("block.1",))
    model.norm.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="m: features of pre_logits are not finite"):
        extract(of_vit(model, "m"), images, whole=True, layers=(LAST_LAYER,))


# --------------------------------------------------------------------------- the cache


def test_cache_computes_once_and_knows_weights_images_and_layers(tmp_path, monkeypatch):
    asked = []
    real = features.extract
    monkeypatch.setattr(
        features,
        "extract",
        lambda *a, layers, **k: asked.append(tuple(layers)) or real(*a, layers=layers, **k),
    )
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16), np.uint8)
    cache = FeatureCache(tmp_path / "kept")

    def ask(model, fingerprint="images", layers=(LAST_LAYER,)):
        return cache.extract(of_vit(model, "m"), images, fingerprint, whole=True, layers=layers)

    first = ask(small())
    assert (ask(small())[LAST_LAYER] == first[LAST_LAYER]).all() and asked == [(LAST_LAYER,)]
    ask(small(), layers=(LAST_LAYER, "blocks.1"))
    assert asked == [(LAST_LAYER,), ("blocks.1",)]
    ask(small(seed=1)), ask(small(), "other images")
    assert len(asked) == 4
    for place in tmp_path.rglob("*.npy"):
        place.write_bytes(place.read_bytes()[:50])
    assert (ask(small())[LAST_LAYER] == first[LAST_LAYER]).all() and len(asked) == 5


def test_the_head_is_no_part_of_the_features_and_other_parameters_are():
    model = small()
    before = of_vit(model, "m").fingerprint()
    model.head.weight.data += 1
    assert of_vit(model, "m").fingerprint() == before
    model.blocks[1].mlp.fc1.bias.data[3] += 1e-3
    assert of_vit(model, "m").fingerprint() != before


# --------------------------------------------------------------------------- models


def test_saved_models_give_the_same_features(tmp_path):
    model, images = small(), photographs(3)
    weights.save(model, tmp_path / "run" / "model")
    expected = extract(of_vit(model, "m"), images, whole=False, layers=(LAST_LAYER,))[LAST_LAYER]
    for word in (tmp_path / "run", tmp_path / "run" / "model", f"timm-local:{tmp_path / 'run' / 'model'}"):
        found = open_model(str(word))
        assert (extract(found, images, whole=False, layers=(LAST_LAYER,))[LAST_LAYER] == expected).all()


def test_timm_models_load_without_a_network(monkeypatch, capsys):
    """Through our ViT where it is one; another network as it is. Random weights are said to be random."""
    import timm

    def unreachable(name, pretrained=False, **arguments):
        if pretrained:
            raise FileNotFoundError("offline")
        return create(name, pretrained=False, **arguments)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", unreachable)
    vit = open_model("timm:vit_tiny_patch16_224")
    assert "random weights" in vit.note and "random weights" in capsys.readouterr().err
    assert vit.layers[-1] == LAST_LAYER and "blocks.11" in vit.layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = create("vit_tiny_patch16_224").eval()
    x = torch.rand(2, 3, 224, 224) * 2 - 1
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
        assert (vit.run(x, (LAST_LAYER,))[LAST_LAYER] - expected).abs().max() < 1e-4
    other = open_model("timm:test_resnet")
    assert other.layers == (LAST_LAYER,)
    with torch.inference_mode():
        out = other.run(torch.zeros(1, 3, other.image, other.image), (LAST_LAYER,))
    assert out[LAST_LAYER].dim() == 2
    with pytest.raises(
        ValueError, match="timm has no model 'vit_tinny_patch16_224'; nearest: vit_tiny_patch16_224"
    ):
        open_model("timm:vit_tinny_patch16_224")


def test_networks_compute_where_they_are_told_to(tmp_path, monkeypatch):
    """The device without memory stands for an accelerator: weights lie there, and so does what comes out."""
    weights.save(small(), tmp_path / "model")
    (tmp_path / "own.py").write_text("import torch\nnet = torch.nn.Linear(8, 4)\n")
    monkeypatch.chdir(tmp_path)
    there = torch.device("meta")
    for word in ("model", "timm-local:model", "own:net"):
        found = open_model(word, image=8, device=there)
        assert found.device == there
        assert found.run(torch.zeros(1, 3, 8, 8), (LAST_LAYER,))[LAST_LAYER].device == there


@pytest.mark.parametrize("sizes", [((5, 5),), ((5, 5), (9, 4))])
def test_what_an_accelerator_scales_itself_is_what_the_cpu_scales(monkeypatch, sizes):
    """Without one: the copy is left out, everything else is as there."""
    monkeypatch.setattr(features, "_sent", lambda images, device: images)
    shapes = [(*sizes[i % len(sizes)], 3) for i in range(9)]
    images = [np.random.default_rng(i).integers(0, 256, shape, np.uint8) for i, shape in enumerate(shapes)]
    found, seen = of_vit(small(), "here"), []

    def watched(batch, layers):
        seen.append(batch)
        return found.run(batch, layers)

    there = replace(found, run=watched, device=torch.device("meta"))
    a, b = (
        extract(one, images, whole=False, layers=(LAST_LAYER,), batch=4)[LAST_LAYER] for one in (found, there)
    )
    assert (a == b).all() and all(batch.shape[1:] == (3, 16, 16) for batch in seen) and len(seen) == 3


def test_functions_and_modules_of_others(tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(
        "import torch\n"
        "def mean(images): return images.mean((2, 3))\n"
        "def wrong(images): return images.mean()\n"
        "def pair(images): return images, images\n"
        "def breaks(images): raise RuntimeError('shapes (2, 3)\\nand more lines')\n"
        "net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 4))\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    images = np.full((2, 5, 5, 3), 255, np.uint8)
    mean, net = open_model("theirs:mean", image=8), open_model("theirs:net", image=8)
    assert (extract(mean, images, whole=True, layers=(LAST_LAYER,))[LAST_LAYER] == 1).all()
    assert mean.fingerprint is None and net.fingerprint is not None
    with pytest.raises(ValueError, match=r"expected \(2, d\) features, found \(\)"):
        extract(open_model("theirs:wrong"), images, whole=True, layers=(LAST_LAYER,))
    with pytest.raises(ValueError, match=r"expected \(2, d\) features, found tuple"):
        extract(open_model("theirs:pair"), images, whole=True, layers=(LAST_LAYER,))
    with pytest.raises(ValueError, match=r"theirs:breaks on images .*: RuntimeError: shapes \(2, 3\)$"):
        extract(open_model("theirs:breaks"), images, whole=True, layers=(LAST_LAYER,))
    (tmp_path / "cannot.py").write_text("def f(:")
    with pytest.raises(ValueError, match="cannot:f: SyntaxError"):
        open_model("cannot:f")
    with pytest.raises(ValueError, match="no callable 'number'"):
        open_model("theirs:number")
    with pytest.raises(ValueError, match="No module named 'nowhere'"):
        open_model("nowhere:f")


@pytest.mark.slow
def test_timm_imports_in_a_fresh_process():
    """Beside a torchvision whose compiled part is missing, too, as with torch's CPU build from PyPI."""
    code = "from scalevit.model.formats.timm import import_timm; import_timm().create_model('test_vit')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


# --------------------------------------------------------------------------- rows for a run


def toy_set(name="toy"):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = (rng.random((60, 12, 12)) * 80).astype(np.uint8)
    for i, label in enumerate(y):  # what tells classes apart: where the light is
        x[i, 4 * label : 4 * label + 4] += 60
    return from_arrays(name, x, y)


def test_rows_of_model_and_floors(monkeypatch):
    monkeypatch.setattr(in_training, "open_set_cached", toy_set)
    model, probe = small(), Probe(datasets=("toy",), shots=(1, 5), draws=3, l2=4.0)
    rows, floors = in_training.probe_rows(model, probe), in_training.baseline_rows(model, probe)
    assert [(r["dataset"], r["shots"], r["seed"]) for r in rows] == [
        ("toy", s, d) for s in (1, 5) for d in range(3)
    ]
    assert {(r["kind"], r["metric"]) for r in rows} == {("probe", "accuracy")}
    assert {(r["kind"], r["metric"]) for r in floors} == {
        ("floor", "raw_pixels_accuracy"),
        ("floor", "untrained_accuracy"),
    }
    untouched = ViT(model.config, seed=0)
    expected = [r["value"] for r in in_training.probe_rows(untouched, probe)]
    assert [r["value"] for r in floors if r["metric"] == "untrained_accuracy"] == expected
    assert (
        np.mean([r["value"] for r in floors if r["metric"] == "raw_pixels_accuracy" and r["shots"] == 5])
        > 0.8
    )


def test_rows_are_equal_on_every_rank(monkeypatch):
    monkeypatch.setattr(in_training, "open_set_cached", toy_set)
    monkeypatch.setattr(features, "BATCH", 7)
    model, probe = small(), Probe(datasets=("toy",), shots=(2,), draws=2)
    alone = in_training.probe_rows(model, probe)
    assert in_threads(3, lambda share: in_training.probe_rows(model, probe, share)) == [alone] * 3


def test_mistakes_of_a_probe_are_found_before_the_run(monkeypatch):
    assert in_training.validation_errors(Probe(datasets=("digits",), shots=(1, 25))) == []
    found = in_training.validation_errors(Probe(datasets=("digits", "diggits"), shots=(100,)))
    assert "support images, fewer than 100 shots" in found[0] and "nearest names: digits" in found[1]
