"""Prediction: class probabilities, or features, of image files with any model that `scalevit probe` opens.

Images are decoded and preprocessed as the model's weights say, a batch at a time, in the order given.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch

from scalevit.data.dataset import open_dataset
from scalevit.data.decode import BrokenImage, decode
from scalevit.data.formats.image_files import image_files, read_regular
from scalevit.data.left_out import LeftOut
from scalevit.data.listing import is_source
from scalevit.evals.backbones import LAST_LAYER, LOGITS, Backbone, open_model
from scalevit.evals.features import fit
from scalevit.model.vit import ViT

#: Images decoded and computed at once.
BATCH = 32
#: How logits become probabilities: of exclusive classes, or of each class by itself.
Activation = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class Prediction:
    """The `top` most probable classes of one image, best first. image: its path, or its name in a shard.
    error: why the image could not be read; then there are no classes."""

    image: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str = ""

    @property
    def best(self) -> str:
        """Name of the most probable class; empty for an image that could not be read."""
        return self.classes[0] if self.classes else ""

    def __repr__(self) -> str:
        pairs = ", ".join(f"{c} {p:.1%}" for c, p in zip(self.classes, self.probabilities))
        return f"Prediction({self.image}: {self.error or pairs})"


@runtime_checkable
class NamedImages(Protocol):
    """Encoded images by number."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str: ...

    def encoded(self, number: int) -> bytes: ...

    @property
    def left_out(self) -> LeftOut: ...


class ImagePaths:
    """Image files as they lie on a disk. left_out: what else lay in their folder, with reasons."""

    def __init__(self, paths: Sequence[Path], left_out: LeftOut | None = None) -> None:
        self.paths = paths
        self._left_out = left_out or LeftOut()

    @property
    def left_out(self) -> LeftOut:
        return self._left_out

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, number: int) -> str:
        return str(self.paths[number])

    def encoded(self, number: int) -> bytes:
        try:
            return read_regular(str(self.paths[number]))
        except OSError as error:
            raise BrokenImage(f"{self.paths[number]}: {error.strerror}") from None


class ShardImages:
    """Images of tars or tables."""

    def __init__(self, source: str) -> None:
        self.dataset = open_dataset(source)

    @property
    def left_out(self) -> LeftOut:
        return self.dataset.left_out

    def __len__(self) -> int:
        return self.dataset.samples

    def name(self, number: int) -> str:
        return self.dataset.name(number)

    def encoded(self, number: int) -> bytes:
        return self.dataset.encoded(number)


def predict(
    model: str | Path, images: str | Path | Sequence[str | Path], *, top: int = 5, image: int = 0
) -> list[Prediction]:
    """Class probabilities of images, best first.

    model: as `load` reads it. images: files, folders (searched with their subfolders), tars or tables. top:
    how many classes of each image. image: side in pixels to resample the model's positions to. An image that
    cannot be read has an `error` instead of classes. Raises ValueError for a model without a head and for
    paths without images.

    >>> sv.predict("runs/tuned", "photos/unsorted")  # doctest: +SKIP
    [Prediction(photos/unsorted/IMG_1.jpg: beach 97.1%, city 2.0%, forest 0.9%)]
    """
    backbone = open_model(str(model), image=image)
    targets = [images] if isinstance(images, str | Path) else images
    found = [classify(backbone, source, top, activation_of(model)) for source in open_images(targets)]
    return [prediction for predictions in found for prediction in predictions]


def preprocess(model: ViT, image: Any) -> torch.Tensor:
    """One image as the batch (1, channels, height, width) that `model` expects.

    image: a path, a PIL image, or an array (h, w[, 3]) of uint8. Raises ValueError for a file that cannot be
    decoded.

    >>> logits = model(sv.preprocess(model, "photos/IMG_1.jpg"))  # doctest: +SKIP
    """
    if isinstance(image, str | Path):
        image = decode(Path(image).read_bytes(), str(image))
    elif hasattr(image, "convert"):
        image = image.convert("RGB")
    return fit([np.asarray(image)], model.config.image_size, model.preprocessing, whole=False)


def open_images(targets: Sequence[str | Path]) -> list[NamedImages]:
    """Images that paths name: files, folders with their subfolders, tars and tables.

    Raises ValueError for a path that is not there or holds no image."""
    return [_open(str(target)) for target in targets]


def _open(target: str) -> NamedImages:
    path = Path(target)
    if path.is_dir():
        left_out = LeftOut()
        names = image_files(target, os.path.realpath(target), left_out)
        below = [path / name for name, _ in names]
        return ImagePaths(below, left_out) if below else ShardImages(target)
    if path.is_file() and not is_source(path):
        return ImagePaths([path])
    return ShardImages(target)


def class_names(backbone: Backbone) -> tuple[str, ...]:
    """Names of the model's classes; their numbers where the weights carry no names."""
    known = tuple(getattr(backbone, "class_names", ()))
    return known if len(known) == backbone.outputs else tuple(map(str, range(backbone.outputs)))


def activation_of(model: str | Path) -> Activation:
    """Sigmoid for a run that was trained with the sigmoid loss, else softmax."""
    from scalevit.artifacts import run_folder
    from scalevit.config.load import load

    path = Path(model) / run_folder.CONFIG
    return "sigmoid" if path.is_file() and load(str(path)).train.loss == "sigmoid" else "softmax"


def classify(
    backbone: Backbone, images: NamedImages, top: int, activation: Activation = "softmax"
) -> Iterator[Prediction]:
    """The `top` classes of each image, one by one. Raises ValueError for a model without a head."""
    if not backbone.outputs:
        raise ValueError(
            f"{backbone.name} has no head, so it names no classes; --features writes its features"
        )
    names, scale = class_names(backbone), torch.softmax if activation == "softmax" else _sigmoid
    for batch in _outputs(backbone, images, LOGITS):
        for name, logits in batch:
            if isinstance(logits, BrokenImage):
                yield Prediction(name, error=str(logits))
                continue
            shares, order = scale(logits, 0).topk(min(top, backbone.outputs))
            yield Prediction(name, tuple(names[i] for i in order.tolist()), tuple(shares.tolist()))


def _sigmoid(logits: torch.Tensor, _: int) -> torch.Tensor:
    return torch.sigmoid(logits)


def image_features(
    backbone: Backbone, images: NamedImages, layer: str = LAST_LAYER
) -> Iterator[tuple[str, np.ndarray | BrokenImage]]:
    """(name, features (d,) float32) of each image; the error of an image that cannot be read."""
    for batch in _outputs(backbone, images, layer):
        for name, value in batch:
            yield name, value if isinstance(value, BrokenImage) else value.numpy()


def _outputs(backbone: Backbone, images: NamedImages, layer: str) -> Iterator[list[tuple[str, Any]]]:
    """Batches of (name, output (d,) on the CPU or the error), decoding one batch ahead."""

    def prepared(start: int) -> list[tuple[str, torch.Tensor | BrokenImage]]:
        return [_prepare(backbone, images, i) for i in range(start, min(start + BATCH, len(images)))]

    with ThreadPoolExecutor(1) as pool:
        starts = range(0, len(images), BATCH)
        ahead = pool.submit(prepared, 0) if len(images) else None
        for start in starts:
            assert ahead is not None
            batch = ahead.result()
            ahead = pool.submit(prepared, start + BATCH)
            yield _run(backbone, batch, layer)


def _prepare(backbone: Backbone, images: NamedImages, number: int) -> tuple[str, torch.Tensor | BrokenImage]:
    name = images.name(number)
    try:
        pixels = decode(images.encoded(number), name)
    except BrokenImage as error:
        return name, error
    return name, fit([pixels], backbone.size, backbone.preprocessing, whole=False)[0]


def _run(
    backbone: Backbone, batch: list[tuple[str, torch.Tensor | BrokenImage]], layer: str
) -> list[tuple[str, Any]]:
    whole = [tensor for _, tensor in batch if isinstance(tensor, torch.Tensor)]
    rows: Iterator[torch.Tensor] = iter(())
    if whole:
        with torch.no_grad():
            out = backbone.run(torch.stack(whole).to(backbone.device), (layer,))[layer]
        if not torch.isfinite(out).all():
            raise ValueError(f"{backbone.name}: outputs are not finite; are its weights damaged?")
        rows = iter(out.float().cpu())
    return [(name, next(rows) if isinstance(x, torch.Tensor) else x) for name, x in batch]
