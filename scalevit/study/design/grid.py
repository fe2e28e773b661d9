"""A study's grid: what is varied, the runs that follow from it, and what each of them costs beforehand.

Runs that differ only in how long they last share their past. On a schedule without a horizon (paper §3.5) the
longest of them is the *trunk*: it keeps its checkpoints where the shorter ones leave its plateau, and each of
those is a *branch* that starts there and cools down. A branch equals the same run trained from scratch, bit
for bit; only the bill is smaller.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scalevit import config
from scalevit.config import lr_schedule
from scalevit.config.dataclass_io import nearest_names
from scalevit.study.design import downstream
from scalevit.study.design.ablations import ABLATIONS
from scalevit.study.design.downstream import DownstreamJob
from scalevit.study.design.spec import PRESETS, Spec, Variant, read_spec

#: Forward and backward pass of one image, in forward passes.
TRAINING_PASSES = 3.0

#: Names of the studies that need no file.
STUDIES = (*PRESETS, *ABLATIONS)


@dataclass(frozen=True)
class Node:
    """One process of a study. steps: what it trains itself. at: where it leaves its trunk (0: from scratch).
    duration: steps since the very start. flops: of training these `steps`; scratch: of all `duration`.
    follow: of a node that probes or fine-tunes the run `after`, which it waits for to the end."""

    name: str
    kind: Literal["trunk", "branch", "whole", "probe", "finetune"]
    run: config.Run
    model: str
    recipe: str
    images: int
    seed: int
    after: str | None
    at: int
    steps: int
    duration: int
    flops: float
    scratch: float
    job: DownstreamJob | None = None


# --------------------------------------------------------------------------- in and out


def load(target: str, overrides: Sequence[str] = (), size: str = "cpu") -> Spec:
    """The study that a preset's name or a YAML file describes; `overrides` change its base run. size: of the
    paper's ablations, "cpu" or "gpu".

    Raises `config.ConfigErrors` with every mistake of the study and of its runs at once."""
    if target in PRESETS:
        spec = PRESETS[target]
    elif target in ABLATIONS:
        spec = ABLATIONS[target](size)
    elif Path(target).is_file():
        spec = read_spec(Path(target))
    else:
        near = nearest_names(target, STUDIES)
        raise ValueError(f"no study and no file called {target!r}; nearest studies: {', '.join(near)}")
    spec = replace(spec, overrides=(*spec.overrides, *overrides))
    expand(spec)
    return spec


# --------------------------------------------------------------------------- from the grid to its nodes


def expand(spec: Spec, runs: Path | str = "runs") -> list[Node]:
    """Every node of the study, trunks before their branches; `runs` is the folder that holds the runs'
    folders. Raises `config.ConfigErrors` with the mistakes of all runs."""
    mistakes = _spec_errors(spec)
    nodes: list[Node] = []
    if not mistakes:
        axes = itertools.product(spec.models, spec.recipes, spec.images, spec.seeds)
        for model, recipe, images, seed in axes:
            try:
                nodes += _duration_family(spec, model, recipe, images, seed, Path(runs))
            except config.ConfigErrors as error:
                mistakes += [line for line in error.errors if line not in mistakes]
    if not mistakes:
        nodes += _downstream_nodes(spec, nodes, mistakes)
    lost = {*spec.only} - {node.name for node in nodes}
    if lost and not mistakes:
        mistakes.append(f"only: the grid has no run called {', '.join(sorted(lost)[:3])}")
    if mistakes:
        raise config.ConfigErrors(mistakes)
    return nodes


def _downstream_nodes(spec: Spec, trained: Sequence[Node], mistakes: list[str]) -> list[Node]:
    """The nodes that probe and fine-tune what the others train."""
    found = []
    for node, follow in itertools.product(trained, (*spec.probes, *spec.finetunes)):
        try:
            flops, run = follow.flops(node.run), follow.run(node.run)
        except config.ConfigErrors as error:
            mistakes += [
                f"finetunes: {line}" for line in error.errors if f"finetunes: {line}" not in mistakes
            ]
            continue
        found.append(
            replace(
                node, name=downstream.job_name(node.name, follow), kind=follow.kind, run=run,
                after=node.name, at=0, steps=follow.steps, duration=follow.steps, flops=flops,
                scratch=flops, job=follow,
            )
        )  # fmt: skip
    return found


def pretraining_nodes(nodes: Iterable[Node]) -> list[Node]:
    """Those that pretrain."""
    return [node for node in nodes if node.job is None]


def _spec_errors(spec: Spec) -> list[str]:
    follow = (*spec.probes, *spec.finetunes)
    found = [one.error() for one in follow if one.error()]
    names = [downstream.job_name("", one) for one in follow]
    found += [f"{name[1:]}: the same data twice" for name in {*names} if names.count(name) > 1]
    if not spec.durations or min(spec.durations) < 1:
        found.append("durations: name at least one number of steps, e.g. [100, 200, 400]")
    every = (*spec.durations, *spec.longer)
    if sorted(every) != [*sorted(spec.durations), *spec.longer]:
        found.append(f"longer: each must be longer than all before it, found {list(spec.longer)}")
    if not 0 < spec.cooldown <= 1:
        found.append(f"cooldown: a share of each duration in (0, 1], found {spec.cooldown}")
    for axis in ("images", "durations", "seeds"):
        values = getattr(spec, axis)
        if len({*values}) < len(values):
            found.append(f"{axis}: the same value twice in {list(values)}")
    for variant in (*spec.models, *spec.recipes):
        if not all(letter.isalnum() or letter in "._x-+" for letter in variant.name):
            found.append(f"name {variant.name!r}: letters, digits and . _ - + only; it names a folder")
    return found


def _duration_family(
    spec: Spec, model: Variant, recipe: Variant, images: int, seed: int, runs: Path
) -> list[Node]:
    """The nodes that differ only in their duration."""
    parts = (model.name, recipe.name, _image_count(images), f"seed{seed}" if len(spec.seeds) > 1 else "")
    stem = "-".join(part for part in parts if part)
    points = {
        steps: _cooldown_start(spec, steps)
        for steps in sorted(spec.durations)
        if _is_selected(spec, stem, steps)
    }
    further = {
        steps: _cooldown_start(spec, steps) for steps in spec.longer if _is_selected(spec, stem, steps)
    }
    if not points:
        return []
    own = f"schedule.steps={max(points)}", "schedule.cooldown=0"
    axes = (*own, f"data.images={images}", f"train.seed={seed}")
    run = config.load(spec.base, (*spec.overrides, *model.overrides, *recipe.overrides, *axes))
    family = _DurationFamily(run, stem, model.name or model_label(run), recipe.name, images, seed)
    if run.schedule.name not in ("rsqrt", "constant"):
        return [family.whole(steps) for steps in (points | further)]
    mistakes = [
        f"durations: {steps} steps branch off at {at}, inside the warm-up of {run.schedule.warmup}"
        for steps, at in points.items()
        if at < run.schedule.warmup
    ]
    if mistakes:
        raise config.ConfigErrors(mistakes)
    *shorter, longest = points
    trunk = family.trunk(longest, tuple(points.values()))
    nodes = [trunk, *(family.branch(trunk, runs, steps, points[steps]) for steps in shorter)]
    last, left = trunk, points[longest]
    for steps, at in further.items():
        last, left = family.onward(last, runs, steps, at, left), at
        nodes.append(last)
    return nodes


def _cooldown_start(spec: Spec, steps: int) -> int:
    """The step at which a run leaves its plateau."""
    return steps - max(1, round(spec.cooldown * steps))


def _is_selected(spec: Spec, stem: str, steps: int) -> bool:
    return not spec.only or f"{stem}-{steps}" in spec.only


@dataclass(frozen=True)
class _DurationFamily:
    run: config.Run
    stem: str
    model: str
    recipe: str
    images: int
    seed: int

    def whole(self, steps: int) -> Node:
        """A run of its own, for a schedule that knows where it ends."""
        plan = replace(self.run.schedule, steps=steps, cooldown=0)
        return self._node("whole", f"{self.stem}-{steps}", replace(self.run, schedule=plan), None, 0, steps)

    def trunk(self, steps: int, points: tuple[int, ...]) -> Node:
        """The longest run, with a checkpoint kept at every branch point, its own included: later, longer runs
        can start there."""
        run = replace(
            self.run,
            schedule=replace(self.run.schedule, steps=steps, cooldown=steps - points[-1]),
            train=replace(self.run.train, keep_at=points),
        )
        return self._node("trunk", f"{self.stem}-{steps}", run, None, 0, steps)

    def branch(self, trunk: Node, runs: Path, steps: int, at: int) -> Node:
        run = replace(
            self.run,
            schedule=lr_schedule.branch_schedule(trunk.run.schedule, at, steps - at),
            branch=config.Branch(trunk=str(runs / trunk.name), step=at),
        )
        return self._node("branch", f"{self.stem}-{steps}", run, trunk.name, at, steps)

    def onward(self, before: Node, runs: Path, steps: int, at: int, left: int) -> Node:
        """A longer run: it goes on where the one before it left its plateau, and leaves it later, at `at`."""
        run = replace(
            self.run,
            schedule=replace(self.run.schedule, steps=steps, cooldown=steps - at),
            train=replace(self.run.train, keep_at=(at,)),
            branch=config.Branch(trunk=str(runs / before.name), step=left),
        )
        return self._node("branch", f"{self.stem}-{steps}", run, before.name, left, steps)

    def _node(self, kind: Any, name: str, run: config.Run, after: str | None, at: int, duration: int) -> Node:
        run = replace(run, name=name)
        mistakes = config.validate(run)
        if mistakes:
            raise config.ConfigErrors(mistakes)
        per_step = step_flops(run)
        return Node(
            name, kind, run, self.model, self.recipe, self.images, self.seed, after, at,
            steps=duration - at, duration=duration,
            flops=per_step * (duration - at), scratch=per_step * duration,
        )  # fmt: skip


def model_label(run: config.Run) -> str:
    """The shape's own name when nothing about it was changed, else width × depth."""
    plain = replace(run.model, width=None, depth=None, mlp=None, heads=None, patch=None)
    shape = run.model.resolve()
    return run.model.shape if plain.resolve() == shape else f"{shape.width}x{shape.depth}"


def step_flops(run: config.Run) -> float:
    """FLOPs of one optimizer step: forward and backward of a batch, multiply-add = 2."""
    return TRAINING_PASSES * downstream.forward_flops(run) * run.train.batch


def _image_count(images: int) -> str:
    """A number of images as part of a folder's name: 2048 → 2048, 300000 → 300k, 0 → fresh."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if images and images % size == 0:
            return f"{images // size}{letter}"
    return str(images) if images else "fresh"


# --------------------------------------------------------------------------- cost


def node_row(node: Node) -> dict[str, Any]:
    """The node as plain values, for tables and JSON."""
    kept = (
        "name", "kind", "model", "recipe", "images", "seed", "after", "at", "steps", "duration", "flops",
        "scratch",
    )  # fmt: skip
    tree = {name: getattr(node, name) for name in kept}
    shape = node.run.model.resolve()
    model = node.run.model
    return tree | {
        "parameters": shape.parameters(model.image, model.pool, model.classes),
        "forward_flops": shape.flops(model.image, model.pool, model.classes),
        "batch": node.run.train.batch,
        "shape": dataclasses.asdict(shape),
    }
