"""Feature extraction from frozen models: preprocessing, batches over ranks, a cache keyed by content.

A batch is always the same images, however many processes share the work, and the same images give the same
bits: accuracies do not depend on the number of processes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from scalevit.artifacts.atomic_write import atomic_write
from scalevit.artifacts.cache_folder import cache_folder
from scalevit.config.dataclass_io import nearest_names
from scalevit.config.run import Preprocessing
from scalevit.distributed.world import World
from scalevit.evals.backbones import LOGITS, Backbone
from scalevit.evals.datasets.probe_set import Images

BATCH = 64
#: Batches after which features are copied to the host; each copy waits for the device.
BATCHES_ON_DEVICE = 8


@dataclass(frozen=True)
class WorkShare:
    """Share of the work of one process. gather: all-gather of a Python object, in the order of ranks."""

    rank: int = 0
    world: int = 1
    gather: Callable[[Any], list[Any]] = lambda own: [own]

    @classmethod
    def of(cls, world: World) -> WorkShare:
        return cls(world.rank, world.size, world.all_gather)


SINGLE_PROCESS = WorkShare()


def extract(
    backbone: Backbone,
    images: Images,
    *,
    whole: bool,
    layers: Sequence[str],
    share: WorkShare = SINGLE_PROCESS,
    batch: int = BATCH,
) -> dict[str, np.ndarray]:
    """Features (n, d) float32 of each layer, for all images, on every rank.

    whole: keep the whole frame instead of the model's central crop. Raises ValueError for an unknown layer
    and for features that are not finite."""
    wanted = tuple(layers)
    for layer in wanted:
        if layer not in backbone.layers and not (layer == LOGITS and backbone.outputs):
            near = ", ".join(nearest_names(layer, backbone.layers))
            raise ValueError(f"{backbone.name} has no layer {layer!r}; nearest: {near}")
    blocks = [range(i, min(i + batch, len(images))) for i in range(0, len(images), batch)]
    shares = share.gather(_features_of_rank(backbone, images, blocks, whole, wanted, share))
    for found in shares:
        if isinstance(found, ValueError):
            raise found
    out = {layer: _interleaved([found[layer] for found in shares], len(blocks)) for layer in wanted}
    for layer, values in out.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{backbone.name}: features of {layer} are not finite; are its weights damaged?")
    return out


def _features_of_rank(
    backbone: Backbone,
    images: Images,
    blocks: Sequence[range],
    whole: bool,
    layers: tuple[str, ...],
    share: WorkShare,
) -> dict[str, list[np.ndarray]] | ValueError:
    """Features of this rank's blocks. A ValueError is returned, for every rank to raise.

    Ranks that each hold a part of the weights run the network together, so all run it equally often: a rank
    without a block left repeats the last block, one that met a broken image runs on zeros."""
    own: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    mine, wrong = blocks[share.rank :: share.world], None
    idle = [*blocks[-1:]] * (-(-len(blocks) // share.world) - len(mine))
    try:
        with torch.no_grad():  # weights gathered in inference mode could not be trained on
            for number, prepared in enumerate(_prepared(backbone, images, [*mine, *idle], whole), 1):
                if isinstance(prepared, ValueError):
                    wrong = wrong or prepared
                    prepared = torch.zeros(1, len(backbone.preprocessing.mean), *backbone.size)
                elif prepared.dtype == torch.uint8:
                    prepared = fit_same_size(prepared, backbone.size, backbone.preprocessing, whole)
                found = backbone.run(prepared, layers)
                for layer in layers:
                    own[layer].append(found[layer].float())
                    if number % BATCHES_ON_DEVICE == 0:
                        own[layer][-BATCHES_ON_DEVICE:] = [
                            value.cpu() for value in own[layer][-BATCHES_ON_DEVICE:]
                        ]
    except ValueError as error:
        return error
    return wrong or {
        layer: [value.cpu().numpy() for value in values[: len(mine)]] for layer, values in own.items()
    }


def _interleaved(shares: list[list[np.ndarray]], blocks: int) -> np.ndarray:
    """Concatenate the blocks in order: block i was computed by rank i modulo the number of ranks."""
    return np.concatenate([shares[i % len(shares)][i // len(shares)] for i in range(blocks)])


def _prepared(
    backbone: Backbone, images: Images, blocks: Sequence[range], whole: bool
) -> Iterator[Tensor | ValueError]:
    """Prefetch of preprocessed batches in threads; a broken image gives its ValueError instead. Images of one
    size go to an accelerator as uint8 (b, h, w[, 3]), a quarter of the bytes, and are scaled there."""
    device = backbone.device

    def prepare(block: range) -> Tensor | ValueError:
        try:
            pixels = [images[i] for i in block]
            if device.type != "cpu" and len({image.shape for image in pixels}) == 1:
                return _sent(torch.from_numpy(np.stack(pixels)), device)
            return _sent(fit(pixels, backbone.size, backbone.preprocessing, whole), device)
        except ValueError as error:
            return error

    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        coming, ahead = iter(blocks), deque[Future[Tensor | ValueError]]()
        for block in coming:
            ahead.append(pool.submit(prepare, block))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _sent(images: Tensor, device: torch.device) -> Tensor:
    """Asynchronous copy of images to the device."""
    if device.type != "cuda":
        return images
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        there = images.pin_memory().to(device, non_blocking=True)
    stream.synchronize()
    there.record_stream(torch.cuda.default_stream(device))  # whose work decides when the memory is free
    return there


# --------------------------------------------------------------------------- images to tensors


Size = int | tuple[int, int]


def fit(
    images: Sequence[np.ndarray], side: Size, preprocessing: Preprocessing, whole: bool
) -> Float[Tensor, "b k y x"]:
    """Preprocessing of uint8 images of any size, grey or colour, to one batch for a model.

    side: of the model's square images in pixels, or their height and width. whole: each image is resized to
    that size. Otherwise it is resized and cropped as `preprocessing` says; then values are shifted by the
    mean and divided by the standard deviation, of one channel (grey) or three."""
    if len({image.shape for image in images}) == 1:
        return fit_same_size(torch.from_numpy(np.stack(images)), side, preprocessing, whole)
    alone = (torch.from_numpy(np.array(image)[None]) for image in images)
    return torch.cat([fit_same_size(x, side, preprocessing, whole) for x in alone])


def fit_same_size(
    images: UInt8[Tensor, "b h w *c"], side: Size, preprocessing: Preprocessing, whole: bool
) -> Float[Tensor, "b k y x"]:
    """Preprocessing of a batch of images of one size, on their device."""
    size = side if isinstance(side, tuple) else (side, side)
    pixels = _resized_and_cropped(images, size, preprocessing, whole)
    if len(preprocessing.mean) == 1:  # ITU-R 601, as Pillow's "L"
        weights = torch.tensor((0.299, 0.587, 0.114), device=pixels.device).view(1, 3, 1, 1)
        pixels = (pixels * weights).sum(dim=1, keepdim=True)
    elif len(preprocessing.mean) != 3:
        raise ValueError(f"images have 3 channels; this model takes {len(preprocessing.mean)}")
    mean, std = (
        torch.tensor(v, device=pixels.device).view(1, -1, 1, 1)
        for v in (preprocessing.mean, preprocessing.std)
    )
    return (pixels / 255).sub_(mean).div_(std)


def _resized_and_cropped(
    x: Tensor, target: tuple[int, int], preprocessing: Preprocessing, whole: bool
) -> Tensor:
    """Resize and crop (b, h, w[, 3]) to (b, 3, *target) in [0, 255]."""
    x = (x[:, None] if x.dim() == 3 else x.permute(0, 3, 1, 2).contiguous()).float()
    size = _resize_to((x.shape[-2], x.shape[-1]), target, preprocessing, whole)
    if size != tuple(x.shape[-2:]):
        x = _interpolate(x, size, preprocessing.interpolation)
    if preprocessing.resize == "longest" and not whole:
        x = _padded(x.expand(-1, 3, -1, -1), target, preprocessing.mean)
    # half a pixel is rounded as torchvision and timm do
    top, left = (round((have - want) / 2) for have, want in zip(x.shape[-2:], target))
    return x[:, :, top : top + target[0], left : left + target[1]].expand(-1, 3, -1, -1)


def _resize_to(
    own: tuple[int, int], target: tuple[int, int], preprocessing: Preprocessing, whole: bool
) -> tuple[int, int]:
    """Height and width that an image of size `own` is resized to, before it is cropped."""
    if whole:
        return target
    scaled = [round(side / preprocessing.crop) for side in target]
    if preprocessing.resize == "squash":
        return scaled[0], scaled[1]
    ratios = [there / here for there, here in zip(scaled, own)]
    if preprocessing.resize == "longest":
        return max(1, round(own[0] * min(ratios))), max(1, round(own[1] * min(ratios)))
    height, width = (max(t, round(side * max(ratios))) for t, side in zip(target, own))
    return height, width


def _interpolate(x: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    if interpolation == "nearest":
        return F.interpolate(x, size, mode="nearest-exact")
    return F.interpolate(x, size, mode=interpolation, antialias=True, align_corners=False).clamp(0, 255)


def _padded(x: Tensor, target: tuple[int, int], mean: Sequence[float]) -> Tensor:
    """Images with borders of the mean colour where they are smaller than `target`."""
    height, width = (max(have, want) for have, want in zip(x.shape[-2:], target))
    fill = torch.tensor([round(255 * value) for value in (*mean, mean[0], mean[0])[:3]], device=x.device)
    out = fill.to(x.dtype).view(1, 3, 1, 1).expand(len(x), -1, height, width).clone()
    top, left = (height - x.shape[-2]) // 2, (width - x.shape[-1]) // 2
    out[:, :, top : top + x.shape[-2], left : left + x.shape[-1]] = x
    return out


def raw_pixels(images: Images, largest: int = 32) -> np.ndarray:
    """Raw pixels (n, d) in [0, 1], the baseline of every network: of arrays at their own size up to `largest`
    a side, of files as squares."""
    height, width = images.shape[1:3] if isinstance(images, np.ndarray) else (largest, largest)
    size = (min(height, largest), min(width, largest))
    return np.stack([_small(images[i], size) for i in range(len(images))])


def _small(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    x = torch.from_numpy(np.array(image)).float() / 255  # a copy: decoders give arrays that are read-only
    x = x[None, None] if x.dim() == 2 else x.permute(2, 0, 1)[None]
    if x.shape[-2:] != size:
        x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
    return x.flatten().numpy()


# --------------------------------------------------------------------------- kept by content


def default_cache() -> Path | None:
    """Default folder of the feature cache; None where none can be written."""
    return cache_folder("features")


@dataclass(frozen=True)
class FeatureCache:
    """Feature cache keyed by the hash of weights, images, preprocessing and layer. folder None: no cache.
    Ranks compute together whatever any of them lacks, and the first rank stores it."""

    folder: Path | None = None
    share: WorkShare = SINGLE_PROCESS

    def extract(
        self, backbone: Backbone, images: Images, fingerprint: str, *, whole: bool, layers: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """`extract` for images with this fingerprint; only layers that are not cached are computed."""
        places = {layer: self._place(backbone, fingerprint, whole, layer) for layer in layers}
        found = {layer: _read(place) for layer, place in places.items()}
        lacking = {layer for layer, values in found.items() if values is None or len(values) != len(images)}
        lacking = set().union(*self.share.gather(lacking))
        missing = [layer for layer in found if layer in lacking]
        if missing:
            computed = extract(backbone, images, whole=whole, layers=missing, share=self.share)
            for layer, values in computed.items():
                found[layer] = values
                if self.share.rank == 0:
                    _write(places[layer], values)
        return {layer: values for layer, values in found.items() if values is not None}

    def _place(self, backbone: Backbone, fingerprint: str, whole: bool, layer: str) -> Path | None:
        if self.folder is None or backbone.fingerprint is None:
            return None
        facts = {
            "weights": backbone.fingerprint(), "images": fingerprint, "side": list(backbone.size),
            "whole": whole, "layer": layer, "preprocessing": asdict(backbone.preprocessing), "batch": BATCH,
            "torch": torch.__version__, "device": backbone.device.type,
        }  # fmt: skip
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.npy"


def _read(place: Path | None) -> np.ndarray | None:
    """A cached array; None when there is none or the file is cut short."""
    try:
        return None if place is None else np.load(place, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def _write(place: Path | None, values: np.ndarray) -> None:
    if place is None:
        return
    with atomic_write(place) as file:
        np.save(file, values)
