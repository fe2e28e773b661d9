"""Metrics of classifiers against definitions written out."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from scalevit.evals.metrics import calibration_error, classification_metrics


def some(n=200, c=8, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, c, n)
    return (rng.normal(size=(n, c)) + 1.5 * np.eye(c)[y]).astype(np.float32), y


def test_single_labels_against_scikit_learn():
    z, y = some()
    found = classification_metrics(z, [(int(label),) for label in y])
    p = np.exp(z.astype(np.float64)) / np.exp(z.astype(np.float64)).sum(1, keepdims=True)
    assert found.top1 == (z.argmax(1) == y).mean()
    assert found.top5 == top_k_accuracy_score(y, z, k=5, labels=range(8))
    assert found.nll == pytest.approx(log_loss(y, p, labels=range(8)))
    matrix = confusion_matrix(y, z.argmax(1), labels=range(8))
    assert found.confusion.tolist() == [[i, j, matrix[i, j]] for i, j in np.argwhere(matrix)]
    wilson = binomtest(int((z.argmax(1) == y).sum()), len(y)).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high))
    worst = found.per_class[3]
    assert worst.images == (y == 3).sum() and worst.accuracy == (z.argmax(1)[y == 3] == 3).mean()
    named = z.argmax(1)[(y == 3) & (z.argmax(1) != 3)]
    assert worst.mistaken_for == np.bincount(named).argmax()


def test_several_labels_none_and_their_likelihood():
    z = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1]]))
    found = classification_metrics(z, [(0, 1), (1,), ()])
    assert (found.images, found.unlabelled, found.top1) == (2, 1, 0.5)
    assert found.nll == pytest.approx(-(np.log(0.8) + np.log(0.1)) / 2)
    assert found.confusion.tolist() == [[1, 2, 1]]
    assert len(classification_metrics(z, [(0, 1), (1, 2), ()]).confusion) == 0


def test_restriction_chooses_among_the_classes_that_occur():
    z = np.array([[9.0, 1.0, 0.0, 2.0], [9.0, 3.0, 0.0, 2.0]])
    truth = [(3,), (1,)]
    assert classification_metrics(z, truth).top1 == 0
    found = classification_metrics(z, truth, restrict=True)
    assert found.top1 == 1 and found.confusion.tolist() == [[1, 1, 1], [3, 3, 1]]


def test_calibration_of_the_sure_and_wrong_and_of_the_honest():
    assert calibration_error(np.full(10, 1.0), np.zeros(10, bool)) == 1
    rng = np.random.default_rng(0)
    confidence = rng.random(200_000)
    assert calibration_error(confidence, rng.random(200_000) < confidence) < 0.01


def test_mistakes_are_named():
    z, y = some(4)
    with pytest.raises(ValueError, match="label 9: the head has classes 0 to 7; is a label map missing"):
        classification_metrics(z, [(9,), (0,), (1,), (2,)])
    with pytest.raises(ValueError, match=r"n = 3 truths"):
        classification_metrics(z, [(0,)] * 3)
    with pytest.raises(ValueError, match="no image has a label"):
        classification_metrics(z, [()] * 4)
    with pytest.raises(ValueError, match="logits of image 2 are not finite"):
        classification_metrics(
            np.where(np.arange(4)[:, None] == 2, np.nan, z), [(int(label),) for label in y]
        )
