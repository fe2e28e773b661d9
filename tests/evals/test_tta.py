"""Several views of an image: which pixels they hold, and how their predictions are averaged."""

import numpy as np
import pytest
import torch

from scalevit.evals.tta import average_predictions, views

IMAGE = np.arange(10 * 8, dtype=np.uint8).reshape(10, 8)


@pytest.mark.parametrize("count", [1, 5, 10])
def test_views_are_the_centre_the_corners_and_their_mirror_images(count):
    found = views([IMAGE], whole=False, crop=0.75, count=count)
    assert (
        len(found) == count
        and [resized for _, resized in found[:5]] == [False, True, True, True, True][:count]
    )
    pixels = [images[0] for images, _ in found]
    expected = [IMAGE, IMAGE[:6, :6], IMAGE[:6, 2:], IMAGE[4:, :6], IMAGE[4:, 2:]]
    expected += [one[:, ::-1] for one in expected]
    assert all((a == b).all() for a, b in zip(pixels, expected[:count], strict=True))
    assert all(len(images) == 1 for images, _ in found)


def test_averages_are_of_probabilities_and_one_view_is_untouched():
    logits = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32) * 4
    assert (average_predictions([logits[0]]) == logits[0]).all()
    expected = torch.from_numpy(logits).softmax(-1).mean(0)
    assert np.exp(average_predictions(list(logits))) == pytest.approx(expected.numpy(), rel=1e-5)
