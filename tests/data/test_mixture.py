"""A mixture of sources has its proportions, keeps each source's own order, and resumes like any run."""

import dataclasses

import numpy as np
import pytest
import torch
from image_run import RUN
from pictures import make_folder, make_shards

from scalevit import config
from scalevit.artifacts import records
from scalevit.cli.main import main
from scalevit.config.run import Data
from scalevit.data.loader import Samples
from scalevit.data.mixture import Mixed
from scalevit.data.order import Mixture
from scalevit.data.registry import batches_of


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("mix")
    folder = make_folder(root / "f")
    return str(folder), str(make_shards(make_folder(root / "g", 12), root / "tars", "tar", shards=2))


def mixed(sources, rank=0, world=1, **settings):
    folder, tars = sources
    weighed = {"more": (tars, "strokes"), "weights": (2.0, 1.0, 1.0)}
    data = Data(folder, transform="inception", **weighed, **settings)
    return batches_of(data, image=16, classes=3, batch=16, rank=rank, world=world)


def test_every_image_is_what_its_source_alone_would_give(sources):
    loader = mixed(sources)
    which, places = Mixture((2.0, 1.0, 1.0)).at(np.arange(64))
    assert np.bincount(Mixture((2.0, 1.0, 1.0)).at(np.arange(4096))[0]).tolist() == [2048, 1024, 1024]
    seen = torch.cat([loader[step].images for step in range(4)])
    labels = torch.cat([loader[step].labels for step in range(4)])
    for number, source in enumerate((*sources, "strokes")):
        transform = "none" if source == "strokes" else "inception"
        alone = batches_of(Data(source, transform=transform), image=16, classes=3, batch=16)
        for position in np.flatnonzero(which == number):
            index = alone.order.at(places[position : position + 1])[1]
            images, label, _ = alone.source.get(index, np.array([position]))
            assert torch.equal(seen[position], images[0]) and labels[position] == label[0]


@pytest.mark.parametrize(("workers", "world"), [(2, 1), (0, 2), (4, 2)])
def test_workers_ranks_and_stops_change_nothing(sources, workers, world):
    alone = mixed(sources)
    for stop in (0, 3):
        shares = [mixed(sources, rank, world, workers=workers).iter_from(stop) for rank in range(world)]
        for step in range(stop, 7):
            parts = [next(share)[1] for share in shares]
            assert torch.equal(torch.cat([part.images for part in parts]), alone[step].images)
            assert torch.equal(torch.cat([part.labels for part in parts]), alone[step].labels)


def test_one_source_of_several_labels_makes_all_multi_hot():
    class Fixed:
        samples, is_cacheable, class_cycle = 4, False, 0

        def __init__(self, labels):
            self.labels = labels

        def get(self, indices, positions):
            images = torch.zeros(len(indices), 2, 2, 3, dtype=torch.uint8)
            return Samples(images, self.labels[torch.from_numpy(indices)])

    single, several = Fixed(torch.tensor([0, 1, 2, 1])), Fixed(torch.ones(4, 3))
    both = Mixed([single, several], 3)
    labels = both.get(np.array([1 << 48, 2]), np.array([0, 1])).labels
    assert labels.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_a_run_on_a_mixture_resumes_to_the_same_losses(sources, tmp_path):
    folder, tars = sources
    more = [f"data.source={folder}", f"data.more=[{tars},strokes]", "data.weights=[2,1,1]"]
    words = ["pretrain", "demo", *RUN, *more, "train.save_every=1"]

    def losses(out):
        return [row["value"] for row in records.read_records(out) if row["metric"] == "loss"]

    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    assert main([*words, "--out", str(tmp_path / "b"), "--max-minutes", "0"]) == 3
    assert main([*words, "--out", str(tmp_path / "b")]) == 0
    assert len(losses(tmp_path / "a")) == 4 and losses(tmp_path / "b") == losses(tmp_path / "a")


def test_mistakes_of_a_mixture_are_told_together():
    run = config.load("demo")
    wrong = Data("a", more=("b",), weights=(1.0, -1.0, 2.0), images=5)
    found = config.validate(dataclasses.replace(run, data=wrong))
    assert len([line for line in found if line.startswith(("data.weights", "data.more"))]) == 3
    assert config.validate(dataclasses.replace(run, data=Data(weights=(1.0,))))
    plain = config.run_id(run)
    assert config.run_id(dataclasses.replace(run, data=dataclasses.replace(run.data, more=("b",)))) != plain
