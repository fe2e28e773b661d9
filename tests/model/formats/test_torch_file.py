"""Training checkpoints: the weights inside are found, nothing is executed, and the part taken is named."""

import argparse
from pathlib import Path

import pytest
import torch

from scalevit.config.run import Model
from scalevit.model import weights
from scalevit.model.formats import torch_file
from scalevit.model.vit import ViT

TINY = Model(shape="Ti/4", width=32, depth=1, mlp=48, heads=4, patch=4, image=16, classes=5)


def explode(*args):
    raise AssertionError("a pickle was executed")


class Bomb:
    def __reduce__(self):
        return (explode, ())


@pytest.fixture
def models(tmp_path):
    """A folder with the first of two models, and their state dicts."""
    first, second = ViT(TINY, seed=0), ViT(TINY, seed=1)
    weights.save(first, tmp_path / "m")
    return tmp_path / "m", dict(first.state_dict()), dict(second.state_dict())


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state, other: state,
        lambda state, other: prefixed("module.", state),
        lambda state, other: prefixed("module._orig_mod.", state),
        lambda state, other: {"state_dict": prefixed("model.", state), "hyper_parameters": {"lr": 0.1}},
        lambda state, other: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        lambda state, other: {"state_dict": other, "state_dict_ema": state, "epoch": 3},
        lambda state, other: {"student": other, "teacher": prefixed("module.backbone.", state)},
        lambda state, other: {"model": {"state_dict": state}, "args": argparse.Namespace(lr=0.1)},
        lambda state, other: {"model": state, "args": Bomb(), "path": Path("somewhere")},
        lambda state, other: prefixed("module.", state) | {"n_averaged": torch.tensor(3)},
    ],
)
def test_weights_are_found_in_what_training_scripts_save(models, wrap):
    folder, first, second = models
    torch.save(wrap(second, first), folder / "checkpoint.pth.tar")
    loaded = weights.load(folder / "checkpoint.pth.tar").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in second.items())


def test_the_part_is_named_and_can_be_chosen(models, capsys):
    folder, first, second = models
    torch.save({"state_dict": first, "state_dict_ema": second}, folder / "last.pt")
    weights.load(folder / "last.pt")
    assert "took 'state_dict_ema'; there are also 'state_dict' (--part)" in capsys.readouterr().err
    chosen = weights.load(folder / "last.pt", part="state_dict").state_dict()
    assert torch.equal(chosen["pos_embed"], first["pos_embed"])
    with pytest.raises(ValueError, match="no part 'ema' that holds weights; there are: state_dict, state_"):
        weights.load(folder / "last.pt", part="ema")


def test_tensors_beside_the_model_are_counted_and_named(models, capsys):
    folder, _, second = models
    extra = {"module.projector.weight": torch.ones(2, 2)}
    torch.save(prefixed("module.backbone.", second) | extra, folder / "dino.pth")
    weights.load(folder / "dino.pth")
    assert "1 tensors beside it were left out: module.projector.weight" in capsys.readouterr().err


def test_the_named_file_is_read_and_not_its_neighbour(models):
    folder, _, second = models
    torch.save(second, folder / "best.bin")
    assert torch.equal(weights.load(folder / "best.bin").pos_embed, second["pos_embed"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": Bomb()}, "holds no dictionary of tensors"),
        ([1, 2], "holds no dictionary of tensors"),
        ({"w": torch.ones(1).expand(10**9)}, "claims 1000000000 numbers, more than the file holds"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "no plain tensor of numbers"),
    ],
)
def test_what_holds_no_weights_is_one_line(models, content, message):
    folder, *_ = models
    torch.save(content, folder / "odd.pt")
    with pytest.raises(ValueError, match=message) as caught:
        weights.load(folder / "odd.pt")
    assert "\n" not in str(caught.value)


def test_entries_of_optimizers_are_no_weights():
    content = {
        "optimizer": {"m": torch.ones(3)},
        "lr_scheduler": {"x": torch.ones(2)},
        "model": {"w": torch.ones(2)},
    }
    assert torch_file.state_dict(content, Path("x.pt"))[0].keys() == {"w"}
