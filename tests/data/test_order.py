"""The order of a run is a bijection, pure, uniform, nested, and costs nothing however far one jumps."""

import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from scalevit.data.order import LIMIT, WINDOW, Mixture, Order, permute
from scalevit.data.procedural.hashing import key, uniform


def chi_square(counts: np.ndarray) -> float:
    """p-value of 'all equally likely'."""
    expected = counts.sum() / len(counts)
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), len(counts) - 1))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection_of_any_size(size, seed):
    image = permute(np.arange(size), size, key(seed))
    assert np.array_equal(np.sort(image), np.arange(size))


def test_the_permutation_is_uniform_at_a_thousand():
    keys = key(np.arange(4000))
    for position in (0, 1, 31, 32, 500, 999):
        image = permute(np.full(4000, position), 1000, keys)
        assert chi_square(np.bincount(image, minlength=1000)) > 1e-4


def test_all_permutations_of_four_are_equally_likely():
    keys = key(np.arange(24_000))
    drawn = np.stack([permute(np.full(24_000, i), 4, keys) for i in range(4)], axis=1)
    counts = [int((drawn == order).all(axis=1).sum()) for order in permutations(range(4))]
    assert chi_square(np.array(counts)) > 1e-4


def test_neighbours_land_apart():
    image = permute(np.arange(100_000), 100_000, key(5))
    gaps = np.abs(np.diff(image))
    # the gap of two independent uniform numbers has mean n/3
    assert abs(gaps.mean() / 100_000 - 1 / 3) < 0.005
    assert abs(np.corrcoef(np.arange(100_000), image)[0, 1]) < 0.02


@pytest.mark.parametrize(
    ("samples", "images", "block"), [(1000, 0, 0), (1000, 300, 0), (70_001, 0, 100), (70_001, 20_001, 100)]
)
def test_each_epoch_shows_every_image_once_and_in_another_order(samples, images, block):
    order = Order(samples, images, seed=7, block=block)
    size = order.unique
    epochs, indices = order.at(np.arange(3 * size))
    assert np.array_equal(epochs, np.arange(3 * size) // size)
    parts = indices.reshape(3, size)
    assert len(np.unique(parts[0])) == size
    for part in parts[1:]:
        assert np.array_equal(np.sort(part), np.sort(parts[0]))
        assert (part == parts[0]).mean() < 0.05


def test_an_endless_source_never_repeats():
    _, indices = Order(0, seed=1).at(np.arange(WINDOW - 500, WINDOW + 500))
    assert len(np.unique(indices)) == 1000
    assert indices[:500].max() < WINDOW <= indices[500:].min()


def test_subsets_are_nested_and_of_one_seed():
    def chosen(images, seed):
        return {*Order(10_000, images, seed).at(np.arange(images))[1].tolist()}

    assert chosen(300, 0) < chosen(1000, 0) < chosen(9_999, 0)
    assert not chosen(300, 1) <= chosen(1000, 0)
    assert Order(0, 300).at(np.arange(300))[1].max() == 299


def test_subsets_in_blocks_are_nested_and_stay_blocks():
    def chosen(images):
        return Order(10_050, images, block=100).at(np.arange(images))[1]

    assert {*chosen(300).tolist()} < {*chosen(1_050).tolist()} < {*chosen(9_999).tolist()}
    assert len(np.unique(chosen(1_000) // 100)) <= 12  # ten whole blocks, or the short one and what it lacks


def test_blocks_keep_neighbours_together():
    _, indices = Order(1_000_000, seed=2, block=100).at(np.arange(160_000))
    free = Order(1_000_000, seed=2).at(np.arange(1600))[1]
    per_group = [len(np.unique(part // 100)) for part in indices.reshape(-1, 1600)]
    assert np.median(per_group) == 16
    assert len(np.unique(free // 100)) > 1300
    assert (np.diff(indices[:1600]) == 1).mean() < 0.05  # still shuffled inside the group


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=50), st.sampled_from([0, 64]))
def test_a_position_alone_decides_its_sample(positions, block):
    order = Order(10**9, seed=11, block=block)
    together = order.at(np.array(positions))
    for place, position in enumerate(positions):
        alone = order.at(np.array([position]))
        assert (alone[0][0], alone[1][0]) == (together[0][place], together[1][place])


def test_a_billion_samples_cost_nothing():
    def peak(samples):
        """Memory for 4096 positions about the end of the first epoch."""
        tracemalloc.start()
        _, indices = Order(samples, seed=3).at(np.arange(samples - 2048, samples + 2048))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most, indices

    peak(10**4)  # what is made once
    (few, _), (many, indices) = peak(10**4), peak(10**9)
    assert len(np.unique(indices)) > 4090
    assert many < 2 * few


def test_what_cannot_be_ordered_says_so():
    with pytest.raises(ValueError, match="300 asks for more different images than the 200"):
        Order(200, 300)
    with pytest.raises(ValueError, match="2\\^40"):
        Order(LIMIT + 1)
    assert permute(np.array([LIMIT - 1]), LIMIT, key(0))[0] < LIMIT


def test_a_mixture_has_its_proportions_and_loses_nothing():
    mixture = Mixture((1.0, 2.0, 0.5), seed=4)
    source, position = mixture.at(np.arange(3 * Mixture.STRETCH))
    assert np.allclose(np.bincount(source) / len(source), np.array([2, 4, 1]) / 7, atol=1 / Mixture.STRETCH)
    for number in range(3):
        mine = np.sort(position[source == number])
        assert np.array_equal(mine, np.arange(len(mine)))
    with pytest.raises(ValueError, match="positive"):
        Mixture((1.0, 0.0)).shares()
    with pytest.raises(ValueError, match="below 1/4096"):
        Mixture((1.0, 1e-9)).shares()


def test_draws_are_uniform_and_independent():
    draws = np.stack([uniform(key(9, np.arange(50_000)), counter) for counter in range(3)])
    assert draws.min() >= 0 and draws.max() < 1
    for row in draws:
        assert chi_square(np.bincount((row * 100).astype(int), minlength=100)) > 1e-4
    assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 0.02


@given(classes=st.integers(1, 40), rows=st.integers(1, 30), epoch=st.integers(0, 3), seed=st.integers(0, 99))
def test_a_stratified_epoch_is_a_bijection_that_shows_every_class_once_a_row(classes, rows, epoch, seed):
    size = classes * rows
    order = Order(0, size, seed, class_cycle=classes)
    epochs, indices = order.at(np.arange(epoch * size, (epoch + 1) * size))
    assert (epochs == epoch).all()
    assert sorted(indices) == list(range(size))
    shown = (indices % classes).reshape(rows, classes)
    assert (np.sort(shown, axis=1) == np.arange(classes)).all()


def test_a_stratified_epoch_differs_from_the_next():
    order = Order(0, 2_000, 1, class_cycle=20)
    first, second = (order.at(np.arange(e * 2_000, (e + 1) * 2_000))[1] for e in (0, 1))
    assert (first % 20 == second % 20).all()
    assert (first != second).mean() > 0.9


def test_an_endless_stratified_source_shows_every_image_once():
    _, indices = Order(0, 0, 1, class_cycle=50).at(np.arange(5_000))
    assert sorted(indices) == list(range(5_000))


def test_strata_that_do_not_divide_the_images_fall_back_to_a_plain_shuffle():
    _, indices = Order(0, 103, 0, class_cycle=10).at(np.arange(103))
    assert sorted(indices) == list(range(103))
