"""Sources of training images by name: procedural families, and image datasets at a path or address."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scalevit.config.dataclass_io import nearest_names
from scalevit.config.run import Data
from scalevit.data.class_names import listed
from scalevit.data.loader import Batches, Samples, Source
from scalevit.data.options import options_of
from scalevit.data.order import Mixture, Order, Positions

if TYPE_CHECKING:
    from scalevit.data.dataset import ImageDataset

FAMILIES = ("strokes", "atoms", "fractals")


class Rendered:
    """A procedural family as a source: endless, and the same pixels for the same index."""

    samples = 0
    is_cacheable = True

    def __init__(self, family: str, classes: int, side: int, seed: int, palette: float) -> None:
        from scalevit.data.procedural.dataset import Procedural

        self._family = Procedural(family, classes, side, seed, palette)
        self.class_cycle = classes

    def get(self, indices: np.ndarray, positions: np.ndarray) -> Samples:
        return Samples(self._family.images(indices), self._family.labels(indices))


def open_source(data: Data, *, image: int, classes: int, world: int = 1) -> Source:
    """The source that `data` names, giving images of `image` pixels a side and labels below `classes`, to
    one of `world` processes that share each batch.

    Raises ValueError when there is no such family or path, or when its labels do not fit."""
    return OPENERS[_form(data.source)](data, image, classes, world)


def order_of(data: Data, source: Source) -> Order:
    """The order in which a run sees the images of `source`."""
    return Order(source.samples, data.images, data.seed, data.block, source.class_cycle)


def batches_of(
    data: Data, *, image: int, classes: int, batch: int, rank: int = 0, world: int = 1, pin: bool = False
) -> Batches:
    """Source, order and loader in one call: what a training run needs."""
    source, order = (_mixed if data.more else _one)(data, image, classes, world)
    notes = tuple(getattr(source, "notes", ()))
    source = augmented(source, order, data, classes)
    return Batches(
        source, order, batch=batch, rank=rank, world=world, workers=data.workers,
        tolerate=data.tolerate, where=" or ".join([data.source, *data.more]), pin=pin, notes=notes,
    )  # fmt: skip


def _one(data: Data, image: int, classes: int, world: int) -> tuple[Source, Positions]:
    source = open_source(data, image=image, classes=classes, world=world)
    return source, order_of(data, source)


def _mixed(data: Data, image: int, classes: int, world: int) -> tuple[Source, Positions]:
    """All sources of a mixture; procedural ones have no use for a transform, nor any but the first for the
    list of what to leave out."""
    from scalevit.data.mixture import Mixed, MixedOrder

    words = [data, *(replace(data, source=source, exclude="") for source in data.more)]
    words = [replace(one, transform="none") if one.source in FAMILIES else one for one in words]
    pairs = [_one(one, image, classes, world) for one in words]
    order = MixedOrder(Mixture(data.weights, data.seed), [order for _, order in pairs])
    return Mixed([source for source, _ in pairs], classes), order


def augmented(source: Source, order: Positions, data: Data, classes: int) -> Source:
    """The source with the augmentation that `data` asks for, or as it is."""
    if not (data.randaugment or data.mixup):
        return source
    from scalevit.data.augment import Augmented  # needs image libraries, which other runs need not load

    wanted = {"randaugment": data.randaugment, "mixup": data.mixup}
    return Augmented(source, order, classes=classes, seed=data.seed, **wanted)


def _form(source: str) -> str:
    """Which kind of source a word or an address is."""
    if source in FAMILIES:
        return "procedural"
    if "/" in source or Path(source).exists() or set(source) & set("*{."):
        return "store"
    near = ", ".join(nearest_names(source, FAMILIES))
    raise ValueError(f"data.source={source!r} is neither a path nor a procedural family; nearest: {near}")


def _open_procedural(data: Data, image: int, classes: int, world: int) -> Source:
    if classes < 1:
        raise ValueError(f"data.source={data.source} is labelled: it needs model.classes of at least 1")
    if data.transform != "none":
        raise ValueError(f"data.transform={data.transform} is for stores of photographs; use none")
    return Rendered(data.source, classes, image, data.seed, data.palette)


def _open_images(data: Data, image: int, classes: int, world: int) -> Source:
    # image libraries cost a fifth of a second, which a run on procedural images need not pay
    from scalevit.data.block_cache import with_block_cache
    from scalevit.data.exclusions import NO_EXCLUSIONS, read_exclusions
    from scalevit.data.training_images import TrainingImages

    store = _train_split(data)
    if classes and store.unlabelled:
        raise ValueError(
            f"{data.source}: {store.unlabelled} of {store.samples} samples have no label{store.hint()}"
        )
    if classes and store.classes == 1 and not (store.multi or data.more):
        raise ValueError(f"{data.source} has only one class: nothing can be learned from its labels")
    if classes and (
        store.classes > classes or (store.class_names and store.classes != classes and not data.more)
    ):
        what = "classes" if store.class_names else f"labels up to {store.classes - 1}"
        count = f"{store.classes} " if store.class_names else ""
        raise ValueError(
            f"{data.source} has {count}{what}, the model {classes} classes; set model.classes={store.classes}"
        )
    return TrainingImages(
        with_block_cache(store, data.block, world) if data.block else store,
        side=image,
        transform=data.transform,
        seed=data.seed,
        classes=classes,
        source=data.source,
        tolerate=data.tolerate,
        excluded=read_exclusions(data.exclude, store) if data.exclude else NO_EXCLUSIONS,
    )


def _train_split(data: Data) -> ImageDataset:
    """The train split of a source. Raises ValueError where another split has classes that it lacks."""
    from scalevit.data.dataset import open_splits

    splits = open_splits(data.source, options_of(data))
    train = splits.get("") or splits.get("train")
    if train is None:
        have = ", ".join(splits)
        raise ValueError(
            f"{data.source} has no train split, only {have}; give the folder or file to train on"
        )
    for name, other in splits.items():
        unknown = [one for one in other.class_names if one not in train.class_names]
        if other is not train and train.class_names and unknown and other.unlabelled < other.samples:
            raise ValueError(
                f"{data.source}: its {name} split has classes that its train split lacks: {listed(unknown)}"
            )
    return train


@dataclass(frozen=True)
class SourceInfo:
    """What a source is. classes: 0 where the model decides. class_names: () where classes have no names.
    samples: 0 where it is endless. content_id: hash of its samples, "" of procedural ones. notes: lines for
    the user: the split that is used, and what is left out."""

    classes: int
    class_names: tuple[str, ...] = ()
    samples: int = 0
    content_id: str = ""
    split: str = ""
    notes: tuple[str, ...] = ()


def describe_source(data: Data) -> SourceInfo:
    """Classes, class names, number and content hash of the images of `data.source` and `data.more`, and notes
    on them; reads no more than the indexes and 64 images. Raises ValueError as `open_source` does."""
    infos = [_describe(replace(data, source=source)) for source in (data.source, *data.more)]
    first, ids = infos[0], [info.content_id for info in infos]
    joined = hashlib.sha256(" ".join(ids).encode()).hexdigest() if any(ids) else ""
    if len(infos) == 1:
        return first
    return SourceInfo(
        max(info.classes for info in infos), first.class_names, sum(info.samples for info in infos),
        joined, first.split, tuple(note for info in infos for note in info.notes),
    )  # fmt: skip


def _describe(data: Data) -> SourceInfo:
    if _form(data.source) == "procedural":
        return SourceInfo(0)
    store = _train_split(data)
    return SourceInfo(
        store.classes, store.class_names, store.samples, store.content_id(), store.split,
        tuple(store.notes()),
    )  # fmt: skip


OPENERS: dict[str, Callable[[Data, int, int, int], Source]] = {
    "procedural": _open_procedural,
    "store": _open_images,
}
