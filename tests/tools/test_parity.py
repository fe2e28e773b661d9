"""The authors' numbers come out, and a port that is wrong in a known way is caught."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scalevit import optim
from scalevit.cli.main import main
from scalevit.config.run import Model
from scalevit.model.formats import bigvision
from scalevit.model.losses import sigmoid_xent
from scalevit.model.vit import ViT
from scalevit.optim import adam, base
from scalevit.tools import parity

GOLDEN = Path(__file__).parents[1] / "golden"


def load(name):
    return bigvision.read(GOLDEN / f"{name}.npz")


def by_quantity(name, arrays=None):
    arrays = load(name) if arrays is None else arrays
    kind = parity.kind_of(arrays)
    return {check.quantity: check for check in parity.GOLDEN_KINDS[kind].replay(name, arrays)}


def test_every_golden_file_is_known_and_within_tolerance():
    checks, unknown = parity.replay_folder(GOLDEN)
    assert unknown == []
    assert {check.case.split("/")[0] for check in checks} == {path.stem for path in GOLDEN.glob("*.npz")}
    assert [check for check in checks if not check.passed] == []
    assert sum(check.tolerance is not None for check in checks) >= 35
    assert {check.quantity.split(" after")[0] for check in checks if check.tolerance is None} == {
        "key biases",
        "test items astray, 10 penalties",
    }


@pytest.mark.parametrize("name", ["adafactor_bf16", "adam_bf16"])
def test_a_momentum_that_decays_with_an_unrounded_beta_is_caught(name, monkeypatch):
    for module in (base, adam):
        monkeypatch.setattr(module, "round_to", lambda value, dtype: value)
    checks = by_quantity(name)
    assert checks["update direction"].error > 1e-3 or not checks["share rounded the other way"].passed


def test_statistics_over_the_fused_matrix_instead_of_per_head_are_caught(monkeypatch):
    build = optim.build

    def fused(chosen, model):
        made = build(chosen, model)
        for group in made.param_groups:
            group["layouts"] = None
        return made

    monkeypatch.setattr(optim, "build", fused)
    checks = by_quantity("train_adafactor_map")
    assert not checks["parameters after step 12"].passed
    assert not checks["losses of 12 steps"].passed


@pytest.mark.parametrize(("decay", "value"), [("HEAD_DECAY", 0.03), ("BODY_DECAY", 0.0)])
def test_another_decay_is_caught(decay, value, monkeypatch):
    monkeypatch.setattr(parity, decay, value)
    assert not by_quantity("train_adam_gap")["parameters after step 12"].passed


def test_a_file_whose_name_says_nothing_is_replayed_with_the_rule_that_fits():
    arrays = load("adafactor_f32_clip")
    assert by_quantity("seven", arrays)["update direction"].note.startswith("adafactor f32 clip")
    assert by_quantity("seven", load("adam_bf16"))["update direction"].note.startswith("adam bf16")
    assert by_quantity("seven", load("train_adam_gap"))["learning rates"].note == "adam"
    assert not all(check.passed for check in by_quantity("adam_x", arrays).values())


@pytest.mark.parametrize(
    "described",
    [
        Model(width=96, depth=1, mlp=48, heads=12, patch=32, image=64, classes=3, pool="map"),
        Model(width=32, depth=3, mlp=32, heads=1, patch=2, image=6, classes=40, pool="token"),
        Model(
            width=24, depth=1, mlp=8, heads=3, patch=4, image=4, classes=2, pool="gap", positions="sincos2d"
        ),
    ],
)
def test_models_of_any_shape_are_recognised(described):
    """Head dimensions below the number of heads, one patch, patches of 32: everything is read from shapes."""
    model = ViT(described, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (2, described.image, described.image, 3)).astype(np.float32)
    labels = rng.integers(0, 2, (2, described.classes)).astype(np.float32)
    found = model.intermediates(torch.from_numpy(image).permute(0, 3, 1, 2))
    sigmoid_xent(found["logits"], torch.from_numpy(labels)).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    outputs = {name: found[name].detach().numpy() for name in ("encoded", "pre_logits", "logits")}
    arrays = {
        "image": image, "labels": labels, **outputs,
        "loss": sigmoid_xent(found["logits"], torch.from_numpy(labels)).detach().numpy(),
        **{f"params/{n}": v for n, v in bigvision.from_ours(model).items()},
        **{f"grads/{n}": v for n, v in bigvision.from_ours(model, gradients).items()},
    }  # fmt: skip
    checks = by_quantity("any", arrays)
    assert len(checks) == 5
    assert all(check.passed for check in checks.values())
    arrays["logits"] = arrays["logits"] + 1e-3 * np.abs(arrays["logits"]).max()
    assert not by_quantity("any", arrays)["logits"].passed


def test_nan_is_infinitely_wrong():
    arrays = load("losses")
    arrays["sigmoid_xent"] = np.where(np.arange(18) == 3, np.nan, arrays["sigmoid_xent"])
    check = by_quantity("losses", arrays)["sigmoid_xent"]
    assert check.error == float("inf")
    assert not check.passed


def test_the_command_prints_a_table_and_tells_failure_by_its_status(tmp_path, capsys):
    arrays = load("losses")
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    assert main(["parity", str(tmp_path)]) == 0
    assert "left out: other.npz" in capsys.readouterr().out
    np.savez(tmp_path / "b.npz", **{**arrays, "softmax_xent": arrays["softmax_xent"] * 1.001})
    assert main(["parity", str(tmp_path), "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["failed"] == 1
    assert [row["case"] for row in data["checks"] if not row["passed"]] == ["b"]


TWO = np.zeros(2)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"logits": np.array([{}, {}], dtype=object)}, "pickled"),
        ({"x": TWO}, "known by its keys"),
        ({"params0/a": TWO, "images": TWO, "labels": TWO, "losses": TWO}, "replay"),
        ({"0/config": np.array('{"decay_type": "stair"}'), "0/step": TWO, "0/lr": TWO}, "replay"),
    ],
)
def test_files_that_cannot_be_replayed_are_one_line(arrays, reason, tmp_path, capsys):
    np.savez(tmp_path / "bad.npz", **arrays)
    assert main(["parity", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert reason in message
    assert message.count("\n") == 1


def test_no_folder_and_a_pickle_in_disguise(tmp_path, capsys):
    assert main(["parity", str(tmp_path / "none")]) == 2
    (tmp_path / "evil.npz").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    assert main(["parity", str(tmp_path)]) == 2
    assert "evil.npz" in capsys.readouterr().err
