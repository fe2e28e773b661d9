"""A batch is a pure function of its step: ranks, workers, order of asking and resuming change nothing."""

from itertools import islice

import numpy as np
import pytest
import torch

from scalevit.data.corrupt import CorruptSample
from scalevit.data.loader import Batches, Samples, as_floats
from scalevit.data.order import Order


class Numbered:
    """A source whose image is its index and position, so that a test sees what the loader asked for."""

    is_cacheable = False
    class_cycle = 0

    def __init__(self, samples: int) -> None:
        self.samples, self.asked = samples, 0

    def get(self, indices, positions):
        self.asked += len(indices)
        pixels = np.zeros((len(indices), 2, 2, 3), np.uint8)
        for byte in range(3):
            pixels[:, 0, 0, byte] = indices >> (8 * byte) & 255
            pixels[:, 0, 1, byte] = positions >> (8 * byte) & 255
        return Samples(torch.from_numpy(pixels), torch.from_numpy(indices % 10))


class Kept(Numbered):
    """As a procedural family: endless, and worth keeping."""

    is_cacheable = True

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
    again.is_cacheable = False
    assert same(kept, first(batches(again, order=Order(0, 100)), 30))
    assert again.asked == 30 * 32


def test_a_worker_that_fails_stops_the_run_with_its_reason():
    class Failing(Numbered):
        def get(self, indices, positions):
            raise ValueError(f"cannot read sample {indices[0]}")

    with pytest.raises(ValueError, match="cannot read sample"):
        first(batches(Failing(50), workers=2), 1)


class Cracked(Numbered):
    """Every sample of a number below 8 is broken."""

    def get(self, indices, positions):
        broken = tuple(CorruptSample(f"file {i}", f"file {i} is cut") for i in indices.tolist() if i < 8)
        return super().get(indices, positions)._replace(broken=broken)


@pytest.mark.parametrize("workers", [0, 4])
def test_broken_samples_are_counted_when_given_out_and_not_when_read_ahead(workers):
    loader = batches(Cracked(320), workers=workers, tolerate=0.05, where="photos")
    counts, truth = [], 0
    for step, batch in islice(loader.iter_from(0), 20):
        counts.append(loader.replaced.times)
        truth += int((batch.images[:, 0, 0].to(torch.int64) @ torch.tensor([1, 256, 65536]) < 8).sum())
        assert counts[-1] == truth
        assert truth == 8 * (step + 1) // 10 or step % 10 != 9
    assert counts[-1] == 16 and len(loader.replaced.first) == 5


@pytest.mark.parametrize("workers", [0, 4])
def test_too_many_broken_samples_end_the_run_at_the_same_step_whatever_the_workers(workers):
    loader, given = batches(Cracked(320), workers=workers, tolerate=0.02, where="photos"), []
    with pytest.raises(ValueError, match=r"of 1\d\d\d samples were broken.* scalevit data check photos$"):
        given += [step for step, _ in islice(loader.iter_from(0), 100)]
    alone = batches(Cracked(320), tolerate=0.02)
    with pytest.raises(ValueError, match=r"over data\.tolerate=0\.02"):
        first(alone, 100)
    assert loader.replaced == alone.replaced


def test_an_uneven_share_is_refused():
    with pytest.raises(ValueError, match="32 images cannot be shared evenly by 3"):
        batches(world=3)


def test_floats_are_channels_first_between_minus_one_and_one():
    images = torch.tensor([[[[0, 255, 51]]]], dtype=torch.uint8)
    expected = torch.tensor([[[[-1.0]], [[1.0]], [[51 / 127.5 - 1]]]])
    torch.testing.assert_close(as_floats(images), expected, rtol=0, atol=2e-7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory is for copies to a GPU")
def test_batches_for_a_gpu_lie_in_pinned_memory():
    batch = batches(pin=True, workers=2)[3]
    assert batch.images.is_pinned() and batch.labels.is_pinned()
