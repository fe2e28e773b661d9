"""The few-shot probe as rows of a run's records: of a model in training, and of the floors beside it.

Two floors say how much of an accuracy pretraining earned: raw pixels, and the same network untrained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np

from scalevit import config
from scalevit.artifacts.records import Row
from scalevit.evals.backbones import LAST_LAYER, Backbone, of_vit
from scalevit.evals.datasets.open import open_set
from scalevit.evals.datasets.probe_set import ProbeSet, some
from scalevit.evals.features import SINGLE_PROCESS, WorkShare, extract, raw_pixels
from scalevit.evals.fewshot_sampling import ALL_SHOTS, all_draws
from scalevit.evals.probes import FewShot, few_shot
from scalevit.model.vit import ViT

#: Support features (n, d) and query features (m, d).
Halves = tuple[np.ndarray, np.ndarray]

open_set_cached = lru_cache(maxsize=16)(open_set)


def probe_rows(model: ViT, probe: config.Probe, share: WorkShare = SINGLE_PROCESS) -> list[Row]:
    """Rows of kind "probe": the few-shot accuracy (metric "accuracy", in [0, 1]) of the model as it is, for
    each data set, number of shots and draw (seed). Each rank calls it and gets the same rows.

    Raises ValueError when a data set is missing or too small for the shots."""
    backbone = of_vit(model, "the model")
    return _rows(probe, "probe", "accuracy", lambda data, needed: _features(backbone, data, needed, share))


def baseline_rows(model: ViT, probe: config.Probe, share: WorkShare = SINGLE_PROCESS) -> list[Row]:
    """Rows of kind "floor": what the same probe makes of raw pixels (metric "raw_pixels_accuracy") and of the
    model's shape with fresh weights ("untrained_accuracy"). They do not depend on
    training: once a run is enough."""
    fresh = of_vit(model, "the model").untrained
    assert fresh is not None
    backbone = fresh()
    return [
        *_rows(
            probe,
            "floor",
            "raw_pixels_accuracy",
            lambda data, needed: (raw_pixels(some(data.support, needed)), raw_pixels(data.query)),
        ),
        *_rows(
            probe,
            "floor",
            "untrained_accuracy",
            lambda data, needed: _features(backbone, data, needed, share),
        ),
    ]


def _features(backbone: Backbone, data: ProbeSet, needed: np.ndarray, share: WorkShare) -> Halves:
    """Features of the needed support images and of the query images."""
    take = partial(extract, backbone, whole=data.whole, layers=(LAST_LAYER,), share=share)
    return take(some(data.support, needed))[LAST_LAYER], take(data.query)[LAST_LAYER]


def _rows(
    probe: config.Probe, kind: str, metric: str, features: Callable[[ProbeSet, np.ndarray], Halves]
) -> list[Row]:
    rows = []
    for name in probe.datasets:
        data = open_set_cached(name)
        drawn = all_draws(data.support_labels, probe.shots, probe.draws)
        x, z = features(data, drawn.needed)
        found = few_shot(
            x, data.support_labels[drawn.needed], z, data.query_labels, shots=probe.shots, draws=probe.draws,
            l2=probe.l2, rows=drawn.rows,
        )  # fmt: skip
        rows += _told(found, {"kind": kind, "dataset": name, "metric": metric})
    return rows


def _told(found: Sequence[FewShot], about: Row) -> list[Row]:
    return [
        {**about, "shots": result.shots, "seed": seed, "value": value}
        for result in found
        for seed, value in enumerate(result.accuracies)
    ]


def validation_errors(probe: config.Probe) -> list[str]:
    """What keeps a run from being probed so, one line each, before it starts."""
    found = []
    for name in probe.datasets:
        try:
            data = open_set_cached(name)
        except ValueError as error:
            found.append(f"probe.datasets: {error}")
            continue
        labels, counts = np.unique(data.support_labels, return_counts=True)
        most = max((s for s in probe.shots if s != ALL_SHOTS), default=0)
        if counts.min() < most:
            found.append(
                f"probe.shots: class {labels[counts.argmin()]} of {name} has {counts.min()} support images, "
                f"fewer than {most} shots"
            )
    return found
