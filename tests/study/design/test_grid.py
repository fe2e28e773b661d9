"""The grid: what follows from a study, what it costs, and what it says about mistakes."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalevit import config
from scalevit.config import lr_schedule
from scalevit.study.design import ablations, grid
from scalevit.study.design.cost import critical_paths, planned_times, study_cost
from scalevit.study.design.spec import PRESETS, dump_spec, read_spec

SPEC = """
name: mine
base: demo
overrides: {train.batch: 64}
models:
  - {name: small, width: 32, depth: 2, mlp: 128, heads: 1}
  - {name: large, width: 64, depth: 3, mlp: 256, heads: 2}
recipes:
  - {name: map, model.pool: map}
  - {name: gap, model.pool: gap, optimizer.head_decay: 0.1}
images: [1000, 0]
durations: [100, 200, 400]
cooldown: 0.2
seeds: [0, 1]
"""


def spec(tmp_path, text=SPEC):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return grid.load(str(path))


def test_a_study_is_one_trunk_and_its_branches_for_each_of_the_other_axes(tmp_path):
    nodes = grid.expand(spec(tmp_path))
    assert len(nodes) == 2 * 2 * 2 * 2 * 3
    assert len({node.name for node in nodes}) == len(nodes)
    node = next(n for n in nodes if n.name == "large-gap-1k-seed1-200")
    assert (node.run.model.width, node.run.model.pool, node.run.optimizer.head_decay) == (64, "gap", 0.1)
    assert (node.run.data.images, node.run.train.seed, node.run.train.batch) == (1000, 1, 64)
    assert (node.after, node.at, node.steps) == ("large-gap-1k-seed1-400", 160, 40)
    assert node.run.branch == config.Branch("runs/large-gap-1k-seed1-400", 160)


def test_the_longest_run_is_the_trunk_and_keeps_every_branch_point(tmp_path):
    trunk = grid.expand(spec(tmp_path))[0]
    assert trunk.kind == "trunk"
    assert trunk.run.train.keep_at == (80, 160, 320)
    assert trunk.run.schedule.steps == trunk.steps == 400
    assert trunk.run.schedule.cooldown == 80


@settings(max_examples=10, deadline=None)
@given(
    durations=st.sets(st.integers(100, 2000), min_size=2, max_size=4),
    cooldown=st.floats(0.05, 0.5),
)
def test_a_branch_has_its_trunks_learning_rate_until_it_leaves_and_ends_at_zero(durations, cooldown):
    demo = PRESETS["demo"]
    study = replace(demo, models=demo.models[:1], images=(0,), durations=tuple(durations), cooldown=cooldown)
    nodes = {node.name: node for node in grid.expand(study)}
    for node in nodes.values():
        if node.after is None:
            continue
        own, trunk = node.run.schedule, nodes[node.after].run.schedule
        for step in {0, node.at // 2, max(0, node.at - 1)}:
            assert lr_schedule.lr_at(own, step) == lr_schedule.lr_at(trunk, step)
        assert lr_schedule.lr_at(own, node.duration) == 0
        assert own.steps == node.duration


def test_cost_is_three_forward_passes_an_image_and_sharing_saves_the_common_steps(tmp_path):
    nodes = grid.expand(spec(tmp_path))
    small = [n for n in nodes if n.name.startswith("small-map-1k-") and "seed" not in n.name]
    shape = small[0].run.model.resolve()
    model = small[0].run.model
    step = 3 * 64 * shape.flops(model.image, "map", model.classes)
    assert study_cost(small).separate == pytest.approx(step * 700)
    assert study_cost(small).shared == pytest.approx(step * (400 + 20 + 40))


def test_four_durations_on_one_trunk_cost_at_most_55_percent_of_four_runs():
    study = replace(PRESETS["demo"], durations=(300, 600, 900, 1200), cooldown=0.2)
    assert study_cost(grid.expand(study)).share <= 0.55


def test_a_schedule_that_knows_its_end_gets_runs_of_its_own(tmp_path):
    text = SPEC.replace("overrides: {train.batch: 64}", "overrides: {schedule.name: cosine}")
    nodes = grid.expand(spec(tmp_path, text))
    assert {node.kind for node in nodes} == {"whole"}
    assert {node.run.schedule.steps for node in nodes} == {100, 200, 400}


def test_longer_durations_go_on_from_the_last_plateau_and_change_nothing_that_is_there(tmp_path):
    first = spec(tmp_path)
    before = {node.name: config.run_id(node.run) for node in grid.expand(first)}
    nodes = {node.name: node for node in grid.expand(replace(first, added_durations=(800, 1600)))}
    assert {name: config.run_id(nodes[name].run) for name in before} == before
    last, middle = nodes["small-map-1k-1600"], nodes["small-map-1k-800"]
    assert (middle.after, middle.at, middle.run.train.keep_at) == ("small-map-1k-400", 320, (640,))
    assert (last.after, last.at, last.steps) == (middle.name, 640, 960)
    for node in (middle, last):
        own, trunk = node.run.schedule, nodes[node.after].run.schedule
        assert all(lr_schedule.lr_at(own, s) == lr_schedule.lr_at(trunk, s) for s in range(0, node.at, 40))
    assert critical_paths(nodes.values())["small-map-1k-400"] == pytest.approx(
        sum(nodes[f"small-map-1k-{steps}"].flops for steps in (400, 800, 1600))
    )


def test_a_study_survives_being_written_and_read(tmp_path):
    first = spec(tmp_path)
    path = tmp_path / "again.yaml"
    path.write_text(dump_spec(first))
    assert grid.expand(read_spec(path)) == grid.expand(first)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_study_whose_runs_are_valid(name):
    study = grid.load(name)
    assert all(config.validate(node.run) == [] for node in grid.expand(study))


@pytest.mark.parametrize("size", ["cpu", "gpu"])
@pytest.mark.parametrize("name", ablations.ABLATIONS)
def test_every_ablation_varies_what_it_is_named_for_and_nothing_else(name, size):
    nodes = grid.expand(grid.load(name, size=size))
    sizes = {"model.width", "model.depth", "model.mlp", "model.heads"}
    keys = {
        "heads": {"model.pool"}, "head-decay": {"optimizer.head_decay", "optimizer.body_decay"},
        "optimizers": {"optimizer.name", "optimizer.momentum", "schedule.lr"},
        "schedules": {"schedule.name", "schedule.steps", "schedule.cooldown"},
        "sample-efficiency": {*sizes, "schedule.steps", "schedule.cooldown"},
        "data-size": {*sizes, "data.images", "schedule.steps", "schedule.cooldown"},
    }  # fmt: skip
    found = set()
    flat = [
        {
            f"{s}.{k}": v
            for s, part in config.to_dict(n.run).items()
            if isinstance(part, dict)
            for k, v in part.items()
        }
        for n in nodes
    ]
    for key in flat[0]:
        if len({str(one[key]) for one in flat}) > 1:
            found.add(key)
    assert found - {"train.seed", "train.keep_at", "branch.trunk", "branch.step"} == keys[name]


def test_the_timetable_respects_slots_trunks_and_the_total(tmp_path):
    nodes = grid.expand(spec(tmp_path))
    times = planned_times(nodes, workers=3, speed=1e9, startup=0.0)
    by_name = {line.node.name: line for line in times}
    for line in times:
        if line.node.after:
            trunk = by_name[line.node.after]
            left = trunk.start + (trunk.end - trunk.start) * line.node.at / trunk.node.duration
            assert line.start >= left - 1e-6
        same = [other for other in times if other.worker == line.worker and other is not line]
        assert all(other.end <= line.start + 1e-9 or other.start >= line.end - 1e-9 for other in same)
    total = sum(node.flops for node in nodes) / 1e9
    assert total / 3 <= max(line.end for line in times) <= total / 3 * 1.2


def test_all_mistakes_of_a_study_are_told_at_once_with_the_nearest_names(tmp_path):
    text = SPEC.replace("width: 32", "widht: 32").replace("train.batch: 64", "train.bach: 64")
    with pytest.raises(config.ConfigErrors) as caught:
        spec(tmp_path, text)
    assert "model.width" in str(caught.value) and "train.batch" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("durations: [100, 200, 400]", "durations: []", "durations: name at least one"),
        ("durations: [100, 200, 400]", "durations: [20, 400]", "inside the warm-up"),
        ("durations: [100, 200, 400]", "duration: [100]", "durations"),
        ("name: small", "name: a/b", "names a folder"),
        ("name: large", "name: small", "two are called"),
        ("images: [1000, 0]", "images: [5, 5]", "same value twice"),
        ("cooldown: 0.2", "cooldown: 2", "cooldown"),
        ("cooldown: 0.2", "cooldown: 0.2\nadded_durations: [200]", "other numbers of steps"),
        ("base: demo", "base: dmo", "nearest presets: demo"),
    ],
)
def test_mistakes_of_a_study(tmp_path, old, new, says):
    with pytest.raises(ValueError, match=says):
        spec(tmp_path, SPEC.replace(old, new))


def test_an_unknown_study_names_the_nearest():
    with pytest.raises(ValueError, match="nearest studies: demo"):
        grid.load("dmeo")


def test_the_older_name_of_added_durations_is_read(tmp_path):
    spec = replace(PRESETS["demo"], added_durations=(2400,))
    path = tmp_path / "study.yaml"
    path.write_text(dump_spec(spec).replace("added_durations:", "longer:"))
    assert read_spec(path).added_durations == (2400,)
