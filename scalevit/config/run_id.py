"""Run id: a hash of what decides the weights, the settings and what the images are; never paths or names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from scalevit.config.load import to_dict, with_explicit_shape
from scalevit.config.run import Data, Model, Preprocessing, Run

#: Keys that decide neither the images nor what is computed from them: names, places, memory, speed, logging.
#: `data.image` and its like choose the samples, which `data.content` stands for.
NOT_IDENTITY = {
    "model": ("shape",),
    "data": ("workers", "tolerate", "names", "content", "accepted"),
    "train": (
        "micro_batch", "compile", "log_every", "save_every", "eval_every", "keep_last", "keep_every",
        "keep_at", "checkpoints", "trackers",
    ),
    "branch": ("trunk", "parent"),
}  # fmt: skip


#: Keys that say where images are and how they are found, for which `data.content` stands once it is known.
PLACE_OF_IMAGES = ("source", "more", "exclude", "image", "label", "split", "follow_links")


#: Sources that are made and not read: their name is their content.
PROCEDURAL = ("strokes", "atoms", "fractals")


def run_id(run: Run) -> str:
    """A stable short name of what decides the weights: the settings and the content of the images, without
    names, paths, memory and speed settings, logging and probes."""
    return _identity(run, run.data.content)


def same_run(one: Run, other: Run) -> bool:
    """Whether two configurations are the same run. Where the content of the images of one is not known yet,
    everything else decides."""
    contents = {one.data.content, other.data.content}
    if "" not in contents or len(contents) == 1:
        return run_id(one) == run_id(other)
    stored = all(run.data.source not in PROCEDURAL for run in (one, other))
    return stored and _identity(one, "?") == _identity(other, "?")


def _identity(run: Run, content: str) -> str:
    facts = to_dict(with_explicit_shape(run))
    for section, keys in NOT_IDENTITY.items():
        for key in keys:
            facts[section].pop(key)
    if content:
        facts["data"] |= {"content": content}
        for key in PLACE_OF_IMAGES:
            facts["data"].pop(key)
    else:
        _drop_defaults(facts["data"], Data, PLACE_OF_IMAGES[3:])
    for key in ("name", "probe", "parallel", "guard"):
        facts.pop(key)
    start = facts.pop("start")
    _drop_defaults(facts["model"], Model, ("channels", "image_width"))
    _drop_defaults(start["preprocessing"], Preprocessing, ("resize",))
    if start["content"]:
        facts["start"] = {key: start[key] for key in ("content", "preprocessing")}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _drop_defaults(facts: dict[str, Any], kind: type, keys: Sequence[str]) -> None:
    """Leave keys that came later out of the run id at their defaults, so that older runs keep their ids."""
    default = to_dict(kind())
    for key in keys:
        if facts[key] == default[key]:
            facts.pop(key)
