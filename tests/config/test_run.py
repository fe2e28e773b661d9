"""A run goes to YAML and back; its mistakes are found together and before anything exists."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalevit import config
from scalevit.config.load import dump, load
from scalevit.config.lr_schedule import Schedule
from scalevit.config.presets import PRESETS
from scalevit.config.run import Branch, Data, Model, Run, Train
from scalevit.config.run_id import run_id
from scalevit.config.validate import ConfigErrors


def test_every_preset_is_valid_and_there_are_thirteen():
    assert len(PRESETS) == 13
    for name in PRESETS:
        assert config.validate(load(name)) == []


@pytest.mark.parametrize("name", PRESETS)
def test_yaml_round_trip(name, tmp_path):
    run = load(name)
    path = tmp_path / "run.yaml"
    path.write_text(dump(run))
    assert load(str(path)) == run


@given(
    lr=st.floats(1e-6, 10),
    steps=st.integers(1, 10**7),
    seed=st.integers(0, 2**31),
    keep=st.lists(st.integers(0, 9)),
)
def test_round_trip_of_any_numbers(tmp_path_factory, lr, steps, seed, keep):
    run = Run(
        schedule=Schedule(lr=lr, steps=steps, warmup=0, cooldown=0),
        train=Train(seed=seed, keep_at=tuple(keep)),
    )
    path = tmp_path_factory.mktemp("run") / "run.yaml"
    path.write_text(dump(run))
    assert load(str(path)) == run


def test_overrides_take_the_type_of_the_field():
    run = load(
        "demo",
        ["schedule.lr=8e-4", "train.batch=1e2", "model.depth=2", "probe.shots=[1, 2]", "model.mlp=null"],
    )
    assert (run.schedule.lr, run.train.batch, run.model.depth) == (8e-4, 100, 2)
    assert run.probe.shots == (1, 2)
    assert run.model.mlp is None


def test_all_mistakes_at_once_with_the_nearest_names():
    with pytest.raises(ConfigErrors) as caught:
        load("demo", ["modl.width=3", "model.widht=3", "model.pool=mapp", "train.batch=many", "nonsense"])
    text = str(caught.value)
    assert len(caught.value.errors) == 5
    assert "model.widht: no such key; nearest: model.width" in text
    assert "modl: no such key; nearest: model" in text
    assert "'mapp' is none of map, gap, token" in text
    assert "train.batch: expected int, found 'many'" in text


def test_impossible_combinations_are_found_together():
    with pytest.raises(ConfigErrors) as caught:
        load(
            "paper/B16",
            [
                "model.image=225",
                "schedule.warmup=9e9",
                "train.micro_batch=5",
                "model.heads=7",
                "train.polyak=1",
                "train.ema=0.9",
                "optimizer.layer_decay=2",
                "data.mixup=-1",
            ],
        )
    text = str(caught.value)
    assert len(caught.value.errors) == 7
    assert "nearest: 224, 240" in text
    assert "warmup 9000000000 + cooldown 50000 steps are longer than the run's 4000000" in text
    assert "nearest: [6, 8]" in text


def test_unknown_presets_files_and_shapes():
    with pytest.raises(ValueError, match="nearest presets: paper/G14"):
        load("paper/G15")
    with pytest.raises(ValueError, match="case-sensitive; nearest: B/16"):
        load("demo", ["model.shape=b/16"])


def test_a_file_that_holds_no_run(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("- 1\n- 2\n")
    with pytest.raises(ValueError, match="holds no run"):
        load(str(path))
    path.write_text("model: [unclosed")
    with pytest.raises(ValueError, match="is no YAML"):
        load(str(path))


def test_the_id_follows_what_decides_the_weights_and_nothing_else():
    run = load("demo")
    same = dataclasses.replace(
        run, name="other", data=dataclasses.replace(run.data, workers=3),
        train=dataclasses.replace(run.train, log_every=1, keep_at=(5,)), branch=Branch("elsewhere", 0),
    )  # fmt: skip
    assert run_id(same) == run_id(run)
    named = dataclasses.replace(run, model=Model(shape="B/16"))
    spelled = dataclasses.replace(run, model=Model(shape="S/16", width=768, mlp=3072, heads=12))
    assert run_id(named) == run_id(spelled)
    others = [
        dataclasses.replace(run, data=Data(seed=1)),
        dataclasses.replace(run, data=Data(mixup=0.2)),
        dataclasses.replace(run, data=Data(randaugment=10)),
        dataclasses.replace(run, train=dataclasses.replace(run.train, seed=1)),
        dataclasses.replace(run, schedule=dataclasses.replace(run.schedule, lr=1e-3)),
    ]
    assert len({run_id(run), *map(run_id, others)}) == 6


def test_explicit_numbers_take_precedence_over_the_name():
    assert Model(shape="B/16", depth=3, patch=8).resolve().depth == 3
    assert Model(shape="B/16", depth=3, patch=8).resolve().width == 768


def test_training_needs_a_source_and_planning_does_not():
    run = load("paper/G14")
    assert "say where your images are" in config.missing_source(run)[0]
    assert config.missing_source(load("paper/G14", ["data.source=photos"])) == []
