"""Counts against the paper's Table 2, and against each other."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalevit.config.model_sizes import LETTERS, PAPER, Shape, factored, shape

#: Table 2 of the paper: parameters in millions as printed, forward GFLOPs at 224 and 384 pixels.
TABLE_2 = {
    "s/28": ("5.4", 0.7, 2.0),
    "s/16": ("5.0", 2.2, 7.8),
    "S/32": ("22", 2.3, 6.9),
    "Ti/16": ("5.5", 2.5, 9.5),
    "B/32": ("87", 8.7, 26.0),
    "S/16": ("22", 9.2, 31.2),
    "B/28": ("87", 11.3, 30.5),
    "B/16": ("86", 35.1, 111.3),
    "L/16": ("303", 122.9, 382.8),
    "g/14": ("1011", 533.1, 1596.4),
    "G/14": ("1843", 965.3, 2859.9),
}

shapes = st.builds(
    lambda head, heads, depth, mlp, patch: Shape(head * heads, depth, mlp, heads, patch),
    st.integers(1, 64), st.integers(1, 8), st.integers(1, 6), st.integers(1, 300), st.integers(1, 32),
)  # fmt: skip


def test_all_eleven_models_of_the_paper_are_known():
    assert set(PAPER) == set(TABLE_2)
    assert len(PAPER) == 11


@pytest.mark.parametrize("name", TABLE_2)
def test_parameters_agree_to_the_printed_digits(name):
    printed = TABLE_2[name][0]
    digits = len(printed.partition(".")[2])
    assert f"{shape(name).parameters() / 1e6:.{digits}f}" == printed


@pytest.mark.parametrize("name", TABLE_2)
@pytest.mark.parametrize(("image", "column"), [(224, 1), (384, 2)])
def test_flops_agree_with_the_paper(name, image, column):
    published = TABLE_2[name][column]
    small = PAPER.index(name) < PAPER.index("B/32")
    assert shape(name).flops(image) / 1e9 == pytest.approx(published, rel=0.05 if small else 0.02)


def test_published_counts_with_the_attention_pooling_head():
    # paper.md §1: SoViT's table lists So400m/14 as 428 M and G/14 as 1882 M, both with the MAP head
    assert shape("So400m/14").parameters(pool="map") / 1e6 == pytest.approx(428, abs=0.5)
    assert shape("G/14").parameters(pool="map") / 1e6 == pytest.approx(1881.13, abs=0.01)


def test_parameters_in_closed_form():
    d, depth, m, p, n = 1664, 48, 8192, 14, 256
    block = 4 * d * d + 4 * d + 2 * d * m + m + d + 4 * d
    trunk = 3 * p * p * d + d + n * d + depth * block + 2 * d
    assert shape("G/14").parameters() == trunk
    assert shape("G/14").parameters(pool="token") == trunk + d
    assert shape("G/14").parameters(classes=10) == trunk + 10 * d + 10


def test_case_matters_and_any_patch_goes_with_any_letter():
    assert shape("g/14") != shape("G/14")
    assert shape("s/16").heads == 8
    assert shape("S/16").heads == 6
    assert shape("B/8") == Shape(768, 12, 3072, 12, 8)
    assert shape("ViT-B/8", depth=3) == Shape(768, 3, 3072, 12, 8)
    assert shape("g/14").width // shape("g/14").heads == 88
    assert len(LETTERS) == 14


@pytest.mark.parametrize("name", ["X/16", "b/16", "B/x", "B", "B/0", ""])
def test_an_unknown_name_is_refused_with_a_near_one(name):
    with pytest.raises(ValueError, match="/16"):
        shape(name)


@given(shapes, st.integers(1, 4))
def test_flops_of_the_blocks_grow_with_depth_exactly(s, grid):
    image = s.patch * grid
    deeper = Shape(s.width, 2 * s.depth, s.mlp, s.heads, s.patch)
    fixed = s.flops_by_part(image)["patches"]
    assert deeper.flops(image) - fixed == pytest.approx(2 * (s.flops(image) - fixed))


@given(shapes, st.integers(1, 4))
def test_optimizer_state_is_bounded_by_its_moments(s, grid):
    image = s.patch * grid
    count = s.parameters(image)
    assert s.optimizer_bytes("sgd", image) == 2 * count
    assert s.optimizer_bytes("adam", image) == 6 * count
    assert s.optimizer_bytes("adam", image, momentum=4) == 8 * count
    assert 2 * count < s.optimizer_bytes("adafactor", image) <= 6 * count


def test_adafactor_state_of_the_giant_is_two_bytes_a_parameter():
    giant = shape("G/14")
    assert giant.optimizer_bytes("adafactor") / giant.parameters() == pytest.approx(2.0, abs=0.03)


def test_factoring_needs_two_large_axes():
    assert not factored((14, 14, 3, 1664))
    assert factored((32, 32, 3, 768))
    assert not factored((16, 31))
    assert factored((1664, 16, 104))


def test_tensors_sum_to_the_parameters():
    tensors = list(shape("S/16").tensors(pool="map", classes=7))
    assert sum(math.prod(size) for _, size in tensors) == shape("S/16").parameters(pool="map", classes=7)
    assert len(tensors) == 3 + 12 * (4 + 8 + 4) + 2 + 1 + 8 + 2 + 4 + 2
