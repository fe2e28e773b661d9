"""Grid of a study: the runs that follow from its axes, and the FLOPs of each.

Runs that differ only in their duration share their past. On a schedule without a horizon (paper §3.5) the
longest of them is the *trunk*: it keeps checkpoints at the steps where the shorter ones begin to cool down,
and each of those is a *branch* that starts from such a checkpoint. A branch equals the same run trained from
scratch bit for bit, and costs less.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
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
    """One process of a study, and one folder below runs/.

    steps: steps that it trains itself. at: step of the trunk's checkpoint that it starts from, 0: from
    scratch. duration: steps since the start of the trunk. flops: of training these `steps`; scratch: of
    training all of `duration`. job: the probe or fine-tune that follows the run `after` when that has
    ended."""

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
    names = [node.name for node in nodes]
    mistakes += [f"two runs would be called {name}" for name in sorted({*names}) if names.count(name) > 1]
    lost = {*spec.only} - {*names}
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
    again = {*spec.durations} & {*spec.added_durations}
    if again or min(spec.added_durations, default=1) < 1:
        found.append(
            f"added_durations: other numbers of steps than in durations, found {list(spec.added_durations)}"
        )
    if not 0 < spec.cooldown <= 1:
        found.append(f"cooldown: a share of each duration in (0, 1], found {spec.cooldown}")
    for axis in ("images", "durations", "added_durations", "seeds"):
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
    """The nodes that differ only in their duration: a trunk, its branches, then durations added later."""
    stem = family_name(model, recipe, images, seed)
    first, added = (
        [steps for steps in durations if _is_selected(spec, stem, steps)]
        for durations in (sorted(spec.durations), spec.added_durations)
    )
    if not first and not added:
        return []
    own = f"schedule.steps={max(first or added)}", "schedule.cooldown=0"
    axes = (*own, f"data.images={images}", f"train.seed={seed}")
    run = config.load(spec.base, (*spec.overrides, *model.overrides, *recipe.overrides, *axes))
    family = _DurationFamily(run, stem, model.name or model_label(run), recipe.name, images, seed, runs)
    if run.schedule.name not in ("rsqrt", "constant"):
        return [family.whole(steps) for steps in (*first, *added)]
    starts = {steps: _cooldown_start(spec, steps) for steps in (*first, *added)}
    _require_past_warmup(starts, run.schedule.warmup)
    return family.nodes({steps: starts[steps] for steps in first}, {steps: starts[steps] for steps in added})


def family_name(model: Variant, recipe: Variant, images: int, seed: int) -> str:
    """What the names of runs begin with that differ only in their duration. A name depends on nothing but the
    run itself, so that it stays when the grid grows: seed 0 is not mentioned."""
    parts = (model.name, recipe.name, _image_count(images), f"seed{seed}" if seed else "")
    return "-".join(part for part in parts if part)


def _require_past_warmup(starts: Mapping[int, int], warmup: int) -> None:
    early = [
        f"durations: {steps} steps branch off at {at}, inside the warm-up of {warmup}"
        for steps, at in starts.items()
        if at < warmup
    ]
    if early:
        raise config.ConfigErrors(early)


def _cooldown_start(spec: Spec, steps: int) -> int:
    """The step at which a run leaves its plateau."""
    return steps - max(1, round(spec.cooldown * steps))


def _is_selected(spec: Spec, stem: str, steps: int) -> bool:
    return not spec.only or f"{stem}-{steps}" in spec.only


@dataclass(frozen=True)
class _DurationFamily:
    """Runs of one model, recipe, number of images and seed; `runs` is the folder of the runs' folders."""

    run: config.Run
    stem: str
    model: str
    recipe: str
    images: int
    seed: int
    runs: Path

    def nodes(self, first: Mapping[int, int], added: Mapping[int, int]) -> list[Node]:
        """Nodes for {duration: step at which its cooldown begins}. Of `first` the longest is the trunk.
        Each of `added` starts from the latest kept checkpoint before its own cooldown, and from scratch
        where there is none: nothing that exists changes."""
        found: list[Node] = []
        kept: dict[int, Node] = {}
        if first:
            *shorter, longest = first
            trunk = self.trunk(longest, tuple(first.values()))
            found = [trunk, *(self.branch(trunk, steps, first[steps]) for steps in shorter)]
            kept = dict.fromkeys(first.values(), trunk)
        for steps, at in added.items():
            start = max((step for step in kept if step <= at), default=None)
            node = self.trunk(steps, (at,)) if start is None else self.onward(kept[start], steps, at, start)
            found.append(node)
            kept.setdefault(at, node)
        return found

    def whole(self, steps: int) -> Node:
        """A run of its own, for a schedule that knows where it ends."""
        schedule = replace(self.run.schedule, steps=steps, cooldown=0)
        return self._node("whole", replace(self.run, schedule=schedule), None, 0, steps)

    def trunk(self, steps: int, points: tuple[int, ...]) -> Node:
        """A run from scratch that keeps a checkpoint at every branch point, its own (the last) included:
        runs that are added later can start there."""
        run = replace(
            self.run,
            schedule=replace(self.run.schedule, steps=steps, cooldown=steps - points[-1]),
            train=replace(self.run.train, keep_at=points),
        )
        return self._node("trunk", run, None, 0, steps)

    def branch(self, trunk: Node, steps: int, at: int) -> Node:
        """A cooldown of the trunk that begins at step `at`."""
        run = replace(
            self.run,
            schedule=lr_schedule.branch_schedule(trunk.run.schedule, at, steps - at),
            branch=config.Branch(trunk=str(self.runs / trunk.name), step=at),
        )
        return self._node("branch", run, trunk.name, at, steps)

    def onward(self, before: Node, steps: int, at: int, start: int) -> Node:
        """A run that starts from the checkpoint of `before` at step `start` and cools down from step `at`."""
        run = replace(
            self.run,
            schedule=replace(self.run.schedule, steps=steps, cooldown=steps - at),
            train=replace(self.run.train, keep_at=(at,) if at > start else ()),
            branch=config.Branch(trunk=str(self.runs / before.name), step=start),
        )
        return self._node("branch", run, before.name, start, steps)

    def _node(self, kind: Any, run: config.Run, after: str | None, at: int, duration: int) -> Node:
        name = f"{self.stem}-{duration}"
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
