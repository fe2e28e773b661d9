"""Probes of frozen features: closed-form ridge few-shot, kNN, nearest class mean, logistic regression.

Arrays in, numbers out; no torch. The ridge probe is that of the paper (App. D and the authors' code):
features standardised with the support set's mean and standard deviation (+ 1e-5), a constant feature of 100,
targets ±1, (XᵀX + λI)⁻¹XᵀY. Two things make all λ cheap and float32 products safe:

- Standardised columns sum to zero over the support set, so the constant feature is orthogonal to the others
  and its weight has a closed form of its own: its huge eigenvalue never meets the rest.
- The smaller Gram matrix is decomposed once, with eigenvalues e. A λ shrinks direction k by eₖ / (eₖ + λ);
  over the grid of λ that matrix has a small numerical rank, so many λ cost fewer products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from scalevit.evals.fewshot_sampling import all_draws

#: From x_train (n, d), y_train (n,) and x_test (m, d) to predicted labels (m,), or (λ, m) for several λ.
Predictor = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

CONSTANT = 100.0
STD_FLOOR = 1e-5
#: 2⁻¹⁰ … 2²⁰; the paper's own is 2¹⁰.
L2_GRID = tuple(2.0**k for k in range(-10, 21))

#: L2 strengths of the linear probe, strong to weak; of equals the strongest wins.
LINEAR_GRID = (10.0, 1.0, 0.1, 0.01, 0.001)

#: Elements of the largest temporary array of scores (float32: 256 MiB).
_CHUNK = 1 << 26
#: Error allowed to the low-rank form of the shrinkage: what float32 products round off anyway.
_RANK_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Ridge:
    """A fitted ridge probe for every λ at once.

    classes (c,); mean, inverse_std (d,); directions (d, k): eigenvectors of the standardised XᵀX with
    eigenvalues spectrum (k,); targets (k, c): XᵀY in their basis; counts (c,): examples of each class."""

    classes: np.ndarray
    mean: np.ndarray
    inverse_std: np.ndarray
    directions: np.ndarray
    spectrum: np.ndarray
    targets: np.ndarray
    counts: np.ndarray

    def scores(self, x: np.ndarray, l2: np.ndarray) -> Iterator[np.ndarray]:
        """Chunks (rows, λ, c) of scores of features x (n, d), in order, float32, in `_unit`s of each λ."""
        left, right = _factors(self.spectrum, l2)
        rank = left.shape[1]
        weights = self.targets / self.spectrum[:, None]
        size = rank, len(self.classes)
        columns = (left[:, :, None] * weights[:, None, :]).reshape(len(left), rank * size[1])
        columns = columns.astype(np.float32)
        bias = self._bias(l2).astype(np.float32)
        right, directions = right.astype(np.float32), self.directions.astype(np.float32)
        mean, scale = self.mean.astype(np.float32), self.inverse_std.astype(np.float32)
        rows = max(1, _CHUNK // (len(self.classes) * (rank + len(l2))))
        for start in range(0, len(x), rows):
            z = ((x[start : start + rows].astype(np.float32) - mean) * scale) @ directions
            yield np.matmul(right, (z @ columns).reshape(len(z), *size)) + bias

    def _bias(self, l2: np.ndarray) -> np.ndarray:
        """Scores of the constant feature (λ, c): 100² Σ Y / (100² n + λ)."""
        n = self.counts.sum()
        share = CONSTANT**2 * (2 * self.counts - n) / (CONSTANT**2 * n + l2[:, None])
        return share * _unit(self.spectrum, l2)[:, None]


def _unit(spectrum: np.ndarray, l2: np.ndarray) -> np.ndarray:
    """Unit of each λ's scores: without it the scores of a large λ would be lost to rounding."""
    return 1 + l2 / (spectrum.max() if len(spectrum) else np.inf)


def _factors(spectrum: np.ndarray, l2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low-rank factors left (k, r), right (λ, r) of the shrinkage e / (e + λ) of each direction, in units."""
    shrinkage = spectrum[:, None] / (spectrum[:, None] + l2) * _unit(spectrum, l2)
    u, s, v = np.linalg.svd(shrinkage, full_matrices=False)
    rank = int((s > _RANK_TOLERANCE * s[:1]).sum())
    if rank >= len(l2):
        return shrinkage, np.eye(len(l2))
    return u[:, :rank] * s[:rank], v[:rank].T


def fit_ridge(x: np.ndarray, y: np.ndarray) -> Ridge:
    """The ridge probe of support features x (n, d) and labels y (n,), ready for any λ ≥ 0 (0: least norm)."""
    classes, index, counts = np.unique(y, return_inverse=True, return_counts=True)
    x = x.astype(np.float64)
    mean = x.mean(axis=0)
    inverse_std = 1 / (x.std(axis=0) + STD_FLOOR)
    x -= mean
    x *= inverse_std
    spectrum, directions = _decompose(x)
    projected = x @ directions
    sums = np.stack([projected[index == c].sum(axis=0) for c in range(len(classes))], axis=1)
    targets = 2 * sums - projected.sum(axis=0)[:, None]
    return Ridge(classes, mean, inverse_std, directions, spectrum, targets, counts)


def _decompose(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (k,) and orthonormal eigenvectors (d, k) of xᵀx, those of its null space left out."""
    n, d = x.shape
    spectrum, vectors = np.linalg.eigh(x @ x.T if n < d else x.T @ x)
    kept = spectrum > spectrum[-1] * max(n, d) * np.finfo(np.float64).eps
    spectrum, vectors = spectrum[kept], vectors[:, kept]
    return spectrum, (x.T @ vectors) / np.sqrt(spectrum) if n < d else vectors


def ridge_probe(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    *,
    l2: float | Sequence[float] | np.ndarray = 2.0**10,
) -> float | np.ndarray:
    """Accuracy in [0, 1] of the closed-form ridge probe: a float for one λ, an array (λ,) for several.

    x_train (n, d), x_test (m, d) features; y_train (n,), y_test (m,) labels of any kind that compares.
    Raises ValueError for features that are not finite, empty sets, sizes that disagree, a negative λ, and
    test labels without a training example."""
    x_train, y_train, x_test, y_test = check_features(x_train, y_train, x_test, y_test)
    accuracy = (predict_ridge(x_train, y_train, x_test, l2=l2) == y_test).mean(axis=1)
    return float(accuracy[0]) if np.ndim(l2) == 0 else accuracy


def predict_ridge(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    *,
    l2: float | Sequence[float] | np.ndarray = 2.0**10,
) -> np.ndarray:
    """Labels (λ, m) that the ridge probe predicts. Raises ValueError for a negative λ."""
    lambdas = np.atleast_1d(np.asarray(l2, np.float64))
    if not (lambdas >= 0).all():
        raise ValueError(f"l2 must not be negative, found {lambdas.min()}")
    ridge = fit_ridge(x_train, y_train)
    chunks = [scores.argmax(axis=2) for scores in ridge.scores(x_test, lambdas)]
    return ridge.classes[np.concatenate(chunks).T]


def check_features(
    x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Validated features and labels. Raises ValueError that names the array and its fault."""
    x_train, y_train = _features(x_train, y_train, "training")
    x_test, y_test = _features(x_test, y_test, "test")
    if x_train.shape[1] != x_test.shape[1]:
        raise ValueError(
            f"training features have {x_train.shape[1]} columns, test features {x_test.shape[1]}"
        )
    unknown = np.setdiff1d(y_test, y_train)
    if len(unknown):
        some = ", ".join(map(str, unknown[:5])) + (", …" if len(unknown) > 5 else "")
        raise ValueError(f"classes of the test set without a training example: {some}")
    return x_train, y_train, x_test, y_test


def _features(x: np.ndarray, y: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 2 or y.ndim != 1 or len(x) != len(y):
        raise ValueError(
            f"{name} set: expected features (n, d) and labels (n,), found {x.shape} and {y.shape}"
        )
    if not x.size:
        raise ValueError(f"{name} set: empty")
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(f"{name} set: feature {column} of item {row} is {x[row, column]}")
    return x, y


# --------------------------------------------------------------------------- other probes


def nearest_mean_probe(
    x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray
) -> float:
    """Accuracy of the nearest class mean among features centred on the training set's mean and scaled to
    unit length (Wang et al. 2019, SimpleShot, "CL2N")."""
    return _accuracy(predict_nearest_mean, x_train, y_train, x_test, y_test)


def predict_nearest_mean(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    """Labels (m,) that the nearest class mean predicts."""
    classes, index = np.unique(y_train, return_inverse=True)
    centre = x_train.mean(axis=0, dtype=np.float64)
    x, z = _unit_length(x_train - centre), _unit_length(x_test - centre)
    means = np.stack([x[index == c].mean(axis=0) for c in range(len(classes))])
    return classes[(2 * z @ means.T - (means**2).sum(axis=1)).argmax(axis=1)]


def knn_probe(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Accuracy of a vote among the k training examples of highest cosine similarity (all, when there are
    fewer), each weighted with exp(similarity / temperature) (Wu et al. 2018, arXiv 1805.01978)."""
    predict = partial(predict_knn, k=k, temperature=temperature)
    return _accuracy(predict, x_train, y_train, x_test, y_test)


def predict_knn(
    x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, *, k: int = 20, temperature: float = 0.07
) -> np.ndarray:
    """Labels (m,) that the weighted vote of the k nearest predicts."""
    classes, index = np.unique(y_train, return_inverse=True)
    onehot = (index[:, None] == np.arange(len(classes))).astype(np.float32)
    x, z, k = _unit_length(x_train), _unit_length(x_test), min(k, len(x_train))
    rows, votes = max(1, _CHUNK // len(x)), []
    for start in range(0, len(z), rows):
        similarity = z[start : start + rows] @ x.T
        least = np.partition(similarity, -k, axis=1)[:, -k][:, None]
        weights = np.where(similarity >= least, np.exp((similarity - 1) / temperature), 0)
        votes.append((weights @ onehot).argmax(axis=1))
    return classes[np.concatenate(votes)]


def linear_probe(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> float:
    """Accuracy of multinomial logistic regression on standardised features, its L2 strength chosen from
    `LINEAR_GRID` on every fifth training example of each class, held out; with fewer than five of a class
    the grid's middle is taken."""
    return _accuracy(predict_linear, x_train, y_train, x_test, y_test)


def predict_linear(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    """Labels (m,) that the logistic regression predicts."""
    mean = x_train.mean(axis=0, dtype=np.float64)
    scale = x_train.std(axis=0, dtype=np.float64) + STD_FLOOR
    x, z = (x_train - mean) / scale, (x_test - mean) / scale
    held = np.zeros(len(x), bool)
    for label in np.unique(y_train):
        held[np.flatnonzero(y_train == label)[4::5]] = True
    strength = LINEAR_GRID[len(LINEAR_GRID) // 2]
    if set(y_train[held]) == set(y_train):
        tried = [
            (_logistic(x[~held], y_train[~held], x[held], c) == y_train[held]).mean() for c in LINEAR_GRID
        ]
        strength = LINEAR_GRID[int(np.argmax(tried))]
    return _logistic(x, y_train, z, strength)


def _logistic(x: np.ndarray, y: np.ndarray, z: np.ndarray, strength: float) -> np.ndarray:
    """Strength is L2 over the number of examples: the same grid for any size."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1 / (strength * len(x)), max_iter=2000).fit(x, y).predict(z)


def _accuracy(
    predict: Predictor, x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray
) -> float:
    x_train, y_train, x_test, y_test = check_features(x_train, y_train, x_test, y_test)
    return float((predict(x_train, y_train, x_test) == y_test).mean())


def _unit_length(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


# --------------------------------------------------------------------------- few-shot: draws and intervals


@dataclass(frozen=True)
class FewShot:
    """Accuracies in [0, 1] over the draws of one number of shots, with their mean, standard deviation over
    draws, and a 95 % interval of the mean that knows both the draws and the finite test set. l2: the ridge
    probe's, None for other probes. mean_per_class: the mean over draws of the unweighted mean of the classes'
    accuracies, which differs from `mean` where the test set's classes have different sizes."""

    shots: int
    l2: float | None
    accuracies: tuple[float, ...]
    mean: float
    sd: float
    low: float
    high: float
    mean_per_class: float


def few_shot(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    *,
    shots: Sequence[int] = (1, 5, 10, 25),
    draws: int = 5,
    l2: float | Sequence[float] = 2.0**10,
    probe: Predictor | None = None,
    rows: Mapping[int, Sequence[np.ndarray]] | None = None,
) -> list[FewShot]:
    """One `FewShot` for each number of shots and each λ: the ridge probe, or `probe` instead, on `draws`
    balanced draws with seeds 0, 1, …; `draws.ALL` shots take all training examples, once. rows: the draws
    themselves for each number of shots, where the training examples are but some of those drawn from.

    Raises ValueError as `ridge_probe` does, and for a class with fewer examples than shots."""
    x_train, y_train, x_test, y_test = check_features(x_train, y_train, x_test, y_test)
    if rows is None:
        drawn = all_draws(y_train, shots, draws)
        x_train, y_train, rows = x_train[drawn.needed], y_train[drawn.needed], drawn.rows
    lambdas = (None,) if probe else tuple(np.atleast_1d(l2).tolist())
    predict = probe or partial(predict_ridge, l2=np.array(lambdas, np.float64))
    weights = _class_weights(y_test)
    results = []
    for count in shots:
        hits = [np.atleast_2d(predict(x_train[i], y_train[i], x_test)) == y_test for i in rows[count]]
        plain = np.array([h.mean(axis=1) for h in hits])
        balanced = np.array([h @ weights for h in hits]).mean(axis=0)
        results += [
            summary(count, list(plain[:, k]), len(y_test), value, mean_per_class=float(balanced[k]))
            for k, value in enumerate(lambdas)
        ]
    return results


def _class_weights(labels: np.ndarray) -> np.ndarray:
    """Weights (m,), summing to 1, that give every class the same share."""
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[index])


def summary(
    shots: int,
    accuracies: list[float],
    tests: int,
    l2: float | None = None,
    *,
    mean_per_class: float = np.nan,
) -> FewShot:
    """The draws' mean, standard deviation (n - 1; 0 for one draw) and interval."""
    sd = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    mean = float(np.mean(accuracies))
    low, high = interval(mean, sd, len(accuracies), tests)
    return FewShot(shots, l2, tuple(map(float, accuracies)), mean, sd, low, high, mean_per_class)


def interval(mean: float, sd: float, draws: int, tests: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of an accuracy averaged over `draws` on the same `tests` items.

    The variance is sd² / draws + p (1 - p) / tests, its quantile Student's t with Satterthwaite's degrees of
    freedom; Wilson's form keeps it in [0, 1] and honest at 0 and 1. One draw: the test set's share alone."""
    sampling = max(mean * (1 - mean), 0.0) / tests
    drawing = sd**2 / draws
    effective, quantile = float(tests), _student(level, np.inf)
    if sampling > 0 and drawing > 0:
        effective = tests * sampling / (sampling + drawing)
        quantile = _student(level, (sampling + drawing) ** 2 / (drawing**2 / (draws - 1)))
    z2 = quantile**2 / effective
    centre = (mean + z2 / 2) / (1 + z2)
    half = quantile * np.sqrt(sampling + drawing + z2 / (4 * effective)) / (1 + z2)
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))


def _student(level: float, freedom: float) -> float:
    from scipy.special import ndtri, stdtrit  # scipy.stats has them too, and costs a second to import

    return float(ndtri((1 + level) / 2) if np.isinf(freedom) else stdtrit(freedom, (1 + level) / 2))
