"""Pair distance: cosine distance between a model's features of two images, to verify near-duplicates."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from scalevit.evals.backbones import LAST_LAYER, Backbone
from scalevit.evals.datasets.probe_set import Images
from scalevit.evals.features import extract

#: Largest cosine distance (1 - cosine) at which two images count as duplicates.
MAX_DISTANCE = 0.1


def pair_distances(backbone: Backbone, first: Images, second: Images) -> Float[np.ndarray, " n"]:
    """Cosine distances (n,), 0 to 2, between the features of first[i] and second[i]. Images are resized
    whole."""
    if not len(first):
        return np.zeros(0, np.float32)
    a, b = (
        extract(backbone, images, whole=True, layers=(LAST_LAYER,))[LAST_LAYER] for images in (first, second)
    )
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return 1 - (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)
