"""The closed-form probe equals the authors' numbers and a textbook solver; draws and intervals are honest."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalevit.evals import probes
from scalevit.evals.fewshot_sampling import ALL_SHOTS, all_draws, balanced_sample

GOLDEN = Path(__file__).parents[1] / "golden"


def textbook(x_train, y_train, x_test, l2):
    """Scores of the protocol written out naively in float64: constant column, one solve."""
    mean, std = x_train.mean(0, dtype=np.float64), x_train.std(0, dtype=np.float64) + 1e-5
    x, z = ((np.pad((a - mean) / std, ((0, 0), (0, 1)), constant_values=100.0)) for a in (x_train, x_test))
    y = 2.0 * (y_train[:, None] == np.unique(y_train)) - 1
    return z @ np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ y)


def golden(name):
    with np.load(GOLDEN / f"fewshot_{name}.npz") as file:
        return [file[key] for key in ("x_train", "y_train", "x_test", "y_test", "l2", "accuracy")]


def clusters(rng, classes, each, d=12, noise=1.0):
    y = np.repeat(np.arange(classes), each)
    centres = np.random.default_rng(7).normal(size=(classes, d))
    return (centres[y] + noise * rng.normal(size=(len(y), d))).astype(np.float32), y


# The reference solves in float32 with a Gram matrix whose largest entry is 100² n: below an l2 of 1 its
# accuracies with n > d are rounding noise, as the textbook solver in float64 shows.
@pytest.mark.parametrize(("name", "smallest"), [("tall", 1.0), ("wide", 0.0)])
def test_ridge_gives_the_reference_accuracies(name, smallest):
    *data, l2, accuracy = golden(name)
    ours = probes.ridge_probe(*data, l2=l2)
    items = np.abs(ours - accuracy) * len(data[3])
    assert items[l2 >= smallest].max() <= 1.01


@pytest.mark.parametrize("name", ["tall", "wide"])
def test_ridge_scores_equal_one_solve_per_l2(name):
    x, y, z, truth, l2, _ = golden(name)
    x[:, 3] = 5.0  # a dead feature
    y[:3] = 9  # classes of different sizes
    ridge = probes.fit_ridge(x, y)
    scores = np.concatenate(list(ridge.scores(z, l2)))
    units = probes._unit(ridge.spectrum, l2)
    for i, value in enumerate(l2):
        expected = textbook(x, y, z, value)
        error = np.abs(scores[:, i] / units[i] - expected).max() / np.abs(expected).max()
        assert error < 2e-5, f"l2 {value}: {error}"
    assert probes.ridge_probe(x, y, z, truth, l2=l2[10]) == probes.ridge_probe(x, y, z, truth, l2=l2)[10]


def test_many_l2_cost_fewer_products_than_l2():
    left, right = probes._factors(np.logspace(0, 5, 300), np.array(probes.L2_GRID))
    assert left.shape[1] == right.shape[1] < 24


def test_scores_do_not_depend_on_the_chunk(monkeypatch):
    x, y, z, truth, l2, _ = golden("tall")
    whole = probes.ridge_probe(x, y, z, truth, l2=l2)
    monkeypatch.setattr(probes, "_CHUNK", 7 * 10 * 31)
    assert (probes.ridge_probe(x, y, z, truth, l2=l2) == whole).all()


def test_features_that_do_not_vary_say_one_class_for_all():
    x, y = np.ones((6, 4)), np.array([0, 1, 1, 1, 2, 2])
    assert (probes.ridge_probe(x, y, x, y, l2=(0.0, 1.0, 1024.0)) == 0.5).all()  # the most frequent one


def test_labels_may_be_names():
    x, y = clusters(np.random.default_rng(0), 3, 10)
    names = np.array(["cat", "ant", "bee"])[y]
    assert probes.ridge_probe(x, names, x, names) == probes.ridge_probe(x, y, x, y)


@given(st.integers(0, 50), st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_draws_are_balanced_nested_and_decided_by_the_seed(shuffle, shots, seed):
    y = np.random.default_rng(shuffle).permutation(np.repeat([3, 1, 8], 5))
    chosen, more = balanced_sample(y, shots, seed), balanced_sample(y, shots + 1, seed)
    assert (y[chosen] == np.repeat([1, 3, 8], shots)).all()
    assert len(np.unique(chosen)) == len(chosen)
    assert set(chosen) < set(more)
    rng = np.random.default_rng(seed)
    first, second, third = (rng.permutation(np.flatnonzero(y == c))[:shots] for c in (1, 3, 8))
    assert (chosen == np.concatenate([first, second, third])).all()


def test_only_what_is_drawn_is_needed():
    y = np.repeat(np.arange(3), 100)
    drawn = all_draws(y, (2, 5), 3)
    assert 15 <= len(drawn.needed) <= 45 and (np.diff(drawn.needed) > 0).all()
    for shots in (2, 5):
        for seed, rows in enumerate(drawn.rows[shots]):
            assert (drawn.needed[rows] == balanced_sample(y, shots, seed)).all()
    assert (all_draws(y, (ALL_SHOTS,), 3).needed == np.arange(300)).all()
    x, z = np.random.default_rng(0).standard_normal((2, 300, 4))
    part = probes.few_shot(x[drawn.needed], y[drawn.needed], z, y, shots=(2, 5), draws=3, rows=drawn.rows)
    assert part == probes.few_shot(x, y, z, y, shots=(2, 5), draws=3)


def test_few_shot_is_the_probe_on_each_draw():
    rng = np.random.default_rng(0)
    x, y = clusters(rng, 4, 20)
    z, truth = clusters(rng, 4, 25)
    one, everything = probes.few_shot(x, y, z, truth, shots=(2, ALL_SHOTS), draws=3, l2=4.0)
    by_hand = [
        probes.ridge_probe(x[i], y[i], z, truth, l2=4.0)
        for i in (balanced_sample(y, 2, seed) for seed in range(3))
    ]
    assert one.accuracies == tuple(by_hand) and len(set(by_hand)) > 1
    assert one.mean == pytest.approx(np.mean(by_hand)) and one.sd == pytest.approx(np.std(by_hand, ddof=1))
    assert everything.accuracies == (probes.ridge_probe(x, y, z, truth, l2=4.0),)


def test_few_shot_gives_each_l2_and_other_probes_take_its_place():
    rng = np.random.default_rng(0)
    (x, y), (z, truth) = clusters(rng, 4, 9, noise=3.0), clusters(rng, 4, 25, noise=3.0)
    both = probes.few_shot(x, y, z, truth, shots=(3,), draws=2, l2=(1.0, 2.0**20))
    apart = [probes.few_shot(x, y, z, truth, shots=(3,), draws=2, l2=value)[0] for value in (1.0, 2.0**20)]
    assert both == apart and both[0] != both[1]
    (found,) = probes.few_shot(x, y, z, truth, shots=(3,), draws=2, probe=probes.predict_nearest_mean)
    i = balanced_sample(y, 3, 1)
    assert found.l2 is None and found.accuracies[1] == probes.nearest_mean_probe(x[i], y[i], z, truth)


def test_interval_is_wilsons_for_one_draw_and_stays_inside():
    low, high = probes.interval(0.9, 0.0, 1, 100)  # Wilson's textbook example: 90 of 100
    assert (low, high) == (pytest.approx(0.8256, abs=2e-4), pytest.approx(0.9448, abs=2e-4))
    assert probes.interval(1.0, 0.0, 5, 20)[0] == pytest.approx(0.8389, abs=2e-4)
    low, high = probes.interval(0.98, 0.05, 3, 50)
    assert 0 <= low < 0.98 < high <= 1


@pytest.mark.parametrize(("spread", "tests"), [(0.05, 2000), (0.01, 100), (0.03, 300)])
def test_interval_covers_the_true_accuracy(spread, tests):
    """Draws differ by `spread` and see the same items: 95 % intervals cover 93 % to 99.5 % of the time."""
    rng, hits, rounds = np.random.default_rng(0), 0, 1500
    for _ in range(rounds):
        skill = np.clip(0.8 + spread * rng.normal(size=5), 0.01, 0.99)
        difficulty = rng.random(tests)
        accuracies = (difficulty < skill[:, None]).mean(axis=1).tolist()
        result = probes.summary(5, accuracies, tests)
        hits += result.low <= 0.8 <= result.high
    assert 0.93 <= hits / rounds <= 0.995


def test_nearest_mean_and_knn_against_a_loop():
    rng = np.random.default_rng(3)
    x, y = clusters(rng, 4, 9, noise=2.0)
    z, truth = clusters(rng, 4, 30, noise=2.0)
    centred = [(a - x.mean(0)) / np.linalg.norm(a - x.mean(0), axis=1, keepdims=True) for a in (x, z)]
    means = np.stack([centred[0][y == c].mean(0) for c in range(4)])
    nearest = np.array([np.argmin(((row - means) ** 2).sum(1)) for row in centred[1]])
    assert probes.nearest_mean_probe(x, y, z, truth) == (nearest == truth).mean()
    cosine = (z / np.linalg.norm(z, axis=1, keepdims=True)) @ (x / np.linalg.norm(x, axis=1, keepdims=True)).T
    votes = []
    for row in cosine:
        near = np.argsort(row)[-5:]
        votes.append(np.argmax([np.exp(row[near[y[near] == c]] / 0.07).sum() for c in range(4)]))
    assert probes.knn_probe(x, y, z, truth, k=5) == (np.array(votes) == truth).mean()
    assert probes.knn_probe(x, y, x, y, k=1) == 1.0
    assert probes.knn_probe(x, y, z, truth, k=10_000) == probes.knn_probe(x, y, z, truth, k=len(x))


def test_linear_probe_reads_what_is_linear_and_chooses_its_strength(monkeypatch):
    rng = np.random.default_rng(4)
    x, z = rng.normal(size=(200, 60)), rng.normal(size=(500, 60))
    y, truth = ((a[:, 0] + 0.3 * rng.normal(size=len(a)) > 0).astype(int) for a in (x, z))
    best = probes.linear_probe(x, y, z, truth)
    assert best > 0.75
    monkeypatch.setattr(probes, "LINEAR_GRID", (1e-6,))
    assert probes.linear_probe(x, y, z, truth) < best


MISTAKES = [
    ("3 columns, test features 4", lambda x, y: (x, y, np.ones((2, 4)), y[:2])),
    ("training set: feature 1 of item 2 is nan", lambda x, y: (_with_nan(x), y, x, y)),
    ("test set: empty", lambda x, y: (x, y, x[:0], y[:0])),
    ("without a training example: 7", lambda x, y: (x, y, x, np.where(y == 1, 7, y))),
    (r"expected features \(n, d\) and labels", lambda x, y: (x, y[:-1], x, y)),
]


def _with_nan(x):
    x = x.copy()
    x[2, 1] = np.nan
    return x


@pytest.mark.parametrize(("message", "spoil"), MISTAKES)
def test_mistakes_are_one_line(message, spoil):
    x, y = np.random.default_rng(0).normal(size=(6, 3)), np.array([0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match=message) as error:
        probes.ridge_probe(*spoil(x, y))
    assert "\n" not in str(error.value)


def test_a_class_with_fewer_images_than_shots_is_named():
    x, y = np.ones((5, 2)), np.array([0, 0, 0, 4, 4])
    with pytest.raises(ValueError, match="class 4 has 2 support images, fewer than 3 shots"):
        probes.few_shot(x, y, x, y, shots=(3,))
    with pytest.raises(ValueError, match="l2 must not be negative"):
        probes.ridge_probe(x, y, x, y, l2=-1.0)
