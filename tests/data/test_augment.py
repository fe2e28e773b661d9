"""RandAugment and mixup: what they do to an image, and that only the place in the run decides it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from scalevit.config.run import Data
from scalevit.data.augment import FULL, OPS, mixed, rand_augment, shares
from scalevit.data.loader import Batches, Samples
from scalevit.data.order import Order
from scalevit.data.procedural.hashing import key
from scalevit.data.registry import augmented, batches_of


class Flat:
    """Image i is grey value i, its class is i mod 3."""

    samples, class_cycle, is_cacheable = 40, 0, False

    def get(self, indices, positions):
        pixels = np.broadcast_to(indices.astype(np.uint8)[:, None, None, None], (len(indices), 4, 4, 3))
        return Samples(torch.from_numpy(pixels.copy()), torch.from_numpy(indices % 3))


def batches(rank=0, world=1, batch=12, **settings):
    order = Order(40, 0, 0)
    source = augmented(Flat(), order, Data(**settings), 3)
    return Batches(source, order, batch=batch, rank=rank, world=world), order


def test_mixup_mixes_neighbours_of_the_run_and_their_labels_alike():
    found, order = batches(mixup=0.4)
    batch = found[5]
    first, second = order.at(batch.positions)[1], order.at(batch.positions ^ 1)[1]
    share = shares(key(0, 11, batch.positions), 0.4)
    assert batch.images[:, 0, 0, 0].numpy() == pytest.approx(share * first + (1 - share) * second, abs=0.51)
    expected = np.zeros((12, 3))
    np.add.at(expected, (np.arange(12), first % 3), share)
    np.add.at(expected, (np.arange(12), second % 3), 1 - share)
    assert batch.labels.numpy() == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 20), st.sampled_from([1, 2, 3, 4, 12]))
@settings(max_examples=20, deadline=None)
def test_devices_do_not_change_it_even_when_partners_lie_elsewhere(step, world):
    whole = batches(mixup=0.2, randaugment=10)[0][step]
    parts = [batches(rank, world, mixup=0.2, randaugment=10)[0][step] for rank in range(world)]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)


def test_shares_are_the_larger_half_of_a_beta():
    drawn = shares(key(3, np.arange(20_000)), 0.8)
    folded = stats.beta(0.8, 0.8)
    assert stats.kstest(drawn, lambda x: folded.cdf(x) - folded.cdf(1 - x)).pvalue > 0.01


def test_a_share_of_one_changes_nothing():
    images, labels = torch.randint(0, 256, (3, 4, 4, 3), dtype=torch.uint8), torch.eye(3)
    own, other = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    same, soft = mixed(images, labels, own, other, torch.ones(3))
    assert torch.equal(same, images) and torch.equal(soft, labels)


def test_operations_do_nothing_at_strength_0_and_more_at_more():
    image = Image.fromarray(np.random.default_rng(0).integers(40, 200, (16, 16, 3), np.uint8))
    before = np.asarray(image).astype(int)

    def change(name, strength):
        return np.abs(np.asarray(OPS[name](image, strength)) - before).mean()

    for name in set(OPS) - {"identity", "autocontrast", "equalize"}:  # these have no strength
        assert change(name, 0.0) == 0, name
        assert 0 < change(name, 0.5) <= change(name, 1.0) * 1.05, name
    assert change("autocontrast", 1) > 0 and change("equalize", 1) > 0 and change("identity", 1) == 0
    moved = np.asarray(OPS["move x"](image, 1.0))
    assert (moved[:, -4:] == 128).all() and (moved[:, :8] != 128).any()


def test_two_operations_a_key_and_all_of_them_over_many():
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    views = [rand_augment(image, one, FULL) for one in key(0, np.arange(200)).tolist()]
    assert all(view.shape == image.shape and view.dtype == np.uint8 for view in views)
    assert len({view.tobytes() for view in views}) > 100
    assert (rand_augment(image, 7, FULL) == rand_augment(image, 7, FULL)).all()


def test_a_run_that_asks_for_neither_has_its_source_as_it_was():
    source = Flat()
    assert augmented(source, Order(40, 0, 0), Data(), 3) is source
    strokes = batches_of(Data(mixup=0.5), image=8, classes=4, batch=6)[0]
    assert strokes.labels.shape == (6, 4) and strokes.labels.sum(1).numpy() == pytest.approx(1)
