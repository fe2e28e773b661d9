"""Growth of a study: the union of the grid in its folder and a grid that widens it.

Seeds, recipes, models, image counts, durations, probes and fine-tunes can be added in any order. Runs keep
their names and settings, so that nothing that is done is done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from scalevit import config
from scalevit.study.design import downstream
from scalevit.study.design.downstream import Finetune, ProbeSpec
from scalevit.study.design.spec import Spec, Variant

Job = TypeVar("Job", ProbeSpec, Finetune)


def grow(old: Spec, new: Spec) -> Spec:
    """The study `new` with every value of the axes of `old`. Of two variants with the same settings the name
    in `new` counts. Unchanged when the studies have different bases, or when runs were chosen by name."""
    if old.only or new.only or old.cooldown != new.cooldown or _settings(old) != _settings(new):
        return new
    known = (*old.durations, *old.added_durations)
    added = sorted({*new.durations, *new.added_durations} - {*known})
    return replace(
        new,
        models=_union(new, old.models, new.models), recipes=_union(new, old.recipes, new.recipes),
        images=_with(old.images, new.images), seeds=_with(old.seeds, new.seeds),
        durations=old.durations, added_durations=(*old.added_durations, *added),
        probes=_jobs(old.probes, new.probes), finetunes=_jobs(old.finetunes, new.finetunes),
        note=new.note or old.note,
    )  # fmt: skip


def _settings(spec: Spec, variant: Variant | None = None) -> str:
    """Identity of the base run with a variant's overrides, before anything else is varied. A base that is
    valid only with a model's overrides is identified by its text."""
    overrides = (*spec.overrides, *(variant.overrides if variant else ()))
    try:
        return config.run_id(config.load(spec.base, overrides))
    except ValueError:
        return repr((spec.base, overrides))


def _union(spec: Spec, old: Sequence[Variant], new: Sequence[Variant]) -> tuple[Variant, ...]:
    """Variants of `old` that are none of `new` by their settings or name, then those of `new`."""
    settings, names = {_settings(spec, variant) for variant in new}, {variant.name for variant in new}
    kept = (v for v in old if v.name not in names and _settings(spec, v) not in settings)
    return (*kept, *new)


def _with(old: Sequence[int], new: Sequence[int]) -> tuple[int, ...]:
    return (*old, *(value for value in new if value not in old))


def _jobs(old: Sequence[Job], new: Sequence[Job]) -> tuple[Job, ...]:
    """Jobs of both; of two that would have the same folder the one in `new`."""
    names = {downstream.job_name("", job) for job in new}
    return (*(job for job in old if downstream.job_name("", job) not in names), *new)
