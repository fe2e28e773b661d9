"""Few-shot evaluation during training: rows of a run's records for the model and for two baselines.

The baselines, raw pixels and the untrained network, show how much of an accuracy comes from pretraining. In
records their rows have the kind "floor".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from scalevit import config
from scalevit.artifacts.records import Row
from scalevit.evals.backbones import of_vit
from scalevit.evals.compare import FeatureSource, ProbeProtocol, network_source, pixel_source, probe_dataset
from scalevit.evals.datasets.open import open_probe_set
from scalevit.evals.features import SINGLE_PROCESS, FeatureCache, WorkShare
from scalevit.evals.fewshot_sampling import ALL_SHOTS
from scalevit.model.vit import ViT

open_set_cached = lru_cache(maxsize=16)(open_probe_set)


def probe_rows(model: ViT, probe: config.Probe, share: WorkShare = SINGLE_PROCESS) -> list[Row]:
    """Rows of kind "probe": few-shot accuracy (metric "accuracy", in [0, 1]) of the model's present weights,
    for each data set, number of shots and draw (seed). Each rank calls it and gets the same rows.

    Raises ValueError when a data set is missing or too small for the shots."""
    source = network_source(of_vit(model, "the model"), FeatureCache(None, share))
    return _rows(probe, source, "probe", "accuracy")


def baseline_rows(model: ViT, probe: config.Probe, share: WorkShare = SINGLE_PROCESS) -> list[Row]:
    """Rows of kind "floor": few-shot accuracy of raw pixels (metric "raw_pixels_accuracy") and of the same
    network with fresh weights ("untrained_accuracy"). They do not depend on training: once a run is
    enough."""
    untrained = of_vit(model, "the model").untrained
    assert untrained is not None
    network = network_source(untrained(), FeatureCache(None, share))
    return [
        *_rows(probe, pixel_source(), "floor", "raw_pixels_accuracy"),
        *_rows(probe, network, "floor", "untrained_accuracy"),
    ]


def _rows(probe: config.Probe, source: FeatureSource, kind: str, metric: str) -> list[Row]:
    protocol = ProbeProtocol(probe.shots, probe.draws, (probe.l2,))
    return [
        {
            "kind": kind, "dataset": name, "metric": metric, "shots": result.accuracy.shots, "seed": seed,
            "value": value,
        }
        for name in probe.datasets
        for result in probe_dataset(source, open_set_cached(name), protocol)
        for seed, value in enumerate(result.accuracy.accuracies)
    ]  # fmt: skip


def validation_errors(probe: config.Probe) -> Sequence[str]:
    """Reasons why a run cannot be probed so, one line each, before it starts."""
    errors = []
    most = max((shots for shots in probe.shots if shots != ALL_SHOTS), default=0)
    for name in probe.datasets:
        try:
            data = open_set_cached(name)
        except ValueError as error:
            errors.append(f"probe.datasets: {error}")
            continue
        labels, counts = np.unique(data.support_labels, return_counts=True)
        if counts.min() < most:
            errors.append(
                f"probe.shots: class {labels[counts.argmin()]} of {name} has {counts.min()} support images, "
                f"fewer than {most} shots"
            )
    return errors
