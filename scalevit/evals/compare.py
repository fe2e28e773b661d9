"""Several models on several probe sets, by several probes, beside floors: what `scalevit probe` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scalevit.evals import probes
from scalevit.evals.backbones import LAST_LAYER, Backbone
from scalevit.evals.datasets.probe_set import ProbeSet, digest, some
from scalevit.evals.features import SINGLE_PROCESS, FeatureCache, WorkShare, raw_pixels
from scalevit.evals.fewshot_sampling import all_draws
from scalevit.evals.probes import FewShot, Probe, few_shot

RAW_PIXELS, UNTRAINED = "raw pixels", "untrained"

#: Every way to ask; None is the ridge probe, whose λ the protocol says.
METHODS: dict[str, Probe | None] = {
    "ridge": None,
    "knn": probes.knn_probe,
    "nearest-mean": probes.nearest_mean_probe,
    "linear": probes.linear_probe,
}


@dataclass(frozen=True)
class ProbeProtocol:
    """How to ask. layers: empty for the one that the paper probes, ("all",) for every one of each model."""

    shots: tuple[int, ...] = (1, 5, 10, 25)
    draws: int = 5
    l2: tuple[float, ...] = (2.0**10,)
    methods: tuple[str, ...] = ("ridge",)
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProbeResult:
    """One number with its spread. floor: what it is a floor of, "" for a model's own accuracy."""

    model: str
    data: str
    method: str
    layer: str
    floor: str
    found: FewShot


@dataclass(frozen=True)
class FeatureSource:
    """Something whose features are asked: a model, or a floor of one. features: by layer, of the support
    images of some numbers and of all query images."""

    name: str
    floor: str
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
    """Every line of the table, set by set: the models, then the untrained networks, then raw pixels.

    Raises ValueError naming the data set for whatever cannot be probed."""
    subjects = list(_feature_sources(models, protocol, FeatureCache(cache, share)))
    for data in sets:
        for subject in subjects:
            tell(f"{data.name}: {' '.join(filter(None, (subject.name, subject.floor)))}")
            try:
                yield from _lines(subject, data, protocol)
            except ValueError as error:
                raise ValueError(f"{data.name}: {error}") from None


def _feature_sources(
    models: Sequence[Backbone], protocol: ProbeProtocol, cache: FeatureCache
) -> Iterator[FeatureSource]:
    for model in models:
        yield _network(model, model.name, "", _layers(model, protocol), cache)
    for model in models:
        if model.untrained is not None:
            yield _network(model.untrained(), model.name, UNTRAINED, (LAST_LAYER,), cache)
    yield FeatureSource(
        "", RAW_PIXELS, ("",),
        lambda data, needed: {"": (raw_pixels(some(data.support, needed)), raw_pixels(data.query))},
    )  # fmt: skip


def _layers(model: Backbone, protocol: ProbeProtocol) -> tuple[str, ...]:
    return model.layers if protocol.layers == ("all",) else protocol.layers or (LAST_LAYER,)


def _network(
    model: Backbone, name: str, floor: str, layers: tuple[str, ...], cache: FeatureCache
) -> FeatureSource:
    def features(data: ProbeSet, needed: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        taken = digest([needed.tobytes()])
        support, query = (
            cache.extract(model, images, f"{data.fingerprint} {half}", whole=data.whole, layers=layers)
            for half, images in ((f"support {taken}", some(data.support, needed)), ("query", data.query))
        )
        return {layer: (support[layer], query[layer]) for layer in layers}

    return FeatureSource(name, floor, layers, features)


def _lines(subject: FeatureSource, data: ProbeSet, protocol: ProbeProtocol) -> Iterator[ProbeResult]:
    drawn = all_draws(data.support_labels, protocol.shots, protocol.draws)
    features, labels = subject.features(data, drawn.needed), data.support_labels[drawn.needed]
    for method in protocol.methods:
        for layer in subject.layers:
            x, z = features[layer]
            for found in few_shot(
                x, labels, z, data.query_labels, shots=protocol.shots, draws=protocol.draws,
                l2=protocol.l2, probe=METHODS[method], rows=drawn.rows,
            ):  # fmt: skip
                yield ProbeResult(subject.name, data.name, method, layer, subject.floor, found)
