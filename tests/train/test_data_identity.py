"""A run is its settings and the content of its images: moved images go on, changed images are refused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_run import TINY, weights

from scalevit import config
from scalevit.artifacts import records
from scalevit.cli.cooldown import branch
from scalevit.config.run_id import PROCEDURAL
from scalevit.data.registry import FAMILIES
from scalevit.train.data_identity import identify
from scalevit.train.run import pretrain


def images(folder, classes="abc", count=6):
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def run_on(folder, steps=8):
    return replace(
        TINY,
        model=replace(TINY.model, classes=3),
        data=config.Data(source=str(folder)),
        schedule=replace(TINY.schedule, steps=steps, warmup=1, cooldown=0),
        train=replace(TINY.train, save_every=2, keep_at=()),
    )


def test_the_names_of_procedural_sources_are_those_of_the_data():
    assert PROCEDURAL == FAMILIES


def test_moved_images_and_folders_go_on_to_the_same_bits(tmp_path):
    whole = run_on(images(tmp_path / "job1"))
    pretrain(whole, tmp_path / "whole")
    assert pretrain(whole, tmp_path / "r", max_minutes=0).stopped == "the time limit"
    (tmp_path / "job1").rename(tmp_path / "job2")
    (tmp_path / "r").rename(tmp_path / "s")
    assert pretrain(run_on(tmp_path / "job2"), tmp_path / "s").stopped is None
    assert weights(tmp_path / "s") == weights(tmp_path / "whole")
    ids = {row["run"] for folder in ("s", "whole") for row in records.read_records(tmp_path / folder)}
    assert len(ids) == 1
    kept = config.load(str(tmp_path / "s" / "run.yaml")).data
    assert (kept.source, kept.names) == (str(tmp_path / "job2"), ("a", "b", "c"))


@pytest.mark.parametrize(("change", "word"), [
    (lambda folder: images(folder, "abc", 8), "18 images then, 24 now"),
    (lambda folder: (folder / "c").rename(folder / "d"), "new classes: d; classes gone: c"),
    (lambda folder: shutil.move(folder / "a" / "0.png", folder / "b" / "9.png"), "other images or labels"),
])  # fmt: skip
def test_changed_images_are_refused_unless_accepted(tmp_path, change, word):
    run, out = run_on(images(tmp_path / "photos")), tmp_path / "r"
    pretrain(run, out, max_minutes=0)
    change(tmp_path / "photos")
    with pytest.raises(ValueError, match=word) as caught:
        pretrain(run, out)
    assert "--accept-changed-data" in str(caught.value)
    assert pretrain(run, out, accept_changed_data=True).stopped is None
    kept = config.load(str(out / "run.yaml")).data
    assert len(kept.accepted) == 1
    assert kept.accepted[0] != kept.content
    assert pretrain(run, out).stopped is None  # and from now on without asking


def test_other_images_in_a_new_folder_are_another_run(tmp_path):
    one, two = run_on(images(tmp_path / "one")), run_on(images(tmp_path / "two", count=8))
    first, _ = identify(one, tmp_path / "r")
    second, info = identify(replace(first, data=replace(first.data, source=two.data.source)), tmp_path / "s")
    assert info.samples == 24
    assert second.data.content != first.data.content
    assert not config.same_run(first, second)
    assert config.same_run(first, one)
    assert config.same_run(first, replace(one, train=replace(one.train, micro_batch=2, compile=True)))


def test_a_branch_with_its_own_checkpoint_needs_no_trunk(tmp_path):
    trunk = replace(run_on(images(tmp_path / "photos")), schedule=replace(TINY.schedule, steps=40))
    pretrain(replace(trunk, train=replace(trunk.train, keep_at=(4,))), tmp_path / "trunk")
    (tmp_path / "photos").rename(tmp_path / "moved")
    cooled = branch(tmp_path / "trunk", 4, 6, [f"data.source={tmp_path / 'moved'}"])
    assert pretrain(cooled, tmp_path / "b", max_minutes=0).stopped is not None
    shutil.rmtree(tmp_path / "trunk")
    assert pretrain(cooled, tmp_path / "b").stopped is None
    parents = {row["parent"] for row in records.read_records(tmp_path / "b")}
    assert parents == {cooled.branch.parent}
