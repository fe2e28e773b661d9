"""Comparison of models by probes: several models, data sets and probes, with baselines, for `scalevit probe`.

`probe_dataset` is the one few-shot driver: a run's own evaluation (in_training.py) uses it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scalevit.evals import probes
from scalevit.evals.backbones import LAST_LAYER, Backbone
from scalevit.evals.datasets.probe_set import ProbeSet, digest, select
from scalevit.evals.features import SINGLE_PROCESS, FeatureCache, WorkShare, raw_pixels
from scalevit.evals.fewshot_sampling import all_draws
from scalevit.evals.probes import FewShot, Predictor, few_shot

RAW_PIXELS, UNTRAINED = "raw pixels", "untrained"

#: Probes by name; None is the ridge probe, whose λ the protocol gives.
METHODS: dict[str, Predictor | None] = {
    "ridge": None,
    "knn": probes.predict_knn,
    "nearest-mean": probes.predict_nearest_mean,
    "linear": probes.predict_linear,
}


@dataclass(frozen=True)
class ProbeProtocol:
    """Protocol of a probe. layers: empty for the layer that the paper probes, ("all",) for all layers."""

    shots: tuple[int, ...] = (1, 5, 10, 25)
    draws: int = 5
    l2: tuple[float, ...] = (2.0**10,)
    methods: tuple[str, ...] = ("ridge",)
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy of one probe on one data set. baseline: `RAW_PIXELS`, `UNTRAINED`, or "" for the model."""

    model: str
    data: str
    method: str
    layer: str
    baseline: str
    accuracy: FewShot


@dataclass(frozen=True)
class FeatureSource:
    """A model or a baseline. features: from a data set and the numbers (n,) of its needed support images, the
    features of those (n, d) and of all query images (m, d), by layer."""

    name: str
    baseline: str
    layers: tuple[str, ...]
    features: Callable[[ProbeSet, np.ndarray], dict[str, tuple[np.ndarray, np.ndarray]]] = field(repr=False)


def compare(
    models: Sequence[Backbone],
    sets: Sequence[ProbeSet],
    protocol: ProbeProtocol,
    *,
    cache: Path | None = None,
    share: WorkShare = SINGLE_PROCESS,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[ProbeResult]:
    """Results data set by data set: the models, then the untrained networks, then raw pixels.

    Raises ValueError, naming the data set, for data that cannot be probed."""
    sources = list(_feature_sources(models, protocol, FeatureCache(cache, share)))
    for data in sets:
        for source in sources:
            tell(f"{data.name}: {' '.join(filter(None, (source.name, source.baseline)))}")
            try:
                yield from probe_dataset(source, data, protocol)
            except ValueError as error:
                raise ValueError(f"{data.name}: {error}") from None


def probe_dataset(source: FeatureSource, data: ProbeSet, protocol: ProbeProtocol) -> Iterator[ProbeResult]:
    """Few-shot results of one source on one data set: every method, layer, number of shots and λ.

    Only the features of support images that some draw takes are computed. Raises ValueError for a class with
    fewer support images than shots."""
    drawn = all_draws(data.support_labels, protocol.shots, protocol.draws)
    features, labels = source.features(data, drawn.needed), data.support_labels[drawn.needed]
    for method in protocol.methods:
        for layer in source.layers:
            x, z = features[layer]
            for accuracy in few_shot(
                x, labels, z, data.query_labels, shots=protocol.shots, draws=protocol.draws,
                l2=protocol.l2, probe=METHODS[method], rows=drawn.rows,
            ):  # fmt: skip
                yield ProbeResult(source.name, data.name, method, layer, source.baseline, accuracy)


def pixel_source() -> FeatureSource:
    """The baseline of raw pixels."""

    def features(data: ProbeSet, needed: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {"": (raw_pixels(select(data.support, needed)), raw_pixels(data.query))}

    return FeatureSource("", RAW_PIXELS, ("",), features)


def network_source(
    model: Backbone,
    cache: FeatureCache,
    *,
    name: str = "",
    baseline: str = "",
    layers: tuple[str, ...] = (LAST_LAYER,),
) -> FeatureSource:
    """Features of a network's layers, read from the cache where they are there."""

    def features(data: ProbeSet, needed: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        halves = (
            (f"support {digest([needed.tobytes()])}", select(data.support, needed)),
            ("query", data.query),
        )
        support, query = (
            cache.extract(model, images, f"{data.fingerprint} {half}", whole=data.whole, layers=layers)
            for half, images in halves
        )
        return {layer: (support[layer], query[layer]) for layer in layers}

    return FeatureSource(name or model.name, baseline, layers, features)


def _feature_sources(
    models: Sequence[Backbone], protocol: ProbeProtocol, cache: FeatureCache
) -> Iterator[FeatureSource]:
    for model in models:
        yield network_source(model, cache, layers=_layers(model, protocol))
    for model in models:
        if model.untrained is not None:
            yield network_source(model.untrained(), cache, name=model.name, baseline=UNTRAINED)
    yield pixel_source()


def _layers(model: Backbone, protocol: ProbeProtocol) -> tuple[str, ...]:
    return model.layers if protocol.layers == ("all",) else protocol.layers or (LAST_LAYER,)
