"""Accuracy drawn against shots (paper Fig. 1), or against the layers of a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalevit.evals.compare import ProbeResult


def require_format(path: Path) -> None:
    """ValueError for a suffix that no figure can have."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in known:
        raise ValueError(f"--figure {path}: the suffix must be one of {', '.join(sorted(known))}")


def draw_accuracies(lines: Sequence[ProbeResult], path: Path) -> None:
    """One panel a data set, a curve with its 95 % band for each model, method and floor. Where a curve has
    several layers, they are the horizontal axis, at the largest number of shots. The suffix is the format
    (`require_format`)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(line.data for line in lines))
    figure = Figure(figsize=(5 * len(names), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0]):
        here = [line for line in lines if line.data == name]
        (_against_layers if _by_layer(here) else _against_shots)(axes, here)
        axes.set(title=name, ylabel="accuracy in %")
        axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    figure.savefig(draft, dpi=150, format=path.suffix.lower().lstrip("."))
    draft.replace(path)


def draw_dataset(lines: Sequence[ProbeResult], data: str, folder: Path) -> Path:
    """One data set's panel in `folder`: DATA-shots.png, or DATA-layers.png where there are several layers."""
    here = [line for line in lines if line.data == data]
    path = folder / f"{data}-{'layers' if _by_layer(here) else 'shots'}.png"
    draw_accuracies(here, path)
    return path


def _by_layer(lines: Sequence[ProbeResult]) -> bool:
    return len({line.layer for line in lines if not line.floor}) > 1


def _curves(lines: Sequence[ProbeResult]) -> dict[str, list[ProbeResult]]:
    curves: dict[str, list[ProbeResult]] = {}
    for line in lines:
        strength = "" if line.found.l2 is None else f"λ={line.found.l2:g}"
        label = " ".join(filter(None, (line.model, line.floor, line.method, strength)))
        curves.setdefault(label, []).append(line)
    return curves


def _band(axes: Any, x: Sequence[float], lines: Sequence[ProbeResult], label: str) -> None:
    mean, low, high = ([100 * getattr(line.found, key) for line in lines] for key in ("mean", "low", "high"))
    style = "--" if lines[0].floor else "-"
    (curve,) = axes.plot(x, mean, style, marker="o", markersize=3, label=label)
    axes.fill_between(x, low, high, color=curve.get_color(), alpha=0.15, linewidth=0)


def _against_shots(axes: Any, lines: Sequence[ProbeResult]) -> None:
    for label, curve in _curves([line for line in lines if line.found.shots]).items():
        _band(axes, [line.found.shots for line in curve], curve, label)
    axes.set(xscale="log", xlabel="images a class")


def _against_layers(axes: Any, lines: Sequence[ProbeResult]) -> None:
    most = max(line.found.shots for line in lines)
    last = [line for line in lines if line.found.shots == most]
    for label, curve in _curves([line for line in last if not line.floor]).items():
        _band(axes, range(len(curve)), curve, label)
    for label, curve in _curves([line for line in last if line.floor]).items():
        axes.axhline(100 * curve[-1].found.mean, linestyle=":", linewidth=1, color="grey", label=label)
    names = list(dict.fromkeys(line.layer for line in last if not line.floor))
    axes.set_xticks(range(len(names)), names, rotation=60, fontsize=6)
    axes.set_xlabel(f"layer, at {most} shots")
