"""Pictures of attention maps and of nearest neighbours in feature space, for the user's own images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalevit.artifacts.atomic_write import atomic_write
from scalevit.evals.backbones import LAST_LAYER, Backbone
from scalevit.evals.datasets.probe_set import ProbeSet, select
from scalevit.evals.features import extract, fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Query images shown; heads and neighbours shown for each; support images searched.
SHOWN, HEADS, NEIGHBOURS, SOUGHT = 6, 4, 6, 2000

#: Side of one picture in inches, and its dots per inch.
INCHES, DPI = 1.1, 110


def draw(backbone: Backbone, data: ProbeSet, folder: Path) -> list[Path]:
    """Write DATA-neighbours.png and, for a ViT whose pooling attends, DATA-attention.png into `folder`."""
    chosen = spread_over_classes(data.query_labels, SHOWN)
    pictures = {"neighbours": _neighbours(backbone, data, chosen)}
    if backbone.attention_maps is not None:
        pictures["attention"] = _attention(backbone, data, chosen)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in sorted(pictures.items()):
        path = folder / f"{data.name}-{name}.png"
        with atomic_write(path) as file:
            figure.savefig(file, dpi=DPI, format="png")
        paths.append(path)
    return paths


def spread_over_classes(labels: np.ndarray, count: int) -> np.ndarray:
    """Positions of at most `count` images, from as many classes as there are, one after the other."""
    places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    classes = np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).astype(int))
    rounds = [places[c][i] for i in range(count) for c in classes if i < len(places[c])]
    return np.array(rounds[:count])


def nearest_neighbours(query: np.ndarray, support: np.ndarray, count: int) -> np.ndarray:
    """Nearest neighbours (q, count) among the support images, nearest first, by cosine similarity of centred
    features query (q, d) and support (s, d)."""
    centre = support.mean(axis=0)
    q, s = (F.normalize(torch.from_numpy(x - centre), dim=1) for x in (query, support))
    return (q @ s.T).argsort(dim=1, descending=True, stable=True)[:, :count].numpy()


def _neighbours(backbone: Backbone, data: ProbeSet, chosen: np.ndarray) -> Figure:
    among = np.unique(np.linspace(0, len(data.support) - 1, min(SOUGHT, len(data.support))).astype(int))
    images, labels = select(data.support, among), data.support_labels[among]
    query, support = (
        extract(backbone, x, whole=data.whole, layers=(LAST_LAYER,))[LAST_LAYER]
        for x in (select(data.query, chosen), images)
    )
    neighbours = nearest_neighbours(query, support, min(NEIGHBOURS, len(among)))
    figure, axes = _grid(len(chosen), 1 + neighbours.shape[1], f"{data.name}: most alike for {backbone.name}")
    for row, number, alike in zip(axes, chosen, neighbours):
        own = data.query_labels[number]
        _show(row[0], data.query[int(number)], f"{own}")
        for cell, other in zip(row[1:], alike):
            label = labels[other]
            _show(cell, images[int(other)], f"{'✓' if label == own else '✗'} {label}")
    return figure


def _attention(backbone: Backbone, data: ProbeSet, chosen: np.ndarray) -> Figure:
    assert backbone.attention_maps is not None
    prepared = fit([data.query[int(i)] for i in chosen], backbone.size, backbone.preprocessing, data.whole)
    with torch.inference_mode():
        weights = backbone.attention_maps(prepared).cpu().numpy()
    heads = min(HEADS, weights.shape[1])
    figure, axes = _grid(len(chosen), 2 + heads, f"{data.name}: where the pooling of {backbone.name} looks")
    for row, number, image, maps in zip(axes, chosen, _pixels(prepared, backbone), weights):
        _show(row[0], image, f"{data.query_labels[number]}")
        named = [("all heads", maps.mean(axis=0)), *((f"head {h}", maps[h]) for h in range(heads))]
        for cell, (name, attention) in zip(row[1:], named):
            _show(cell, image, name)
            cell.imshow(attention, extent=(0, image.shape[1], image.shape[0], 0), cmap="inferno", alpha=0.65)
    return figure


def _pixels(prepared: Tensor, backbone: Backbone) -> np.ndarray:
    """Undo the normalisation: model input (b, 3, y, x) to pixels (b, y, x, 3) in [0, 1]."""
    about = backbone.preprocessing
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (about.mean, about.std))
    return (prepared * std + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def _grid(rows: int, columns: int, title: str) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(INCHES * columns, INCHES * 1.2 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _show(cell: Any, image: np.ndarray, title: str) -> None:
    cell.imshow(image, cmap="gray")
    cell.set_title(title, fontsize=7)
    cell.set_axis_off()
