"""A batch is a pure function of its step: ranks, workers, order of asking and resuming change nothing."""

from itertools import islice

import numpy as np
import pytest
import torch

from scalevit.data.loader import Batches, as_floats
from scalevit.data.order import Order


class Numbered:
    """A source whose image is its index and position, so that a test sees what the loader asked for."""

    keeps = False
    strata = 0

    def __init__(self, samples: int) -> None:
        self.samples, self.asked = samples, 0

    def get(self, indices, positions):
        self.asked += len(indices)
        pixels = np.zeros((len(indices), 2, 2, 3), np.uint8)
        for byte in range(3):
            pixels[:, 0, 0, byte] = indices >> (8 * byte) & 255
            pixels[:, 0, 1, byte] = positions >> (8 * byte) & 255
        return torch.from_numpy(pixels), torch.from_numpy(indices % 10)


class Kept(Numbered):
    """As a procedural family: endless, and worth keeping."""

    keeps = True

    def get(self, indices, positions):
        return super().get(indices, indices)


def batches(source=None, **options) -> Batches:
    source = source or Numbered(1000)
    return Batches(source, options.pop("order", Order(source.samples, seed=3)), batch=32, **options)


def first(loader: Batches, steps: int, start: int = 0):
    return [batch for _, batch in islice(loader.iter_from(start), steps)]


def same(some, others) -> bool:
    return len(some) == len(others) and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in zip(some, others)
    )


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_do_not_change_three_epochs(workers):
    assert same(first(batches(workers=workers), 100), first(batches(), 100))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_see_what_one_alone_sees(world):
    whole = first(batches(), 100)
    shares = [first(batches(rank=rank, world=world), 100) for rank in range(world)]
    for step, batch in enumerate(whole):
        joined = torch.cat([share[step].images for share in shares])
        assert torch.equal(joined, batch.images)


def test_resuming_anywhere_continues_the_same():
    for step in (1, 31, 77):
        assert same(first(batches(workers=2), 5, start=step), first(batches(), step + 5)[step:])


def test_labels_belong_to_images():
    batch = batches()[12]
    index = batch.images[:, 0, 0].to(torch.int64) @ torch.tensor([1, 256, 65536])
    assert torch.equal(index % 10, batch.labels)


def test_an_epoch_is_every_sample_once():
    source = Numbered(320)
    seen = torch.cat([batch.images[:, 0, 0, :2] for batch in first(batches(source), 10)]).to(torch.int64)
    assert sorted((seen @ torch.tensor([1, 256])).tolist()) == [*range(320)]


def test_a_small_finite_family_is_rendered_once():
    source, again = Kept(0), Kept(0)
    kept = first(batches(source, order=Order(0, 100)), 30)
    assert source.asked <= 101
    again.keeps = False
    assert same(kept, first(batches(again, order=Order(0, 100)), 30))
    assert again.asked == 30 * 32


def test_a_worker_that_fails_stops_the_run_with_its_reason():
    class Broken(Numbered):
        def get(self, indices, positions):
            raise ValueError(f"cannot read sample {indices[0]}")

    with pytest.raises(ValueError, match="cannot read sample"):
        first(batches(Broken(50), workers=2), 1)


def test_an_uneven_share_is_refused():
    with pytest.raises(ValueError, match="32 images cannot be shared evenly by 3"):
        batches(world=3)


def test_the_stall_share_is_the_time_waited():
    loader = batches()
    first(loader, 20)
    assert 0 < loader.stall_share <= 1


def test_floats_are_channels_first_between_minus_one_and_one():
    images = torch.tensor([[[[0, 255, 51]]]], dtype=torch.uint8)
    assert torch.equal(as_floats(images), torch.tensor([[[[-1.0]], [[1.0]], [[51 / 127.5 - 1]]]]))
