"""Specification of a study: the values of each axis of the grid, read from and written as YAML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scalevit import config
from scalevit.config.dataclass_io import from_dict
from scalevit.config.yaml_io import parse_document, read_document
from scalevit.study.design.downstream import DownstreamJob, Finetune, ProbeSpec


@dataclass(frozen=True)
class Variant:
    """One value of an axis: a name, and the overrides of the base run that it stands for."""

    name: str = ""
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spec:
    """Specification of a study: the axes of its grid, and the jobs that follow each run.

    base: preset or YAML file of the run that all others are changes of. images: numbers of unique images, 0
    for endlessly new ones. durations: steps, cooldown included. added_durations: durations added after the
    study began, in the order of their addition. cooldown: its share of each duration, in (0, 1]. only:
    names of the runs to do, where not the whole grid is wanted. note: how the grid was chosen, for readers.
    dataset, shots: the probe whose error the law is fitted to. probes, finetunes: jobs that follow each
    trained run."""

    name: str = "study"
    base: str = "demo"
    overrides: tuple[str, ...] = ()
    models: tuple[Variant, ...] = (Variant(),)
    recipes: tuple[Variant, ...] = (Variant(),)
    images: tuple[int, ...] = (0,)
    durations: tuple[int, ...] = ()
    added_durations: tuple[int, ...] = ()
    cooldown: float = 0.2
    seeds: tuple[int, ...] = (0,)
    only: tuple[str, ...] = ()
    note: str = ""
    dataset: str = "digits"
    shots: int = 10
    probes: tuple[ProbeSpec, ...] = ()
    finetunes: tuple[Finetune, ...] = ()


def _sizes(*shapes: tuple[int, int]) -> tuple[Variant, ...]:
    """Demo models as width × depth, head width 32."""
    return tuple(
        Variant(
            f"{width}x{depth}",
            (f"model.width={width}", f"model.depth={depth}", f"model.mlp={4 * width}",
             f"model.heads={max(1, width // 32)}"),
        )
        for width, depth in shapes
    )  # fmt: skip


PRESETS: dict[str, Spec] = {
    "demo": Spec(
        name="demo",
        models=_sizes((32, 2), (64, 3), (96, 4)),
        images=(2_048, 0),
        durations=(150, 400, 1200),
        cooldown=0.3,
    ),
    "demo-small": Spec(
        name="demo-small",
        overrides=("schedule.warmup=5", "train.batch=32"),
        models=_sizes((32, 1), (32, 2), (64, 2)),
        images=(256, 0),
        durations=(16, 32, 64),
        cooldown=0.25,
    ),
}


def read_spec(path: Path) -> Spec:
    """The study in a YAML file. Models and recipes are lists of {name: …, section.key: value, …}, probes and
    finetunes of {data: …, …}."""
    tree = read_document(path)
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds no study: expected keys such as 'models:' and 'durations:'")
    if "longer" in tree and "added_durations" not in tree:  # the key's name before version 0.1.0
        tree["added_durations"] = tree.pop("longer")
    mistakes: list[str] = []
    axes: dict[str, Any] = {
        key: _variants(key, tree.pop(key), mistakes) for key in ("models", "recipes") if key in tree
    }
    axes |= {key: _downstream_jobs(key, tree.pop(key), mistakes) for key in DOWNSTREAM_JOBS if key in tree}
    tree["overrides"] = _assignments(tree.get("overrides", []))
    beside = path.parent / str(tree.get("base", ""))
    if "base" in tree and tree["base"] and beside.is_file():
        tree["base"] = str(beside)
    spec = from_dict(Spec, tree, mistakes)
    if mistakes or spec is None:
        raise config.ConfigErrors([f"{path}: {mistake}" for mistake in mistakes])
    return replace(spec, **axes)


def dump_spec(spec: Spec) -> str:
    """The study as YAML that `read` reads back to an equal study."""
    import yaml

    tree = config.to_dict(spec)
    for axis in ("models", "recipes"):
        tree[axis] = [_mapping(variant) for variant in tree[axis]]
    tree["finetunes"] = [_mapping(finetune) for finetune in tree["finetunes"]]
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _mapping(variant: dict[str, Any]) -> dict[str, Any]:
    pairs = (override.partition("=") for override in variant["overrides"])
    kept = {key: value for key, value in variant.items() if key != "overrides"}
    return kept | {key: parse_document(text) for key, _, text in pairs}


def _variants(axis: str, items: Any, mistakes: list[str]) -> tuple[Variant, ...]:
    """Variants from a list of mappings; a model's bare keys (`width: 64`) are keys of the section model."""
    found: list[Variant] = []
    for item in items if isinstance(items, list) else [items]:
        if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
            mistakes.append(f"{axis}: expected name: … and section.key: value, found {item!r}")
            continue
        pairs = {_key(axis, key): value for key, value in item.items() if key != "name"}
        found.append(Variant(item["name"], _assignments(pairs)))
    names = [variant.name for variant in found]
    mistakes += [f"{axis}: two are called {name!r}" for name in {*names} if names.count(name) > 1]
    return tuple(found) or (Variant(),)


#: The study's keys for what is done with its runs.
DOWNSTREAM_JOBS: dict[str, type[DownstreamJob]] = {"probes": ProbeSpec, "finetunes": Finetune}


def _downstream_jobs(key: str, items: Any, mistakes: list[str]) -> tuple[DownstreamJob, ...]:
    """Probes or finetunes from a list of mappings; a finetune's dotted keys are changes of its run."""
    found: list[DownstreamJob] = []
    for item in items if isinstance(items, list) else [items]:
        if not isinstance(item, Mapping) or not isinstance(item.get("data"), str):
            mistakes.append(f"{key}: expected data: …, found {item!r}")
            continue
        plain = {name: value for name, value in item.items() if "." not in name}
        dotted = {name: value for name, value in item.items() if "." in name}
        made = from_dict(DOWNSTREAM_JOBS[key], plain, mistakes, f"{key}.")
        if dotted and isinstance(made, Finetune):
            made = replace(made, overrides=_assignments(dotted))
        elif dotted:
            mistakes.append(f"{key}: {', '.join(dotted)} changes no probe")
        found += [made] if made is not None else []
    return tuple(found)


def _key(axis: str, key: str) -> str:
    return f"model.{key}" if axis == "models" and "." not in key else key


def _assignments(pairs: Any) -> tuple[str, ...]:
    if isinstance(pairs, Mapping):
        return tuple(f"{key}={json.dumps(value)}" for key, value in pairs.items())
    return tuple(pairs) if isinstance(pairs, list | tuple) else (pairs,)
