"""Load a run's configuration: a preset's name or a YAML file, `section.key=value` overrides, and the run id.

`load` reports every validation error at once, each with the nearest right name, and creates nothing.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from scalevit.config.dataclass_io import from_dict, nearest_names
from scalevit.config.presets import PRESETS
from scalevit.config.run import Run
from scalevit.config.validate import ConfigErrors, range_errors, validate
from scalevit.config.yaml_io import parse_document, read_document


def load(target: str, overrides: Sequence[str] = ()) -> Run:
    """The run that a preset's name, a YAML file or the JSON answer of `scalevit plan` describes, with
    `section.key=value` overrides applied.

    Raises `ConfigErrors` naming every unknown key, wrong type and impossible combination at once."""
    if target in PRESETS:
        base = to_dict(PRESETS[target])
    elif _is_file(target):
        base = _read_yaml(Path(target))
    else:
        near = nearest_names(target, [*PRESETS])
        raise ValueError(f"no preset and no file called {target[:80]!r}; nearest presets: {', '.join(near)}")
    return _complete(base, overrides)


def _is_file(target: str) -> bool:
    try:
        return Path(target).is_file()
    except (ValueError, OSError):  # a NUL in the name, or a name that is too long
        return False


def override(run: Run, overrides: Sequence[str]) -> Run:
    """The run with `section.key=value` overrides applied. Raises `ConfigErrors` as `load` does."""
    return _complete(to_dict(run), overrides)


def _complete(base: dict[str, Any], overrides: Sequence[str]) -> Run:
    errors: list[str] = []
    before = dict(base["schedule"]) if isinstance(base.get("schedule"), dict) else {}
    for text in overrides:
        _apply(base, text, errors)
    _scale_ramps(base.get("schedule"), before, {text.partition("=")[0] for text in overrides})
    leaves: dict[str, Any] = {}
    run = from_dict(Run, base, errors, leaves=leaves)
    errors += range_errors(leaves).values() if run is None else validate(run)
    if errors or run is None:
        raise ConfigErrors(errors)
    return run


def _scale_ramps(schedule: Any, before: dict[str, Any], overridden: set[str]) -> None:
    """Shorten warm-up and cooldown in proportion where an override of `schedule.steps` alone leaves no room
    for both, and log it. Whatever else does not fit is left to validation."""
    if "schedule.steps" not in overridden or overridden & {"schedule.warmup", "schedule.cooldown"}:
        return
    old_steps, warmup, cooldown = (before.get(name) for name in ("steps", "warmup", "cooldown"))
    steps = schedule["steps"]
    if not (_is_count(steps) and _is_count(old_steps) and _is_count(warmup) and _is_count(cooldown)):
        return
    if 0 < steps < warmup + cooldown <= old_steps:
        schedule["warmup"], schedule["cooldown"] = (ramp * steps // old_steps for ramp in (warmup, cooldown))
        logging.getLogger("scalevit").warning(
            "scalevit: schedule.steps=%d: warm-up and cooldown scaled to %d and %d steps (from %d and %d)",
            steps, schedule["warmup"], schedule["cooldown"], warmup, cooldown,
        )  # fmt: skip


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def to_dict(tree: Any) -> dict[str, Any]:
    """A dataclass tree as plain dictionaries and lists, ready for YAML or JSON."""
    return json.loads(json.dumps(dataclasses.asdict(tree)))


def dump(run: Run) -> str:
    """The run as YAML: complete, and read back by `load` to an equal run."""
    import yaml

    return yaml.safe_dump(to_dict(run), sort_keys=False, allow_unicode=True)


def with_explicit_shape(run: Run) -> Run:
    """The same run with the five numbers of its shape written out."""
    return replace(run, model=replace(run.model, **dataclasses.asdict(run.model.resolve())))


def _read_yaml(path: Path) -> dict[str, Any]:
    tree = read_document(path)
    if isinstance(tree, dict):  # of a plan for a budget the best run, of a plan for a run that run
        tree = tree.get("best", tree)
        tree = tree.get("run", tree) if isinstance(tree, dict) else tree
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds no run: expected sections such as 'model:' and 'schedule:'")
    return tree


def _apply(tree: dict[str, Any], text: str, errors: list[str]) -> None:
    """Apply one override to a tree of dictionaries; appends to `errors` when it cannot have an effect."""
    path, equals, value_text = text.partition("=")
    if not equals or not all(path.split(".")):
        errors.append(f"{text[:60]!r}: expected section.key=value")
        return
    try:
        value = parse_document(value_text)
    except ValueError as error:
        errors.append(f"{path}: cannot read the value {value_text[:60]!r}: {error}")
        return
    *sections, key = path.split(".")
    for depth, section in enumerate(sections):
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            above = ".".join(sections[: depth + 1])
            errors.append(f"{path}: {above} is a value and has no keys")
            return
    if isinstance(tree.get(key), dict) or isinstance(value, dict):
        errors.append(f"{path}: set one key at a time, such as {path}.key=value")
        return
    tree[key] = value
