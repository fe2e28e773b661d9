"""A study's grid: what is varied, the runs that follow from it, and what each of them costs beforehand.

Runs that differ only in how long they last share their past. On a schedule without a horizon (paper §3.5) the
longest of them is the *trunk*: it keeps its checkpoints where the shorter ones leave its plateau, and each of
those is a *branch* that starts there and cools down. A branch equals the same run trained from scratch, bit
for bit; only the bill is smaller.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scalevit import config
from scalevit.config import lr_schedule
from scalevit.config.dataclass_io import from_dict, nearest_names
from scalevit.study.design import downstream
from scalevit.study.design.downstream import Finetune, DownstreamJob, ProbeSpec

#: Forward and backward pass of one image, in forward passes.
TRAINING_PASSES = 3.0


@dataclass(frozen=True)
class Variant:
    """One value of an axis: a name, and the overrides of the base run that it stands for."""

    name: str = ""
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spec:
    """A study. base: preset or YAML file of the run that everything is a change of. images: unique images,
    0 for endlessly new ones. durations: steps, cooldown included. cooldown: its share of each duration.
    longer: durations beyond those, added when the study had begun; each goes on where the one before it left
    its plateau. only: names of the runs to do, where not the whole grid is wanted. note: how all this
    was chosen, for readers. dataset, shots: the probe whose error the law is fitted to. probes, finetunes:
    what is done with every run when it has been trained."""

    name: str = "study"
    base: str = "demo"
    overrides: tuple[str, ...] = ()
    models: tuple[Variant, ...] = (Variant(),)
    recipes: tuple[Variant, ...] = (Variant(),)
    images: tuple[int, ...] = (0,)
    durations: tuple[int, ...] = ()
    longer: tuple[int, ...] = ()
    cooldown: float = 0.2
    seeds: tuple[int, ...] = (0,)
    only: tuple[str, ...] = ()
    note: str = ""
    dataset: str = "digits"
    shots: int = 10
    probes: tuple[ProbeSpec, ...] = ()
    finetunes: tuple[Finetune, ...] = ()


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
    follow: DownstreamJob | None = None


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

# --------------------------------------------------------------------------- in and out


def load(target: str, overrides: Sequence[str] = (), size: str = "cpu") -> Spec:
    """The study that a preset's name or a YAML file describes; `overrides` change its base run. size: of the
    paper's ablations, "cpu" or "gpu".

    Raises `config.ConfigErrors` with every mistake of the study and of its runs at once."""
    from scalevit.study.design.ablations import ABLATIONS

    if target in PRESETS:
        spec = PRESETS[target]
    elif target in ABLATIONS:
        spec = ABLATIONS[target](size)
    elif Path(target).is_file():
        spec = read_spec(Path(target))
    else:
        near = nearest_names(target, [*PRESETS, *ABLATIONS])
        raise ValueError(f"no study and no file called {target!r}; nearest studies: {', '.join(near)}")
    spec = replace(spec, overrides=(*spec.overrides, *overrides))
    expand(spec)
    return spec


def read_spec(path: Path) -> Spec:
    """The study in a YAML file. Models and recipes are lists of {name: …, section.key: value, …}, probes and
    finetunes of {data: …, …}."""
    import yaml

    try:
        tree = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds no study: expected keys such as 'models:' and 'durations:'")
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
    import yaml

    pairs = (override.partition("=") for override in variant["overrides"])
    kept = {key: value for key, value in variant.items() if key != "overrides"}
    return kept | {key: yaml.safe_load(text) for key, _, text in pairs}


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


# --------------------------------------------------------------------------- from the grid to its nodes


def expand(spec: Spec, runs: Path | str = "runs") -> list[Node]:
    """Every node of the study, trunks before their branches; `runs` is the folder that holds the runs'
    folders. Raises `config.ConfigErrors` with the mistakes of all runs."""
    mistakes = _mistakes(spec)
    nodes: list[Node] = []
    if not mistakes:
        axes = itertools.product(spec.models, spec.recipes, spec.images, spec.seeds)
        for model, recipe, images, seed in axes:
            try:
                nodes += _family(spec, model, recipe, images, seed, Path(runs))
            except config.ConfigErrors as error:
                mistakes += [line for line in error.errors if line not in mistakes]
    if not mistakes:
        nodes += _following(spec, nodes, mistakes)
    lost = {*spec.only} - {node.name for node in nodes}
    if lost and not mistakes:
        mistakes.append(f"only: the grid has no run called {', '.join(sorted(lost)[:3])}")
    if mistakes:
        raise config.ConfigErrors(mistakes)
    return nodes


def _following(spec: Spec, trained: Sequence[Node], mistakes: list[str]) -> list[Node]:
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
                node, name=downstream.name(node.name, follow), kind=follow.kind, run=run,
                after=node.name, at=0, steps=follow.steps, duration=follow.steps, flops=flops,
                scratch=flops, follow=follow,
            )
        )  # fmt: skip
    return found


def pretraining_nodes(nodes: Iterable[Node]) -> list[Node]:
    """Those that pretrain."""
    return [node for node in nodes if node.follow is None]


def _mistakes(spec: Spec) -> list[str]:
    follow = (*spec.probes, *spec.finetunes)
    found = [one.mistake() for one in follow if one.mistake()]
    names = [downstream.name("", one) for one in follow]
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


def _family(spec: Spec, model: Variant, recipe: Variant, images: int, seed: int, runs: Path) -> list[Node]:
    """The nodes that differ only in their duration."""
    parts = (model.name, recipe.name, _count(images), f"seed{seed}" if len(spec.seeds) > 1 else "")
    stem = "-".join(part for part in parts if part)
    points = {steps: _leaves(spec, steps) for steps in sorted(spec.durations) if _wanted(spec, stem, steps)}
    further = {steps: _leaves(spec, steps) for steps in spec.longer if _wanted(spec, stem, steps)}
    if not points:
        return []
    own = f"schedule.steps={max(points)}", "schedule.cooldown=0"
    axes = (*own, f"data.images={images}", f"train.seed={seed}")
    run = config.load(spec.base, (*spec.overrides, *model.overrides, *recipe.overrides, *axes))
    family = _Family(run, stem, model.name or model_label(run), recipe.name, images, seed)
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


def _leaves(spec: Spec, steps: int) -> int:
    """The step at which a run leaves its plateau."""
    return steps - max(1, round(spec.cooldown * steps))


def _wanted(spec: Spec, stem: str, steps: int) -> bool:
    return not spec.only or f"{stem}-{steps}" in spec.only


@dataclass(frozen=True)
class _Family:
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
    return TRAINING_PASSES * downstream.forward(run) * run.train.batch


def _count(images: int) -> str:
    """A number of images as part of a folder's name: 2048 → 2048, 300000 → 300k, 0 → fresh."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if images and images % size == 0:
            return f"{images // size}{letter}"
    return str(images) if images else "fresh"


# --------------------------------------------------------------------------- cost


@dataclass(frozen=True)
class StudyCost:
    """FLOPs of training: with shared trunks, and what the same runs would cost one by one."""

    shared: float
    separate: float

    @property
    def share(self) -> float:
        """Part of the separate cost that remains to be paid."""
        return self.shared / self.separate if self.separate else 1.0


def study_cost(nodes: Iterable[Node]) -> StudyCost:
    """What the study costs, and what it would without trunks."""
    nodes = [*nodes]
    return StudyCost(sum(node.flops for node in nodes), sum(node.scratch for node in nodes))


@dataclass(frozen=True)
class PlannedNode:
    """One line of a timetable, in seconds."""

    node: Node
    slot: int
    start: float
    end: float


def planned_times(nodes: Sequence[Node], slots: int, speed: float, startup: float = 3.0) -> list[PlannedNode]:
    """When each node would run on `slots` slots of `speed` FLOP/s, `startup` seconds each to begin.

    The launcher's own rule: whenever a slot is free, the ready node with the most work behind it starts.
    A branch is ready when its trunk has passed the branch point, not only when the trunk has ended; a probe
    or a fine-tune when its run has ended."""
    urgency = critical_paths(nodes)
    free = [0.0] * slots
    placed: dict[str, PlannedNode] = {}
    waiting = {node.name: node for node in nodes}
    while waiting:
        slot = min(range(slots), key=free.__getitem__)
        ready = {name: _ready(node, placed, startup) for name, node in waiting.items()}
        now = max(free[slot], min(ready.values()))
        name = max((name for name, when in ready.items() if when <= now), key=urgency.__getitem__)
        node = waiting.pop(name)
        placed[name] = PlannedNode(node, slot, now, now + startup + node.flops / speed)
        free[slot] = placed[name].end
    return [*placed.values()]


def _ready(node: Node, placed: Mapping[str, PlannedNode], startup: float) -> float:
    if node.after is None:
        return 0.0
    trunk = placed.get(node.after)
    if trunk is None:
        return float("inf")
    if node.follow is not None:
        return trunk.end
    training = trunk.end - trunk.start - startup
    return trunk.start + startup + training * (node.at - trunk.node.at) / trunk.node.steps


def critical_paths(nodes: Iterable[Node]) -> dict[str, float]:
    """FLOPs between the start of a node and the end of the longest chain through it."""
    behind: dict[str, float] = {}
    chains: dict[str, float] = {}
    for node in reversed([*nodes]):
        chains[node.name] = node.flops + behind.get(node.name, 0.0)
        if node.after is not None:
            behind[node.after] = max(behind.get(node.after, 0.0), chains[node.name])
    return chains


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
