"""Which support images a few-shot draw takes: the same number of every class, decided by the seed alone.

As in the authors' protocol (paper App. D) one random generator a seed permutes the images of one class after
the other; a draw of s shots takes the first s of each. So more shots contain the fewer ones.
"""

from __future__ import annotations

import numpy as np

#: Instead of a number of shots: all support images, however many each class has.
ALL = 0


def orders(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """For each class, ascending, the positions of its images in the seed's order."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]


def balanced(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Positions of `shots` images of every class, class after class; `ALL` gives every position.

    Raises ValueError naming the first class that has fewer images."""
    if shots == ALL:
        return np.arange(len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    for label, count in zip(classes, counts):
        if count < shots:
            raise ValueError(
                f"class {label} has {count} support images, fewer than {shots} shots; "
                f"ask for at most {counts.min()} shots"
            )
    return np.concatenate([order[:shots] for order in orders(labels, seed)])
