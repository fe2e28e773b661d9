"""Linear layers in fp8: what rounding to eight bits may cost, what it leaves alone, and who chooses it.

On a CPU the numbers are rounded to fp8 and multiplied in fp32: the reference of the GPU's products."""

import math

import pytest
import torch
from torch import nn

from scalevit import config, optim
from scalevit.artifacts import records, run_folder
from scalevit.cli import main
from scalevit.config.lr_schedule import Schedule
from scalevit.config.run import Model
from scalevit.distributed import parallelize
from scalevit.kernels import fp8_autotune, fp8_linear
from scalevit.kernels.fp8_autotune import LayerTiming
from scalevit.model.vit import ViT
from scalevit.train import precision
from scalevit.train import run as running

MODEL = Model(width=64, depth=2, mlp=128, heads=2, patch=8, image=32, classes=16, pool="gap", head_bias=0.0)
#: Largest relative error of rounding to the nearest, and the smallest number that has it, in units.
EPSILON = {fp8_linear.E4M3: 2**-4, fp8_linear.E5M2: 2**-3}
NORMAL = {fp8_linear.E4M3: 2**-6, fp8_linear.E5M2: 2**-14}
GRADIENTS = {"tensor": fp8_linear.E5M2, "row": fp8_linear.E4M3}
WAYS = fp8_linear.GRANULARITIES[1:]


def numbers(*shape, seed=0):
    """Between 1 and 2 in size: no number is so small beside another that it has fewer bits."""
    draw = torch.Generator().manual_seed(seed)
    size = 1 + torch.rand(shape, generator=draw)
    return (size * torch.randn(shape, generator=draw).sign()).to(torch.bfloat16).float()


def passes(layer, x, gradient):
    x = x.clone().requires_grad_()
    layer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    y.backward(gradient.to(y))
    return y.detach().float(), x.grad, layer.weight.grad, layer.bias.grad


def layer_of(way, inputs=96, outputs=160):
    layer = fp8_linear.Fp8Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(numbers(outputs, inputs, seed=1))
        layer.bias.copy_(numbers(outputs, seed=2))
    layer.granularity = way
    return layer


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [fp8_linear.E4M3, fp8_linear.E5M2])
def test_a_number_is_off_by_half_a_step_at_most(way, dtype):
    x = torch.randn(48, 80, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 2, 80)
    along, across, rows, columns = fp8_linear.quantise(x, dtype, way)
    assert along.shape == (48, 80) and across.shape == (80, 48)
    for found, true, unit in ((along, x, rows), (across, x.t(), columns)):
        allowed = EPSILON[dtype] * torch.maximum(true.abs(), NORMAL[dtype] * unit)
        assert ((found.float() * unit - true).abs() <= allowed * (1 + 1e-6)).all()
        assert found.float().abs().amax() == fp8_linear.FORMAT_MAX[dtype]


@pytest.mark.parametrize("way", WAYS)
def test_the_layer_and_its_gradients_are_off_by_what_rounding_allows(way):
    x, gradient, layer = numbers(64, 96), numbers(64, 160, seed=3), layer_of(way)
    y, dx, dw, db = passes(layer, x, gradient)
    w = layer.weight.detach()
    a, g = EPSILON[fp8_linear.E4M3], EPSILON[GRADIENTS[way]]
    last = 2**-8  # bf16 results are rounded once more
    for found, true, size, both in (
        (y, x @ w.t() + layer.bias.detach(), x.abs() @ w.t().abs() + 2, (1 + a) ** 2),
        (dx, gradient @ w, gradient.abs() @ w.abs(), (1 + a) * (1 + g)),
        (dw, gradient.t() @ x, gradient.t().abs() @ x.abs(), (1 + a) * (1 + g)),
    ):
        assert ((found - true).abs() <= size * (both * (1 + last) - 1)).all()
    torch.testing.assert_close(db, gradient.sum(0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_errors_of_many_numbers_are_independent(way):
    """Rounding moves a number of size m · 2^e, 1 ≤ m < 2, by 2^(e-3)/√12 on average; both factors are."""
    draw = torch.Generator().manual_seed(0)
    x, layer = torch.randn(256, 256, generator=draw), fp8_linear.Fp8Linear(256, 256)
    layer.granularity = way
    y, *_ = passes(layer, x, x)
    true = (x @ layer.weight.t() + layer.bias).detach()
    error = (y - true).norm() / true.norm()
    assert math.sqrt(2 / 12) * 2**-4 < error < math.sqrt(2 / 12) * 2**-3


def test_rows_of_very_different_size_need_their_own_units():
    x = numbers(32, 96) * torch.logspace(0, 7, 32)[:, None]
    small = {}
    for way in WAYS:
        y, *_ = passes(layer_of(way), x, numbers(32, 160))
        true = nn.functional.linear(x[:1], layer_of(way).weight, layer_of(way).bias).detach()
        small[way] = ((y[:1] - true).norm() / true.norm()).item()
    assert small["row"] < 0.06 < 0.5 < small["tensor"]


@pytest.mark.parametrize("way", WAYS)
def test_zeros_stay_zeros_and_nothing_hides_what_is_not_finite(way):
    layer = layer_of(way)
    y, dx, *_ = passes(layer, torch.zeros(16, 96), torch.zeros(16, 160))
    assert torch.equal(y, layer.bias.detach().bfloat16().float().expand(16, -1))
    assert not dx.any()
    x = numbers(16, 96)
    for bad in (math.inf, math.nan):
        x[3, 5] = bad
        assert not passes(layer, x, numbers(16, 160))[0].isfinite().all()


def test_only_training_under_autocast_is_in_eight_bits():
    layer, x = layer_of("tensor"), numbers(32, 96)
    plain = nn.Linear(96, 160)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), plain(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal(layer(x), plain(x))
        assert torch.equal(layer(x[:9]), plain(x[:9]))  # tokens that are no multiple of 16
        with torch.no_grad():
            assert torch.equal(layer(x), plain(x))


def test_names_views_and_the_optimizer_are_those_of_the_plain_model():
    plain, model = ViT(MODEL), ViT(MODEL)
    parameters = {name: id(value) for name, value in model.named_parameters()}
    fp8_linear.convert_blocks(model.blocks)
    fp8_linear.set_granularities(model.blocks, dict.fromkeys(fp8_linear.FP8_LAYERS, "tensor"))
    assert {name: id(value) for name, value in model.named_parameters()} == parameters
    assert [*model.state_dict()] == [*plain.state_dict()]
    assert model.reference_layouts() == plain.reference_layouts()
    assert fp8_linear.granularities(model.blocks) == dict.fromkeys(fp8_linear.FP8_LAYERS, "tensor")
    states = []
    for one in (plain, model):
        optimizer = optim.build(config.Optimizer(name="adafactor"), one)
        images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            one(images).float().square().mean().backward()
        optimizer.step()
        shapes = {}
        for group in optimizer.param_groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                state = {key: value.shape for key, value in optimizer.state[parameter].items()}
                shapes[name] = group["name"], group["weight_decay"], state
        states.append(shapes)
    assert states[0] == states[1] and {*states[0]} == {*dict(plain.named_parameters())}


@pytest.mark.parametrize("how", ["selective", "full"])
def test_recomputing_gives_the_same_gradients(how):
    found = []
    for recompute in (False, True):
        model = ViT(MODEL)
        nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
        fp8_linear.convert_blocks(model.blocks)
        fp8_linear.set_granularities(model.blocks, dict.fromkeys(fp8_linear.FP8_LAYERS, "row"))
        if recompute:
            parallelize.checkpoint_activations(model.blocks, how)
        images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(images).float().square().mean().backward()
        found.append({name: value.grad for name, value in model.named_parameters()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert found[0]["blocks.0.mlp.fc1.weight"].any()


# --------------------------------------------------------------------------- who chooses


@pytest.mark.parametrize(
    ("milliseconds", "way", "gain"),
    [
        ({"bf16": 2.0, "tensor": 1.0, "row": 1.6}, "tensor", 2.0),
        ({"bf16": 2.0, "tensor": 1.7, "row": 1.6}, "row", 1.25),
        ({"bf16": 2.0, "tensor": 1.95, "row": 3.0}, "bf16", 1.0),  # not worth it
        ({"bf16": 1.0, "tensor": 3.0, "row": 2.0}, "bf16", 1.0),
        ({"bf16": 1.0}, "bf16", 1.0),
    ],
)
def test_the_fastest_way_is_chosen_where_it_is_faster_enough(milliseconds, way, gain):
    choice = LayerTiming("fc1", 256, 64, 128, milliseconds)
    assert (choice.granularity, choice.gain) == (way, gain)
    assert way in str(choice)


def test_layers_are_measured_at_the_shapes_of_a_micro_batch():
    train = config.Train(batch=4096, micro_batch=64, precision="fp8")
    run = config.Run(model=Model(shape="G/14", registers=4), train=train)
    assert [*fp8_autotune.linear_shapes(run, 8)] == [
        ("qkv", 64 * 260, 1664, 4992),
        ("proj", 64 * 260, 1664, 1664),
        ("fc1", 64 * 260, 1664, 8192),
        ("fc2", 64 * 260, 8192, 1664),
    ]
    whole = config.Run(model=Model(shape="S/16", pool="token"), train=config.Train(batch=64))
    assert next(fp8_autotune.linear_shapes(whole, 8))[1] == 8 * 197


def test_measuring_takes_what_the_shape_allows():
    cpu = torch.device("cpu")
    assert [*fp8_autotune.time_layer(32, 64, 32, cpu)] == [*fp8_linear.GRANULARITIES]
    assert [*fp8_autotune.time_layer(33, 64, 32, cpu)] == ["bf16"]


def test_a_machine_that_cannot_says_what_is_needed(tmp_path, capsys):
    place = tmp_path / "run"
    for verb in (["pretrain"], ["doctor"]):
        words = [
            *verb,
            "demo",
            "train.precision=fp8",
            *(["--out", str(place)] if verb == ["pretrain"] else []),
        ]
        assert main.main(words) == 2
        said = capsys.readouterr().err.strip()
        assert "8.9" in said and "no GPU" in said and "train.precision=bf16" in said
        assert len(said.splitlines()) == 1
    assert not place.exists()


def test_a_run_that_goes_on_computes_as_before(tmp_path, monkeypatch):
    """What was chosen is in the records, the log and the checkpoint, and is not measured again."""
    monkeypatch.setattr(
        precision, "precision_errors", lambda how: []
    )  # the emulation is too slow to be offered
    chosen = {4992: "never", 192: "tensor", 64: "row", 128: "bf16"}

    def timed(tokens, inputs, outputs, device):
        return {"bf16": 2.0, "tensor": 3.0, "row": 3.0} | {chosen[outputs]: 1.0}

    monkeypatch.setattr(fp8_autotune, "time_layer", timed)
    run = config.Run(
        model=MODEL, schedule=Schedule("rsqrt", lr=1e-3, steps=4, warmup=1, cooldown=1),
        train=config.Train(batch=16, precision="fp8", log_every=1),
    )  # fmt: skip
    running.pretrain(run, tmp_path / "whole")
    assert running.pretrain(run, tmp_path / "parts", max_minutes=1e-6).step < 4
    monkeypatch.setattr(fp8_autotune, "time_layer", None)
    running.pretrain(run, tmp_path / "parts")
    whole, parts = (list(records.read_records(tmp_path / name)) for name in ("whole", "parts"))
    losses = [[row["value"] for row in rows if row["metric"] == "loss"] for rows in (whole, parts)]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    ways = {row["metric"]: row["way"] for row in parts if row["kind"] == "layer"}
    assert ways == {"qkv": "tensor", "proj": "row", "fc1": "bf16", "fc2": "row"}
    assert "fp8: qkv (256 tokens, 64 → 192): tensor, 2.00 × bf16" in (tmp_path / "parts/log.txt").read_text()
    plain = [
        (tmp_path / name / run_folder.MODEL / "model.safetensors").read_bytes() for name in ("whole", "parts")
    ]
    assert plain[0] == plain[1]
