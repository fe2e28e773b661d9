"""Plans against published numbers, against closed forms, and against the machine half."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalevit.cli import main
from scalevit.config.devices import DEVICES
from scalevit.config.load import load
from scalevit.config.memory import KINDS, step_memory
from scalevit.config.model_sizes import Shape, shape
from scalevit.config.presets import PRESETS
from scalevit.study.planning.candidates import ANCHOR, candidates, sovit
from scalevit.study.planning.compute_budget import Basis, Budget, best_run, rank
from scalevit.study.planning.expected_error import paper_laws
from scalevit.study.planning.plan import custom_device, names_of, plan

PAPER = Basis(paper_laws())


def test_the_giant_has_the_published_numbers():
    made = plan(load("paper/G14"), device_name="h200", devices=256)
    facts = json.loads(json.dumps(main._finite(made.as_dict())))
    assert facts["parameters_millions"]["trunk"] == 1842.8
    assert facts["parameters_millions"]["with_map"] == 1881.1
    assert made.images == pytest.approx(20.5e9, rel=0.01)
    trunk = sum(value for part, value in made.flops.items() if part not in ("pool", "head"))
    assert trunk / 1e9 == pytest.approx(965.3, rel=0.02)


def test_time_is_work_over_speed():
    made = plan(load("paper/L16"), device_name="a100", devices=8, mfu=0.5, price=2.0)
    assert made.hours == pytest.approx(made.train_flops / (8 * 0.5 * 312e12) / 3600)
    assert made.cost == pytest.approx(made.hours * 16)
    assert made.kilowatt_hours == pytest.approx(made.hours * 8 * 0.4)


def test_a_measured_speed_is_preferred_and_says_so():
    run = load("paper/g14", ["model.classes=0"])
    made = plan(run, device_name="h100")
    assert made.speed.source.startswith("measured: NVIDIA NeMo")
    assert made.speed.images_per_second == pytest.approx(178.5, rel=0.01)
    assert plan(load("paper/B16")).speed.source.startswith("assumed")


@pytest.mark.parametrize("name", ["demo", "paper/Ti16", "i1k/S16"])
@pytest.mark.parametrize("extra", [[], ["model.registers=4", "model.qk_norm=true", "model.pre_logits=true"]])
def test_parameters_agree_with_the_machine_half(name, extra):
    from scalevit.model.vit import ViT

    run = load(name, extra)
    built = ViT(run.model, device="meta")
    assert plan(run).parameters["total"] == sum(p.numel() for p in built.parameters())


def test_memory_by_kind_adds_up_and_shards():
    run = load("paper/G14")
    giant, sharded = run.model.resolve(), load("paper/G14", ["parallel.strategy=fsdp"])
    whole, shared = step_memory(run, giant, 8, 64), step_memory(sharded, giant, 8, 64)
    assert whole.total == pytest.approx(sum(getattr(whole, part) for part in KINDS))
    assert shared.weights == pytest.approx(whole.weights / 64)
    assert (whole.shards, shared.shards) == (1, 64)
    assert whole.gathered == 0 < shared.gathered
    # paper §3.4: parameters of G take 8 GiB in fp32 with the classifier, Adafactor adds half of that
    assert whole.weights == pytest.approx(7.2, abs=0.1)
    assert whole.optimizer / whole.weights == pytest.approx(0.5, abs=0.02)


def test_what_does_not_fit_is_said_with_the_nearest_that_does():
    made = plan(load("paper/G14"), device_name="l4", devices=8)
    (said,) = [warning for warning in made.warnings if "does not fit" in warning]
    assert not made.fits
    changes = said.partition("fits with ")[2].split()
    assert changes[0] == "parallel.strategy=fsdp"
    assert plan(load("paper/G14", changes), device_name="l4", devices=8).fits
    alone = plan(load("paper/G14"), device_name="l4")
    assert any("use more devices" in warning for warning in alone.warnings)


def test_a_share_that_is_too_large_at_once_is_said():
    made = plan(load("paper/L16"), device_name="a100", devices=8)
    (said,) = [warning for warning in made.warnings if "does not fit" in warning]
    assert made.fits and f"fits with train.micro_batch={made.memory.micro_batch}" in said
    assert not plan(load("paper/L16", ["train.micro_batch=512"]), device_name="a100", devices=8).fits


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(ValueError, match="a batch of 4095 or 4098, or 2 or 4 processes"):
        plan(load("paper/L16"), devices=3)


def test_the_chosen_run_fits_as_it_is_written():
    budget = Budget("l4", 16, 30, 1e9)
    run = best_run(budget).best.run
    made = plan(run, device_name="l4", devices=16)
    assert made.fits and not any("does not fit" in warning for warning in made.warnings)


def test_the_best_run_spends_the_budget_and_is_the_best():
    budget = Budget("h200", 64, 7, 3e8)
    answer = best_run(budget)
    made = plan(answer.best.run, device_name="h200", devices=64)
    assert made.hours == pytest.approx(7 * 24, rel=0.01)
    assert all(answer.best.error <= choice.error for choice in rank(budget, PAPER))
    assert len(answer.others) == 2
    assert answer.prices["ten times the unique images"] < answer.best.error


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(sorted(DEVICES)), st.sampled_from([1, 8, 64]), st.floats(2, 30))
def test_more_time_is_never_worse(name, devices, days):
    less, more = (rank(Budget(name, devices, d, 1e9), PAPER, 1) for d in (days, 2 * days))
    if less:
        assert more[0].error <= less[0].error * 1.0001


def test_time_that_few_images_cannot_use_is_named():
    starved = Budget("h200", 64, 7, 3e7)
    answer = best_run(starved)
    assert answer.enough is not None and answer.enough <= 0.5
    shorter = rank(starved.times(answer.enough), PAPER, 1)[0]
    assert shorter.error == pytest.approx(answer.best.error, rel=0.0101)
    assert best_run(Budget("h100", 8, 1, 1e10)).enough is None


def test_an_inference_limit_is_kept():
    answer = best_run(Budget("h100", 8, 7, 1e9, inference_gflops=10))
    assert answer.best.run.model.resolve().flops() <= 10e9
    assert answer.prices["no limit on inference"] <= answer.best.error


@pytest.mark.parametrize(
    "limit", [{"device_hours": 1344.0}, {"money": 2688.0, "price": 2.0}, {"train_flops": 1.67e21}]
)
def test_what_is_spent_may_be_hours_money_or_flops(limit):
    whole = best_run(Budget("h100", 8, 7, 1e9))
    answer = best_run(Budget("h100", None, 7, 1e9, **limit))
    assert answer.best.devices == 8 and answer.best.days <= 7.001
    assert answer.best.error == pytest.approx(whole.best.error, rel=0.001)
    made = plan(answer.best.run, devices=8, price=limit.get("price"))
    assert made.hours * 8 == pytest.approx(24 * answer.best.devices * answer.best.days, rel=1e-6)
    assert made.train_flops == pytest.approx(1.67e21, rel=0.01)
    assert answer.best.cost == (pytest.approx(2688, rel=0.001) if "price" in limit else None)


def test_of_several_limits_the_tightest_counts_and_each_has_its_price():
    budget = Budget("h100", 8, 7, 1e9, device_hours=300, money=1e6, price=2)
    answer = best_run(budget)
    assert answer.best.error == best_run(Budget("h100", None, 7, 1e9, device_hours=300)).best.error
    assert answer.prices["no limit on device hours"] < answer.best.error
    assert answer.prices["no limit on money"] == answer.prices["no limit on days"] == answer.best.error


def test_the_deadline_and_the_memory_decide_how_many_devices():
    within = [best_run(Budget("h100", None, days, 1e9, device_hours=1000)).best for days in (1, 10, 100)]
    assert [one.devices for one in within] == [64, 8, 1]
    assert all(one.days <= days for one, days in zip(within, (1, 10, 100)))
    roomy, tight = (best_run(Budget("h100", None, 7, 1e9, device_hours=1e4, memory=m)).best for m in (80, 3))
    assert roomy.devices == 64 < tight.devices
    assert plan(tight.run, devices=tight.devices, memory=3).fits


def test_less_memory_costs_and_says_so():
    answer = best_run(Budget("h100", 8, 7, 1e9, memory=2))
    assert answer.prices["no limit on memory"] < answer.best.error
    assert plan(answer.best.run, devices=8, memory=2).fits


@pytest.mark.parametrize("devices", [3, 24, 100])
def test_any_number_of_devices_shares_a_batch(devices):
    run = best_run(Budget("h100", devices, 7, 1e9)).best.run
    assert run.train.batch % devices == 0
    assert run.train.batch == pytest.approx(4096 if run.model.resolve().width < 1408 else 16_384, rel=0.02)


def test_sovit_scales_from_its_anchor():
    anchor = shape(ANCHOR)
    assert sovit(anchor, 1.0, 14) == Shape(1152, 27, 4288, 18, 14)
    larger = sovit(anchor, 10.0, 14)
    assert larger.depth / anchor.depth == pytest.approx(10**0.45, rel=0.03)
    assert names_of(anchor) == "So400m/14"


def test_a_budget_is_answered_at_once_without_torch_and_pretrain_takes_the_answer(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    words = ["plan", "--gpus", "64", "--gpu", "h200", "--days", "7", "--unique-images", "3e8", "--json"]
    program = (
        "import sys, time; from scalevit.cli.main import main; "
        f"assert main({[*words, '--out', str(path)]}) == 0; assert 'torch' not in sys.modules; "
        "print(time.process_time(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stderr) < 2  # processor time; 0.6 s on an idle machine
    assert json.loads(done.stdout)["best"]["run"]["schedule"]["steps"] == load(str(path)).schedule.steps
    assert main.main(["pretrain", str(path), "--dry-run"]) == 0
    assert "all checks pass, nothing created" in capsys.readouterr().out


def test_the_choice_is_drawn(tmp_path):
    path = tmp_path / "choice.svg"
    assert main.main(["plan", "--gpus", "8", "--days", "7", "--picture", str(path)]) == 0
    text = path.read_text()
    assert text.count("<path") > 50 and "</svg>" in text


def test_no_shape_is_offered_twice_and_some_lie_between_the_named_ones():
    named = [candidate for name, candidate in candidates() if not name[0].isdigit()]
    every = [candidate for _, candidate in candidates()]
    assert len(every) == len(set(every)) > len(named)
    sizes = [candidate.flops() for candidate in every]
    small, large = shape("S/16").flops(), shape("g/14").flops()
    middle = sorted(size for size in sizes if small <= size <= large)
    assert np.max(np.diff(np.log(middle))) < 0.5


def test_the_written_run_is_the_one_that_pretrain_reads(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    words = [
        "plan",
        "--gpus",
        "64",
        "--gpu",
        "h200",
        "--days",
        "7",
        "--unique-images",
        "3e8",
        "--out",
        str(path),
    ]
    assert main.main([*words, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    run = load(str(path))
    assert run.schedule.steps == data["best"]["run"]["schedule"]["steps"]
    assert run.data.images == 300_000_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--days", "0.0000001"], "nothing trains within"),
        (["--days", "-1"], "days must be positive"),
        (["--gpu", "h2000"], "unknown device 'h2000'; known: h200"),
        (["paper/G14", "--days", "3"], "--days is for a budget"),
        (["paper/G14", "--mfu", "35"], "between 0 and 1"),
        (["--task", "imagenet_1shot"], "no law of 'imagenet_1shot'"),
        (["--unique-images", "0"], "unique_images must be positive"),
        (["--inference-gflops", "0.001"], "nothing trains within"),
        (["--gpus", "0"], "devices must be positive"),
        (["--gpus", "-4", "demo"], "at least one device"),
        (["--days", "nan"], "days must be positive"),
        (["--days", "1e300"], "at most 100000, found 1e+300"),
        (["--study", "/nowhere"], "there is no such folder"),
        (["paper/G14", "--out", "/nowhere/run.yaml"], "there is no folder"),
        (["--money", "100"], "money buys nothing without a price"),
        (["--device-hours", "inf"], "no limit on what is spent"),
        (["--train-flops", "1e10"], "gets 0 steps"),
        (["--memory", "0.01"], "fits into 0.01 GiB"),
        (["--memory", "nan"], "above 0 GiB"),
        (["--price", "-1"], "above 0, found -1"),
        (["paper/G14", "--price", "nan"], "above 0, found nan"),
        (["paper/G14", "--money", "5"], "--money is for a budget"),
        (["--unique-images", "10"], "fewer than 1000 classes"),
        (["--unique-images", "1000"], "no better than guessing"),
    ],
)
def test_impossible_wishes_are_one_line(words, said, capsys):
    assert main.main(["plan", *words]) == 2
    streams = capsys.readouterr()
    assert said in streams.err
    assert len(streams.err.splitlines()) == 1


def test_every_preset_can_be_planned():
    assert all(plan(run).hours > 0 for run in PRESETS.values())


def test_hours_follow_the_peak_of_the_precision_and_recomputing_costs_a_third_more():
    def hours(*overrides, **given):
        return plan(load("i1k/S16", ["model.shape=L/16", *overrides]), devices=8, **given).hours

    plain = hours()
    assert hours("train.precision=fp32") / plain == pytest.approx(989 / 67)
    assert plain / hours("train.precision=fp8") == pytest.approx(1979 / 989)
    assert hours("parallel.recompute=full") / plain == pytest.approx(4 / 3)
    assert hours("parallel.recompute=selective") == plain
    assert hours("parallel.recompute=full", mfu=0.3) == hours(mfu=0.3)


def test_a_device_by_its_own_figures():
    run = load("i1k/S16", ["model.shape=L/16"])
    mine = plan(run, devices=8, custom=custom_device("mine", 500.0, 64.0, None))
    assert (mine.device.name, mine.device.memory) == ("mine", 64.0)
    assert mine.hours / plan(run, devices=8).hours == pytest.approx(989 / 500)
    slow = plan(run, devices=8, custom=custom_device("h100", None, None, 0.5))
    assert slow.hours > mine.hours and "0.5 GB/s" in slow.speed.source
    numbers = run.model.resolve().parameters(224, run.model.pool, run.model.classes)
    assert slow.hours * 3600 > run.schedule.steps * 12 * numbers / 0.5e9


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("mine", 500.0, None, None), "--memory"),
        (("h100", -1.0, None, None), "above 0"),
        (("h100", math.nan, None, None), "above 0"),
        (("mine", None, None, 100.0), "unknown device"),
    ],
)
def test_figures_of_a_device_that_cannot_be(given, says):
    with pytest.raises(ValueError, match=says):
        custom_device(*given)
