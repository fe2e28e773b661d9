"""Few-shot sampling: balanced draws of support images, the same number of every class, decided by a seed.

As in the authors' protocol (paper App. D) one random generator a seed permutes the images of one class after
the other; a draw of s shots takes the first s of each. So more shots contain the fewer ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: As a number of shots: all support images, however many each class has.
ALL_SHOTS = 0


def class_permutations(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Permutations by class: for each class, ascending, the positions of its images in the seed's order."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]


def balanced_sample(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Balanced sample: positions of `shots` images of every class, class after class; `ALL` gives every
    position.

    Raises ValueError naming the first class that has fewer images."""
    if shots == ALL_SHOTS:
        return np.arange(len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    for label, count in zip(classes, counts):
        if count < shots:
            raise ValueError(
                f"class {label} has {count} support images, fewer than {shots} shots; "
                f"ask for at most {counts.min()} shots"
            )
    return np.concatenate([order[:shots] for order in class_permutations(labels, seed)])


@dataclass(frozen=True)
class FewShotDraws:
    """All draws of a protocol. needed (n,): positions of all images that some draw takes, ascending; rows:
    for each number of shots its draws, each as indices into `needed`."""

    needed: np.ndarray
    rows: Mapping[int, tuple[np.ndarray, ...]]


def all_draws(labels: np.ndarray, shots: Sequence[int], draws: int) -> FewShotDraws:
    """Balanced draws of seeds 0, 1, … for each number of shots; `ALL` shots are one draw.

    Features are needed of `needed` alone: of ImageNet's training images one in a hundred."""
    if draws < 1 or not shots or min(shots) < 0:
        raise ValueError(f"shots and draws must be at least 1, found shots {list(shots)}, draws {draws}")
    taken = {
        s: [balanced_sample(labels, s, seed) for seed in range(1 if s == ALL_SHOTS else draws)] for s in shots
    }
    needed = np.unique(np.concatenate([draw for of_shots in taken.values() for draw in of_shots]))
    return FewShotDraws(
        needed,
        {s: tuple(np.searchsorted(needed, draw) for draw in of_shots) for s, of_shots in taken.items()},
    )
