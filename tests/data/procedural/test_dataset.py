import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalevit.data.procedural.dataset import FAMILIES, Procedural
from scalevit.data.procedural.strokes import dotted

families = pytest.mark.parametrize("family", FAMILIES)


def grey(store: Procedural, indices: np.ndarray) -> torch.Tensor:
    """(n, pixels) floats in [0, 1]."""
    return store.images(indices).float().mean(dim=-1).flatten(1) / 255


def difference(one: torch.Tensor, other: torch.Tensor) -> int:
    return int((one.int() - other.int()).abs().max())


def nearest_mean(store: Procedural, support: int, query: int) -> float:
    """Accuracy of the nearest class mean on pixels, over instances after the first `support`."""
    classes = store.classes
    x = grey(store, np.arange(support * classes)).view(support, classes, -1).mean(dim=0)
    asked = np.arange(support * classes, (support + query) * classes)
    found = torch.cdist(grey(store, asked), x).argmin(dim=1)
    return (found == store.labels(asked)).float().mean().item()


def test_labels_are_the_index_modulo_the_number_of_classes():
    store = Procedural("strokes", 7, 8, 0)
    assert store.labels(np.array([0, 6, 7, 7 * 10**12 + 3])).tolist() == [0, 6, 0, 3]


@families
@given(st.lists(st.integers(0, 2**60), min_size=2, max_size=9, unique=True), st.integers(0, 9), st.data())
@settings(max_examples=10, deadline=None)
def test_an_image_does_not_depend_on_its_batch_nor_on_the_order(family, indices, seed, data):
    store = Procedural(family, 13, 20, seed, 0.5)
    together = store.images(np.array(indices))
    order = data.draw(st.permutations(range(len(indices))))
    assert difference(store.images(np.array(indices)[order]), together[order]) <= 1
    assert difference(store.images(np.array(indices[:1])), together[:1]) <= 1


@families
@pytest.mark.parametrize("side", [8, 28, 33])
def test_pages_have_the_asked_size_ink_on_them_and_paper_left(family, side):
    images = Procedural(family, 64, side, 0).images(np.arange(128))
    assert images.shape == (128, side, side, 3)
    assert images.dtype == torch.uint8
    assert (images.flatten(1).amax(dim=1) > 90).all(), "a page is empty"
    assert (images.flatten(1).float().mean(dim=1) < 200).all(), "a page is full"


@families
def test_without_palette_images_are_grey_and_with_it_coloured(family):
    plain = Procedural(family, 16, 16, 0, 0.0).images(np.arange(64)).int()
    vivid = Procedural(family, 16, 16, 0, 1.0).images(np.arange(64)).int()
    assert (plain.amax(dim=-1) == plain.amin(dim=-1)).all()
    assert ((vivid.amax(dim=-1) - vivid.amin(dim=-1)).flatten(1).amax(dim=1) > 20).float().mean() > 0.9


@families
def test_colour_does_not_tell_the_class(family):
    """The spread of the classes' mean corner colours is that of a mean of as many independent draws."""
    store, shots = Procedural(family, 32, 16, 0, 1.0), 64
    corners = store.images(np.arange(32 * shots))[:, 0, 0].double().view(shots, 32, 3)
    between = corners.mean(dim=0).var(dim=0)
    within = corners.var(dim=0).mean(dim=0) / shots
    assert (between / within < 2).all()


@families
def test_instances_differ_and_so_do_the_classes_of_another_seed(family):
    ours, others = (Procedural(family, 32, 24, seed) for seed in (0, 1))
    x, y = (grey(store, np.arange(32 * 20)).view(20, 32, -1) for store in (ours, others))
    assert torch.cdist(x.transpose(0, 1), x.transpose(0, 1))[:, 0, 1:].min() > 0.2
    assert torch.cdist(x.mean(dim=0), y.mean(dim=0)).min() > 0.2


@families
def test_pixels_tell_the_classes_apart_at_least_twice_as_well_as_chance(family):
    assert nearest_mean(Procedural(family, 20, 16, 0), 30, 10) > 2 / 20


def test_a_straight_line_of_ink_weighs_what_its_length_and_width_say():
    """Below fullness the ink of a line is FULLNESS × length × pen's width × sqrt(2π), here capped nowhere."""
    dots = torch.stack([torch.linspace(0.3, 0.7, 40), torch.full((40,), 0.5)], dim=-1)
    for radius in (0.05, 0.1):
        page = dotted(dots[None, None], torch.ones(1, 1), torch.tensor([radius]), 64)
        row = page[0, 32]
        assert row[32] == pytest.approx(1.0, abs=1e-3)
        assert page[0].flip(1) == pytest.approx(page[0], abs=1e-3)
        assert page[0].flip(0) == pytest.approx(page[0], abs=1e-3)
    assert dotted(dots[None, None], torch.zeros(1, 1), torch.tensor([0.05]), 64).abs().max() == 0


def test_ink_is_even_however_fast_the_curve_moves():
    t = torch.linspace(0, 1, 40)
    even, uneven = (torch.stack([0.2 + 0.6 * x, torch.full((40,), 0.5)], dim=-1) for x in (t, t**1.7))
    pages = dotted(torch.stack([even, uneven])[:, None], torch.ones(2, 1), torch.full((2,), 0.08), 32)
    assert pages[0, :, 8:24] == pytest.approx(pages[1, :, 8:24], abs=0.02)
