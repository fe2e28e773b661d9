"""Configuration keys: values, default and meaning of every `section.key`, as `scalevit config` lists them."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from scalevit.config.run import Run

MEANINGS = {
    "name": "name of the run, in records and reports",
    "model.shape": "named size and patch, e.g. Ti/16, S/16, B/32, L/16, g/14, G/14",
    "model.width": "width of the tokens; none: the named shape's",
    "model.depth": "number of encoder blocks; none: the named shape's",
    "model.mlp": "width of the MLP's hidden layer; none: the named shape's",
    "model.heads": "attention heads, a divisor of the width; none: the named shape's",
    "model.patch": "side of a patch in pixels; none: the named shape's",
    "model.image": "side of the input in pixels, a multiple of the patch",
    "model.classes": "outputs of the head; 0: no head",
    "model.pool": "pooling of the tokens: attention (map), mean (gap) or class token (token)",
    "model.positions": "position embeddings: learned, or fixed sines and cosines",
    "model.registers": "register tokens",
    "model.qk_norm": "LayerNorm of queries and keys",
    "model.pre_logits": "a tanh layer between pooling and head",
    "model.gelu": "which GELU: tanh approximation, exact (erf), or x·sigmoid(1.702 x) (quick)",
    "model.norm_eps": "epsilon of LayerNorm",
    "model.head_bias": "initial bias of the head; -10 for the sigmoid loss",
    "model.class_token": "a class token that is not pooled (imported weights)",
    "model.prefix_positions": "positions cover class token and registers, too (imported weights)",
    "model.pre_norm": "a norm before the blocks, as in CLIP (imported weights)",
    "model.pooled_norm": "the final norm comes after pooling (imported weights)",
    "model.layer_scale": "a learned scale on each residual branch (imported weights)",
    "model.channels": "channels of the input (imported weights)",
    "model.image_width": "width of the input in pixels; 0: square (imported weights)",
    "data.source": "images: strokes, atoms or fractals (procedural), or a path or URL",
    "data.images": "number of unique images; 0: all, or endlessly new procedural ones",
    "data.seed": "seed of the order and of the views",
    "data.palette": "share of colour in procedural images, 0 to 1",
    "data.transform": "views: whole image squeezed (none), random crop (inception), central crop (central)",
    "data.block": "neighbouring images kept together when shuffling, for object stores; 0: shuffled freely",
    "data.tolerate": "largest share of corrupt samples before the run stops",
    "data.exclude": "file with samples to leave out, as scalevit data dedup writes it",
    "data.workers": "threads that prepare batches ahead",
    "data.part": "part of a labelled set: all, its train half, or most of that half",
    "data.randaugment": "magnitude of RandAugment, 0 (off) to 20",
    "data.mixup": "parameter of mixup's Beta distribution; 0: off",
    "data.more": "further sources that are mixed in",
    "data.weights": "part of each source in the mixture, data.source first",
    "data.image": "column or field that holds the image, where that cannot be guessed",
    "data.label": "column or field that holds the label, where that cannot be guessed",
    "data.split": "which split of the source is used",
    "data.follow_links": "read images through links that leave the data set",
    "data.names": "names of the classes, in the order of their numbers",
    "optimizer.name": "update rule",
    "optimizer.beta1": "decay of the first moment (momentum)",
    "optimizer.beta2": "decay of the second moment; Adafactor's upper bound",
    "optimizer.body_decay": "weight decay of the body's kernels, multiplied by the learning rate",
    "optimizer.head_decay": "weight decay of the head's kernel, multiplied by the learning rate",
    "optimizer.clip": "largest global norm of the gradient",
    "optimizer.layer_decay": "factor of the learning rate from each block to the one below, (0, 1]",
    "optimizer.momentum": "number format of the first moment",
    "schedule.name": "learning-rate schedule",
    "schedule.lr": "peak learning rate",
    "schedule.steps": "length of the run in steps",
    "schedule.warmup": "steps of linear warm-up",
    "schedule.timescale": "timescale of the reciprocal square root in steps",
    "schedule.cooldown": "steps of the final linear cooldown to zero",
    "schedule.shift": "steps by which the decay is shifted, as if so many had been taken",
    "schedule.end": "last learning rate of the linear decay",
    "train.batch": "images a step, over all devices",
    "train.micro_batch": "images at once on one device; 0: as many as fit of its share",
    "train.loss": "sigmoid (several labels an image) or softmax cross-entropy",
    "train.precision": "number format of the computation",
    "train.compile": "compile the model with torch.compile",
    "train.ema": "decay of the exponential moving average of the weights; 0: none",
    "train.polyak": "step from which on the weights' mean is kept; 0: none",
    "train.seed": "seed of the initial weights",
    "train.log_every": "steps between log lines; 0: only at the end",
    "train.save_every": "steps between checkpoints; 0: only at the end",
    "train.eval_every": "steps between probes; 0: only at the end",
    "train.keep_last": "number of newest checkpoints that are kept",
    "train.keep_every": "checkpoints of multiples of this step are kept, too; 0: none",
    "train.keep_at": "steps whose checkpoints are kept, too",
    "train.checkpoints": "folder or address (s3://…) of checkpoints; empty: the run's folder",
    "train.trackers": "where numbers go besides the records: tensorboard, wandb, trackio",
    "train.deterministic": "only operations that give the same bits each time, on a GPU, too",
    "probe.datasets": "labelled data sets that the run is probed on",
    "probe.shots": "labelled images a class",
    "probe.draws": "balanced draws of the support set",
    "probe.l2": "strength of the ridge regression",
    "branch.trunk": "folder of the run that a cooldown starts from; empty: no branch",
    "branch.step": "step of the trunk's checkpoint that a cooldown starts from",
    "start.weights": "initial weights; scalevit finetune fills this in",
    "start.content": "SHA-256 of the initial weights",
    "start.parent": "the run that the initial weights come from",
    "start.preprocessing.mean": "mean that pixels in [0, 1] are shifted by, of red, green and blue",
    "start.preprocessing.std": "standard deviation that pixels are divided by",
    "start.preprocessing.interpolation": "how images are resized",
    "start.preprocessing.crop": "share of the resized image's side that the central crop keeps",
    "start.preprocessing.resize": "which side of the image is resized",
    "parallel.strategy": "data parallel (ddp), sharded (fsdp), or sharded within groups (hybrid)",
    "parallel.shard": "devices of one group of hybrid",
    "parallel.recompute": "activation checkpointing: what is computed twice to save memory",
    "parallel.timeout": "seconds after which a process that does not answer ends the job",
    "guard.on": "check loss and gradient norm before they enter the weights",
    "guard.spike": "a loss is a spike above the median by so many median absolute deviations; 0: never",
    "guard.window": "steps that the median is taken over",
    "guard.skip": "batches that are skipped after going back to a checkpoint",
    "guard.rewinds": "how often a run may go back before it stops",
}


@dataclass(frozen=True)
class Key:
    """One key. values: its type, or its choices."""

    name: str
    values: str
    default: Any
    meaning: str


def keys(tree: type = Run, prefix: str = "") -> Iterator[Key]:
    """Every key of a run's configuration, in the order of `run.yaml`."""
    hints, defaults = get_type_hints(tree), tree()
    for field in dataclasses.fields(tree):
        name, kind = f"{prefix}{field.name}", hints[field.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            yield from keys(kind, f"{name}.")
        else:
            yield Key(name, _values(kind), getattr(defaults, field.name), MEANINGS.get(name, ""))


def _values(kind: Any) -> str:
    """The choices of a Literal, and otherwise the type's name as people write it."""
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return "|".join(map(str, arguments))
    if get_origin(kind) is tuple:
        return f"[{_values(arguments[0])}, …]"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join("none" if a is type(None) else _values(a) for a in arguments)
    return {"bool": "true|false", "str": "text", "int": "integer", "float": "number"}.get(kind.__name__, "…")
