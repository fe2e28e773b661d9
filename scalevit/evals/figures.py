"""Figures of probe results: accuracy against shots (paper Fig. 1) or against the layers of a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalevit.artifacts.atomic_write import atomic_write
from scalevit.evals.compare import ProbeResult


def require_format(path: Path) -> None:
    """Raise ValueError for a suffix that matplotlib cannot write."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in known:
        raise ValueError(f"--figure {path}: the suffix must be one of {', '.join(sorted(known))}")


def draw_accuracies(results: Sequence[ProbeResult], path: Path) -> None:
    """Write a figure of one panel a data set, a curve with its 95 % band for each model, method and baseline.
    Where a curve has several layers, they are the horizontal axis, at the largest number of shots. The suffix
    is the format (`require_format`)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(result.data for result in results))
    figure = Figure(figsize=(5 * len(names), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0]):
        of_data = [r for r in results if r.data == name]
        (_against_layers if _by_layer(of_data) else _against_shots)(axes, of_data)
        axes.set(title=name, ylabel="accuracy in %")
        axes.legend(fontsize=7)
    with atomic_write(path) as file:
        figure.savefig(file, dpi=150, format=path.suffix.lower().lstrip("."))


def draw_dataset(results: Sequence[ProbeResult], data: str, folder: Path) -> Path:
    """Write the panel of one data set into `folder`: DATA-shots.png, or DATA-layers.png where there are
    several layers."""
    of_data = [r for r in results if r.data == data]
    path = folder / f"{data}-{'layers' if _by_layer(of_data) else 'shots'}.png"
    draw_accuracies(of_data, path)
    return path


def _by_layer(results: Sequence[ProbeResult]) -> bool:
    return len({result.layer for result in results if not result.baseline}) > 1


def _curves(results: Sequence[ProbeResult]) -> dict[str, list[ProbeResult]]:
    curves: dict[str, list[ProbeResult]] = {}
    for result in results:
        strength = "" if result.accuracy.l2 is None else f"λ={result.accuracy.l2:g}"
        label = " ".join(filter(None, (result.model, result.baseline, result.method, strength)))
        curves.setdefault(label, []).append(result)
    return curves


def _band(axes: Any, x: Sequence[float], results: Sequence[ProbeResult], label: str) -> None:
    mean, low, high = (
        [100 * getattr(result.accuracy, key) for result in results] for key in ("mean", "low", "high")
    )
    style = "--" if results[0].baseline else "-"
    (curve,) = axes.plot(x, mean, style, marker="o", markersize=3, label=label)
    axes.fill_between(x, low, high, color=curve.get_color(), alpha=0.15, linewidth=0)


def _against_shots(axes: Any, results: Sequence[ProbeResult]) -> None:
    for label, curve in _curves([result for result in results if result.accuracy.shots]).items():
        _band(axes, [result.accuracy.shots for result in curve], curve, label)
    axes.set(xscale="log", xlabel="images a class")


def _against_layers(axes: Any, results: Sequence[ProbeResult]) -> None:
    most = max(result.accuracy.shots for result in results)
    last = [result for result in results if result.accuracy.shots == most]
    for label, curve in _curves([result for result in last if not result.baseline]).items():
        _band(axes, range(len(curve)), curve, label)
    for label, curve in _curves([result for result in last if result.baseline]).items():
        axes.axhline(100 * curve[-1].accuracy.mean, linestyle=":", linewidth=1, color="grey", label=label)
    names = list(dict.fromkeys(result.layer for result in last if not result.baseline))
    axes.set_xticks(range(len(names)), names, rotation=60, fontsize=6)
    axes.set_xlabel(f"layer, at {most} shots")
