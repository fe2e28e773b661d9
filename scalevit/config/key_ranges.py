"""Ranges and meanings of all configuration keys, in one table."""

from __future__ import annotations

import dataclasses
import functools
import typing
from dataclasses import dataclass
from typing import Any

from scalevit.config.number_range import Range
from scalevit.config.run import Run

_STEPS = Range(0, 10**12)


_SHARE = Range(0, 1)


_MOMENTUM = Range(0, 1, open_high=True)


_SEED = Range(0, 2**63 - 1)


_DECAY = Range(0, 1000)


#: Every key of a run: its meaning, and the range of its numbers (None: no number, or chosen from a list).
KEYS: dict[str, tuple[str, Range | None]] = {
    "name": ("name of the run, shown and never compared", None),
    "model.shape": ("named size and patch, e.g. S/16", None),
    "model.width": ("width of the tokens; null: the shape's", Range(1, 2**16)),
    "model.depth": ("number of blocks; null: the shape's", Range(1, 1000)),
    "model.mlp": ("hidden width of the MLP; null: the shape's", Range(1, 2**18)),
    "model.heads": ("attention heads, a divisor of the width; null: the shape's", Range(1, 2**16)),
    "model.patch": ("side of a patch in pixels; null: the shape's", Range(1, 2**12)),
    "model.image": ("side of the input in pixels, a multiple of the patch", Range(1, 2**14)),
    "model.classes": ("outputs of the head; 0: no head", Range(0, 2**24)),
    "model.pool": ("pooling of the tokens", None),
    "model.positions": ("position embedding", None),
    "model.registers": ("register tokens", Range(0, 4096)),
    "model.qk_norm": ("normalise queries and keys", None),
    "model.pre_logits": ("a tanh layer before the head", None),
    "model.gelu": ("form of GELU", None),
    "model.norm_eps": ("epsilon of LayerNorm", Range(0, 1, open_low=True)),
    "model.head_bias": ("initial bias of the head", Range(-1000, 1000)),
    "model.class_token": ("a class token that is not pooled", None),
    "model.prefix_positions": ("positions cover class token and registers", None),
    "model.pre_norm": ("LayerNorm before the blocks, as in CLIP", None),
    "model.pooled_norm": ("final LayerNorm after pooling", None),
    "model.layer_scale": ("learned scale on every residual branch", None),
    "model.channels": ("channels of the input; other than 3: foreign weights", Range(1, 64)),
    "model.image_width": ("width of an oblong input in pixels; 0: square", Range(0, 2**14)),
    "data.source": ("procedural family, or path or URL of images", None),
    "data.images": ("number of different images; 0: all", Range(0, 10**12)),
    "data.seed": ("seed of the image order and of procedural images", _SEED),
    "data.palette": ("colour of procedural images", _SHARE),
    "data.transform": ("how an image becomes a square", None),
    "data.block": ("neighbours kept together in shuffling; 0: shuffle freely", Range(0, 10**9)),
    "data.tolerate": ("share of corrupt samples above which a run stops", _SHARE),
    "data.exclude": ("list of samples to leave out", None),
    "data.workers": ("threads that read images; 0: the training thread", Range(0, 1024)),
    "data.part": ("part of a labelled set to train on", None),
    "data.randaugment": ("magnitude of RandAugment; 0: none", Range(0, 20)),
    "data.mixup": ("parameter of mixup's Beta distribution; 0: none", Range(0, 1000)),
    "data.more": ("further sources, mixed with data.source", None),
    "data.weights": ("parts of the sources in the mixture", Range(0, 10**9, open_low=True)),
    "data.image": ("column or key of the image; empty: found by rule", None),
    "data.label": ("column or key of the label; empty: found by rule", None),
    "data.split": ("column or key of the split; empty: found by rule", None),
    "data.follow_links": ("follow links that leave the data set", None),
    "data.names": ("class names in the order of the outputs", None),
    "data.content": ("hash of the images' names, labels and number; filled in by the run", None),
    "data.accepted": ("hashes of changed images accepted by --accept-changed-data", None),
    "optimizer.name": ("optimizer", None),
    "optimizer.beta1": ("decay of the first moment", _MOMENTUM),
    "optimizer.beta2": ("decay of the second moment", _MOMENTUM),
    "optimizer.body_decay": ("weight decay of the body's kernels", _DECAY),
    "optimizer.head_decay": ("weight decay of the head's kernel", _DECAY),
    "optimizer.clip": ("largest global gradient norm; 0: no clipping", Range(0, 10**9)),
    "optimizer.layer_decay": ("factor of the learning rate from block to block", Range(0, 1, open_low=True)),
    "optimizer.momentum": ("number format of the first moment", None),
    "schedule.name": ("learning-rate schedule", None),
    "schedule.lr": ("peak learning rate", Range(0, 1000, open_low=True)),
    "schedule.steps": ("optimizer steps of the run", Range(1, 10**12)),
    "schedule.warmup": ("steps of linear warm-up", _STEPS),
    "schedule.timescale": ("time scale of rsqrt, in steps", Range(1, 10**12)),
    "schedule.cooldown": ("steps of the linear cooldown", _STEPS),
    "schedule.shift": ("steps by which rsqrt is ahead", _STEPS),
    "schedule.end": ("last learning rate of the linear schedule", Range(0, 1000)),
    "train.batch": ("images a step, over all devices", Range(1, 2**30)),
    "train.micro_batch": ("images at once on one device; 0: as many as fit", Range(0, 2**30)),
    "train.loss": ("loss", None),
    "train.precision": ("number format that computes", None),
    "train.compile": ("compile the blocks", None),
    "train.ema": ("decay of the weight average (EMA); 0: none", _MOMENTUM),
    "train.polyak": ("first step of the plain weight average; 0: none", _STEPS),
    "train.seed": ("seed of the initial weights", _SEED),
    "train.log_every": ("steps between log lines; 0: only at the end", _STEPS),
    "train.save_every": ("steps between checkpoints; 0: only at the end", _STEPS),
    "train.eval_every": ("steps between evaluations; 0: only at the end", _STEPS),
    "train.keep_last": ("newest checkpoints to keep", Range(1, 10**6)),
    "train.keep_every": ("keep checkpoints of multiples of this step; 0: none", _STEPS),
    "train.keep_at": ("steps whose checkpoints are kept", Range(0, 10**12)),
    "train.checkpoints": ("folder or address of checkpoints; empty: the run's folder", None),
    "train.trackers": ("experiment trackers", None),
    "train.deterministic": ("only operations with the same bits each time, on a GPU too", None),
    "probe.datasets": ("labelled sets that few-shot evaluation uses", None),
    "probe.shots": ("labelled images a class", Range(1, 10**6)),
    "probe.draws": ("random draws of labelled images", Range(1, 1000)),
    "probe.l2": ("strength of the ridge", Range(0, 10**12, open_low=True)),
    "branch.trunk": ("folder of the run that a cooldown branches off", None),
    "branch.step": ("step of the trunk's checkpoint", _STEPS),
    "branch.parent": ("run id of the trunk", None),
    "start.weights": ("weights to start from", None),
    "start.content": ("SHA-256 of those weights", None),
    "start.parent": ("run that those weights come from", None),
    "start.preprocessing.mean": ("mean of red, green, blue", Range(-1000, 1000)),
    "start.preprocessing.std": ("standard deviation of red, green, blue", Range(0, 1000, open_low=True)),
    "start.preprocessing.interpolation": ("resampling filter", None),
    "start.preprocessing.crop": ("side of the crop over the short side", Range(0, 2, open_low=True)),
    "start.preprocessing.resize": ("how an image is resized before the crop", None),
    "parallel.strategy": ("DDP, FSDP2, or sharding within groups", None),
    "parallel.shard": ("devices of one group of hybrid", Range(0, 2**16)),
    "parallel.recompute": ("activation checkpointing", None),
    "parallel.timeout": ("seconds after which a silent process ends the job", Range(0, 10**7, open_low=True)),
    "guard.on": ("check loss and gradient norm of every step", None),
    "guard.spike": ("median deviations that make a loss a spike; 0: never", Range(0, 10**9)),
    "guard.window": ("losses that the guard compares with", Range(1, 10**5)),
    "guard.skip": ("batches skipped after a rewind", Range(1, 10**6)),
    "guard.rewinds": ("rewinds after which the run stops", Range(0, 10**6)),
}  # fmt: skip


@dataclass(frozen=True)
class KeyInfo:
    """One key of the configuration, as `scalevit config` prints it."""

    key: str
    type: str
    range: str
    default: Any
    meaning: str


def describe_keys() -> list[KeyInfo]:
    """Every key of a run in order: type, range or choices, default and meaning."""
    return [
        KeyInfo(key, *_type_and_range(hint, KEYS[key][1]), default, KEYS[key][0])
        for key, (hint, default) in key_leaves(Run).items()
    ]


def _type_and_range(hint: Any, bounds: Range | None) -> tuple[str, str]:
    many = typing.get_origin(hint) is tuple
    inner = typing.get_args(hint)[0] if many else hint
    if typing.get_origin(inner) is typing.Literal:
        return "list of choices" if many else "choice", ", ".join(map(str, typing.get_args(inner)))
    optional = type(None) in typing.get_args(inner)
    inner = typing.get_args(inner)[0] if optional else inner
    name = inner.__name__ + (" or null" if optional else "")
    return (f"list of {name}" if many else name), "" if bounds is None else str(bounds)


@functools.cache
def key_leaves(tree: type, where: str = "") -> dict[str, tuple[Any, Any]]:
    """By key: the type and the default of every value below a dataclass."""
    hints, out = typing.get_type_hints(tree), {}
    blank = tree()
    for field in dataclasses.fields(tree):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            out |= key_leaves(typing.cast(type, hint), f"{where}{field.name}.")
        else:
            out[f"{where}{field.name}"] = (hint, getattr(blank, field.name))
    return out
