"""Growth of a study: what is added in any order keeps the runs that are there."""

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalevit import config
from scalevit.study.design import grid
from scalevit.study.design.downstream import Finetune, ProbeSpec
from scalevit.study.design.growth import grow
from scalevit.study.design.spec import PRESETS, Variant

BASE = replace(PRESETS["demo-small"], images=(256,), durations=(32, 64))
BASE = replace(BASE, models=BASE.models[:1])
STEPS = {
    "seeds": {"seeds": (0, 3)},
    "recipes": {"recipes": (Variant(), Variant("gap", ("model.pool=gap",)))},
    "models": {"models": (*BASE.models, PRESETS["demo-small"].models[1])},
    "images": {"images": (512, 256)},
    "durations": {"durations": (32, 48, 64, 128)},
    "probes": {"probes": (ProbeSpec("digits", draws=2),)},
    "finetunes": {"finetunes": (Finetune("digits", steps=5),)},
}


def identities(spec):
    nodes = grid.pretraining_nodes(grid.expand(spec))
    return {node.name: (config.run_id(node.run), node.after, node.at) for node in nodes}


@pytest.mark.parametrize("axis", STEPS)
def test_a_wider_axis_adds_runs_and_changes_none(axis):
    before, after = grid.expand(BASE), grid.expand(grow(BASE, replace(BASE, **STEPS[axis])))
    assert len(after) > len(before)
    known = {node.name: node for node in after}
    assert {n.name: config.run_id(known[n.name].run) for n in before} == {
        n.name: config.run_id(n.run) for n in before
    }


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([*permutations(["seeds", "recipes", "models", "images"])]))
def test_the_order_in_which_a_study_grew_does_not_change_its_runs(order):
    spec = BASE
    for axis in order:
        spec = grow(spec, replace(spec, **STEPS[axis]))
    once = replace(BASE, **{key: value for axis in order for key, value in STEPS[axis].items()})
    assert identities(spec) == identities(once)


def test_a_duration_between_two_others_starts_from_the_latest_checkpoint_before_its_cooldown():
    nodes = {node.duration: node for node in grid.expand(grow(BASE, replace(BASE, durations=(16, 48, 100))))}
    assert sorted(nodes) == [16, 32, 48, 64, 100]
    trunk = nodes[64]
    assert trunk.run.train.keep_at == (24, 48)
    assert (nodes[48].after, nodes[48].at, nodes[48].run.train.keep_at) == (trunk.name, 24, (36,))
    assert (nodes[100].after, nodes[100].at) == (trunk.name, 48)
    assert (nodes[16].kind, nodes[16].after, nodes[16].at) == ("trunk", None, 0)


def test_a_recipe_with_the_settings_of_the_base_gives_its_name_to_the_runs_that_are_there():
    pool = config.load("demo").model.pool
    named = Variant("mine", (f"model.pool={pool}",))
    wider = grow(BASE, replace(BASE, recipes=(named, Variant("gap", ("model.pool=gap",)))))
    assert [variant.name for variant in wider.recipes] == ["mine", "gap"]


def test_another_base_does_not_grow_into_a_study():
    other = replace(BASE, overrides=("train.batch=64",), seeds=(7,))
    assert grow(BASE, other) == other
