"""Fine-tuning: what it begins with, what it is measured on, and that it is a run like any other."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import make_folder, make_shards, picture

from scalevit import config
from scalevit.artifacts import records
from scalevit.cli.main import main
from scalevit.data.normalise import normaliser
from scalevit.evals.datasets.finetune_split import FinetuneImages
from scalevit.evals.datasets.probe_set import from_arrays
from scalevit.evals.features import fit
from scalevit.evals.finetune import finetune_split, weights_hash
from scalevit.model import weights as store
from scalevit.model.vit import ViT
from scalevit.train.finetune import finetune, plan
from scalevit.train.run import pretrain

MODEL = config.Model(
    shape="mu/4", width=32, depth=2, mlp=64, heads=2, patch=4, image=16, classes=7, head_bias=-10.0
)
SHORT = ["schedule.steps=4", "train.batch=8", "train.precision=fp32", "train.save_every=1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network with weights of its own, the head's too."""
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    net = ViT(MODEL, seed=3)
    with torch.no_grad():
        net.get_parameter("head.weight").normal_(generator=torch.Generator().manual_seed(0))
    store.save(net, folder)
    return str(folder)


@pytest.fixture(scope="module")
def tuned(model, tmp_path_factory):
    """Fine-tuned by the command line, with a choice between two rates."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    assert main(["finetune", model, "digits", "--out", str(out), *SHORT]) == 0
    return out


def tensors(folder):
    return {name: value.tolist() for name, value in store.load(folder).state_dict().items()}


def finetune_rows(folder, kind="finetune"):
    return {row["metric"]: row for row in records.read_records(folder) if row["kind"] == kind}


def test_a_rate_is_chosen_on_held_out_images_and_recorded(tuned):
    rows = finetune_rows(tuned, "rate")
    held = {rate: finetune_rows(tuned / "rates" / rate)["held_out_accuracy"] for rate in ("0.03", "0.01")}
    assert {name: row["value"] for name, row in rows.items()} == {
        f"held_out_accuracy at {rate}": row["value"] for rate, row in held.items()
    }
    (chosen,) = [row for row in rows.values() if row["chosen"]]
    assert chosen["value"] == max(row["value"] for row in held.values())
    assert config.load(str(tuned / "run.yaml")).schedule.lr == chosen["lr"]
    assert len({row["run"] for row in [chosen, *held.values()]}) == 3


def test_the_recorded_accuracy_is_what_evaluate_says(tuned, capsys):
    assert main(["evaluate", str(tuned), "digits", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"].values()
    rows = finetune_rows(tuned)
    assert rows["accuracy"]["value"] == result["top1"]
    assert rows["nll"]["value"] == pytest.approx(result["nll"], rel=1e-6)


def test_done_is_done(model, tuned):
    before = {path: path.stat().st_mtime_ns for path in tuned.rglob("*") if path.is_file()}
    assert finetune(plan(model, "digits", SHORT), tuned).stopped is None
    assert {path: path.stat().st_mtime_ns for path in tuned.rglob("*") if path.is_file()} == before


def test_interrupted_again_and_again_the_weights_are_the_same(model, tuned, tmp_path):
    planned = plan(model, "digits", SHORT)
    for _ in range(5):
        assert finetune(planned, tmp_path / "run", max_minutes=0).stopped == "the time limit"
    assert finetune(planned, tmp_path / "run").stopped is None
    assert tensors(tmp_path / "run") == tensors(tuned)


@pytest.mark.parametrize(("loss", "bias"), [("softmax", 0.0), ("sigmoid", -6.9)])
def test_it_begins_with_the_weights_a_new_head_and_resampled_positions(model, tmp_path, loss, bias):
    """The first step of a warm-up has rate 0: after it the weights are still those of the beginning."""
    words = [*SHORT, "schedule.steps=1", "schedule.warmup=1", "model.image=24", f"train.loss={loss}"]
    finetune(plan(model, "digits", words, rates=[0.03]), tmp_path / "run")
    found = store.load(tmp_path / "run").state_dict()
    wanted = store.resized(store.load(model), 24).state_dict()
    body = [name for name in wanted if not name.startswith("head.")]
    assert all(torch.equal(found[name], wanted[name]) for name in body)
    assert found["pos_embed"].shape == (1, 36, 32)
    assert found["head.weight"].shape == (10, 32)
    assert not found["head.weight"].any()
    assert torch.equal(found["head.bias"], torch.full((10,), bias))


def test_a_run_is_named_by_its_weights_not_by_their_place(model, tmp_path):
    shutil.copytree(model, tmp_path / "moved")
    net = store.load(model)
    with torch.no_grad():
        net.get_parameter("blocks.0.mlp.fc1.weight")[0, 0] += 1e-3
    store.save(net, tmp_path / "other")
    here, moved, other = (
        config.run_id(plan(str(path), "digits", SHORT).last)
        for path in (model, tmp_path / "moved", tmp_path / "other")
    )
    assert here == moved != other


def test_other_weights_under_the_old_name_are_refused(model, tmp_path):
    shutil.copytree(model, tmp_path / "weights")
    planned = plan(str(tmp_path / "weights"), "digits", SHORT, rates=[0.1])
    store.save(ViT(MODEL, seed=4), tmp_path / "weights")
    with pytest.raises(ValueError, match="other weights than this run was begun with"):
        finetune(planned, tmp_path / "run")


def test_preprocessing_comes_with_the_weights_and_goes_with_them(tmp_path):
    net = ViT(MODEL, seed=1)
    net.preprocessing = config.Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    store.save(net, tmp_path / "net")
    planned = plan(str(tmp_path / "net"), "digits", SHORT, rates=[0.1])
    finetune(planned, tmp_path / "run")
    assert store.load(tmp_path / "run").preprocessing == net.preprocessing
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    seen = normaliser(planned.last.start.preprocessing)(torch.from_numpy(pixels))
    torch.testing.assert_close(seen, fit([*pixels], 16, net.preprocessing, True), rtol=1e-5, atol=1e-5)


def test_content_sees_the_body_and_not_the_head(model):
    net, other = store.load(model), store.load(model)
    with torch.no_grad():
        other.get_parameter("head.weight").zero_()
    assert weights_hash(net) == weights_hash(other)


# --------------------------------------------------------------------------- images


def named_set(images=1000):
    x = np.random.default_rng(0).integers(0, 256, (images, 6, 9, 3), np.uint8)
    return from_arrays("set", x, np.array([["wasp", "ant", "bee"][i % 3] for i in range(images)]))


def test_held_out_images_are_2_percent_and_not_trained_on():
    data = named_set()
    (left, out), (train, test) = finetune_split(data, "most"), finetune_split(data, "train")
    assert (len(left) + len(out), len(out)) == (len(data.support), int(0.02 * len(data.support)))
    assert set(left.numbers) | set(out.numbers) == set(range(len(data.support)))
    assert (len(train), len(test)) == (len(data.support), len(data.query))
    for part, names in ((left, data.support_labels), (out, data.support_labels), (test, data.query_labels)):
        assert [["ant", "bee", "wasp"][i] for i in part.labels] == names[part.numbers].tolist()


def test_crops_depend_on_the_place_in_the_run_alone():
    part, _ = finetune_split(named_set(), "train")
    source = FinetuneImages(part, 8, "inception", seed=0)
    indices = np.array([5, 5, 7])
    images, labels, _ = source.get(indices, np.array([40, 41, 42]))
    again, *_ = source.get(indices[1:], np.array([41, 42]))
    assert torch.equal(images[1:], again)
    assert not torch.equal(images[0], images[1])
    assert labels.tolist() == part.labels[indices].tolist()


# --------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits", "model.image=18"], "model.image=18 is not divisible by the patch 4; nearest: 16, 20"),
        (["digits", "model.width=48"], "model.width: the weights and the data decide it"),
        (["digits", "schedule.lr=0.1"], "say --lr instead"),
        (["digits", "data.source=mnist"], "MODEL and DATA decide them"),
        (["digits", "--lr", "-1"], "--lr: must be positive"),
        (["digitz"], "nearest names: digits"),
        (
            ["few.npz"],
            "2 % of 20 train images are 0, too few to choose a learning rate by; give one with --lr",
        ),
    ],
)
def test_mistakes_are_one_line_and_create_nothing(model, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    np.savez("few.npz", x=np.zeros((40, 8, 8), np.uint8), y=np.arange(40) % 2)
    assert main(["finetune", model, "--out", "run", *words]) == 2
    assert message in capsys.readouterr().err.strip()
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_run_is_refused_before_rates_are_tried(model, tuned):
    before = sorted(tuned.rglob("*"))
    with pytest.raises(ValueError, match=r"holds another run .*different: optimizer.layer_decay"):
        finetune(plan(model, "digits", [*SHORT, "optimizer.layer_decay=0.8"]), tuned)
    assert sorted(tuned.rglob("*")) == before


def test_classes_that_do_not_fit_are_named(model, tmp_path):
    run = plan(model, "digits", SHORT).at(0.1)
    with pytest.raises(ValueError, match="digits has 10 classes, the model 9"):
        pretrain(replace(run, model=replace(run.model, classes=9)), tmp_path / "run")


# --------------------------------------------------------------------------- what it is for


@pytest.mark.slow
def test_pretraining_on_strokes_helps_with_digits(tmp_path):
    """With the same images, steps and rate, three seeds of each: the worst fine-tuned one is far better."""
    shape = config.Model(shape="mu/4", width=64, depth=2, mlp=128, heads=4, patch=4, image=16, classes=64)
    words = [
        "schedule.steps=400", "schedule.warmup=40", "schedule.timescale=100", "schedule.cooldown=80",
        "train.batch=64", "train.precision=fp32", "probe.datasets=[]",
    ]  # fmt: skip
    before = replace(config.load("demo", words), model=replace(shape, head_bias=0.0))
    pretrain(before, tmp_path / "before")
    accuracies = {"tuned": [], "scratch": []}
    for seed in range(3):
        extra = ["schedule.steps=60", "train.batch=64", "train.precision=fp32", f"train.seed={seed}"]
        extra.append(f"data.seed={seed}")
        run = plan(str(tmp_path / "before"), "digits", extra, rates=[0.03]).at(0.03)
        for name, start in (("tuned", run.start), ("scratch", config.Start())):
            out = tmp_path / f"{name}{seed}"
            pretrain(replace(run, start=start), out)
            accuracies[name].append(finetune_rows(out)["accuracy"]["value"])
    assert run.start.parent == config.run_id(before)
    assert min(accuracies["tuned"]) > max(accuracies["scratch"]) + 0.2, accuracies


@pytest.mark.slow
def test_killed_at_random_moments_the_weights_are_the_same(model, tmp_path):
    """SIGKILL, also between the runs that choose a rate: nothing is lost but the steps since a checkpoint."""
    import random

    words = [*SHORT, "schedule.steps=60"]

    def start(out):
        command = [sys.executable, "-m", "scalevit", "finetune", model, "digits", "--out", str(out), *words]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def checkpoints():
        """Of all its runs, the ones that choose a rate among them."""
        return {*(tmp_path / "killed").rglob("step_*")}

    assert start(tmp_path / "straight").wait(timeout=300) == 0
    moments, kills = random.Random(1), 0
    while True:
        before, process = checkpoints(), start(tmp_path / "killed")
        while checkpoints() <= before and process.poll() is None:
            time.sleep(0.01)
        try:
            assert process.wait(timeout=moments.uniform(0, 3)) == 0
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        assert kills < 40
    assert kills > 0
    assert tensors(tmp_path / "killed") == tensors(tmp_path / "straight")


FORMS = [("scalevit", "npz"), ("timm", "tar"), ("hf", "parquet"), ("bigvision", "folder")]


@pytest.mark.parametrize(("weights_form", "data_form"), FORMS)
def test_weights_and_images_of_every_form_are_taken(tmp_path, weights_form, data_form, capsys):
    """Training begins with those weights and ends with an accuracy on those images, which evaluate
    repeats: on the half that was not trained on."""
    net = ViT(replace(MODEL, pool="token"), seed=3)  # what every form can hold
    path = tmp_path / ("weights.npz" if weights_form == "bigvision" else "weights")
    store.write(net, path, weights_form)
    folder = make_folder(tmp_path / "images", count=12)
    data = folder if data_form == "folder" else tmp_path / f"images.{data_form}"
    if data_form == "npz":
        x = np.stack([picture(i, 20, 20) for i in range(12)])
        np.savez(data, x=x, y=np.arange(12) % 3)
    elif data_form != "folder":
        make_shards(folder, data, data_form, shards=1)
    out = tmp_path / "run"
    assert (
        main(
            ["finetune", str(path), str(data), "--out", str(out), "--lr", "0.03", *SHORT, "schedule.steps=1"]
        )
        == 0
    )
    run = config.load(str(out / "run.yaml"))
    assert run.model.classes == 3 and run.start.content == weights_hash(store.load(path))
    capsys.readouterr()
    assert main(["evaluate", str(out), str(data), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"].values()
    assert found["images"] == 6 and found["top1"] == finetune_rows(out)["accuracy"]["value"]
    assert found["nll"] == pytest.approx(finetune_rows(out)["nll"]["value"], rel=1e-6)
