"""Every knob of a run: one frozen tree of dataclasses, its presets, and YAML in and out.

`load` is the way in: a preset's name or a YAML file, then `section.key=value` overrides. It reports every
mistake at once, each with the nearest right name, and creates nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from scalevit.schedule import Schedule
from scalevit.shapes import Shape, shape
from scalevit.typed import from_dict, nearest


@dataclass(frozen=True)
class Model:
    """The network. width, depth, mlp, heads, patch: None means the named shape's own.

    image: side of the input in pixels. classes: outputs of the head, 0 for no head.
    The last five describe weights from elsewhere: a class token that is not what is pooled; positions that
    cover class token and registers too; a norm before the blocks (and then no patch bias), as in CLIP; the
    final norm after pooling instead of before; a learned scale on every residual branch."""

    shape: str = "S/16"
    width: int | None = None
    depth: int | None = None
    mlp: int | None = None
    heads: int | None = None
    patch: int | None = None
    image: int = 224
    classes: int = 1000
    pool: Literal["map", "gap", "token"] = "map"
    positions: Literal["learned", "sincos2d"] = "learned"
    registers: int = 0
    qk_norm: bool = False
    pre_logits: bool = False
    gelu: Literal["tanh", "erf", "quick"] = "tanh"
    norm_eps: float = 1e-6
    head_bias: float = -10.0
    class_token: bool = False
    prefix_positions: bool = False
    pre_norm: bool = False
    pooled_norm: bool = False
    layer_scale: bool = False

    def resolve(self) -> Shape:
        """The five numbers of the shape, with explicit ones taking precedence over the named shape's."""
        explicit = {name: getattr(self, name) for name in ("width", "depth", "mlp", "heads", "patch")}
        return shape(self.shape, **{name: value for name, value in explicit.items() if value is not None})


@dataclass(frozen=True)
class Preprocessing:
    """What a model's images went through; it travels with the weights: short side resized to image / crop
    pixels, the central square cut out, values in [0, 1] shifted by `mean` and divided by `std` (each of red,
    green, blue). The defaults are the paper's (App. C): 256 → 224, values in [-1, 1]."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    interpolation: str = "bilinear"
    crop: float = 0.875


@dataclass(frozen=True)
class Data:
    """Where images come from and what happens to them on the way.

    source: a procedural family ("strokes", "atoms", "fractals") or a path or URL of images. more: further
    ones, mixed with it. weights: parts that each has in the mixture, `source` first.
    images: how many unique images; 0 means all of a store, and endlessly new ones of a procedural family.
    transform: none squeezes a store's images into the square, inception crops at random, central for
    evaluation. block: neighbours kept together when shuffling, for object stores; 0 shuffles freely.
    tolerate: the share of broken samples, each replaced by its neighbour, above which a run stops.
    exclude: a list of samples of `source` to leave out, as `scalevit data dedup` writes it.
    part: all of a store, or of a labelled set as `scalevit probe` reads them its train half, or most of that:
    all but the 2 % that are held out to choose a learning rate.
    randaugment: magnitude of two random operations on each view, 10 for full strength, 0 for none. mixup: the
    parameter of the Beta distribution that images are mixed by, 0 for none."""

    source: str = "strokes"
    images: int = 0
    seed: int = 0
    palette: float = 0.0
    transform: Literal["none", "inception", "central"] = "none"
    block: int = 0
    tolerate: float = 0.001
    exclude: str = ""
    workers: int = 0
    part: Literal["all", "train", "most"] = "all"
    randaugment: int = 0
    mixup: float = 0.0
    more: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class Optimizer:
    """Update rule and decay in the authors' units: weights shrink by learning rate × decay, kernels only.
    momentum: what the first moment is kept in."""

    name: Literal["adafactor", "adam", "sgd"] = "adafactor"
    beta1: float = 0.9
    beta2: float = 0.999
    body_decay: float = 0.03
    head_decay: float = 3.0
    clip: float = 1.0
    layer_decay: float = 1.0
    momentum: Literal["bf16", "fp32"] = "bf16"


@dataclass(frozen=True)
class Train:
    """The loop. batch: images a step over all devices; micro_batch: images at once on one device, 0 means
    the device's whole share. precision: fp8 is bf16 with the blocks' linear layers in eight bits, each where
    that is measured to be faster. ema: decay of the weights' running average, 0 for none; polyak: the step
    from which on their plain mean is kept instead (Polyak & Juditsky 1992), 0 for none. Steps between saves,
    log lines and evaluations; 0 means only at the end. Of the checkpoints the last keep_last stay, those of
    multiples of keep_every (0: of none), and those of the steps keep_at. checkpoints: a folder or an address
    such as s3://bucket/runs, below which they are put under the run's id; empty: the run's own folder.
    trackers: where numbers go besides the run's records. deterministic: on a GPU, too, only operations that
    give the same bits each time."""

    batch: int = 4096
    micro_batch: int = 0
    loss: Literal["sigmoid", "softmax"] = "sigmoid"
    precision: Literal["fp32", "bf16", "fp8"] = "bf16"
    compile: bool = False
    ema: float = 0.0
    polyak: int = 0
    seed: int = 0
    log_every: int = 50
    save_every: int = 1000
    eval_every: int = 0
    keep_last: int = 2
    keep_every: int = 0
    keep_at: tuple[int, ...] = ()
    checkpoints: str = ""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    deterministic: bool = False

    @property
    def averages(self) -> bool:
        """Whether an average of the weights is kept."""
        return bool(self.ema or self.polyak)


@dataclass(frozen=True)
class Probe:
    """Few-shot evaluation of the frozen features (paper App. D): balanced draws, closed-form ridge."""

    datasets: tuple[str, ...] = ()
    shots: tuple[int, ...] = (1, 5, 10, 25)
    draws: int = 5
    l2: float = 2.0**10


@dataclass(frozen=True)
class Parallel:
    """How several processes share the work; never what comes out. shard: devices of one group of "hybrid".
    recompute: what of the activations is computed twice to save memory. timeout: seconds after which a
    process that does not answer ends the job."""

    strategy: Literal["ddp", "fsdp", "hybrid"] = "ddp"
    shard: int = 0
    recompute: Literal["none", "selective", "full"] = "none"
    timeout: float = 600.0


@dataclass(frozen=True)
class Guard:
    """What is caught before it enters the weights: a loss or gradient norm that is not finite, and a loss
    above the median of the last `window` steps by more than `spike` median absolute deviations (0: never).
    Then the run goes back to its last checkpoint and skips the `skip` batches up to the one that failed; it
    stops when that happens more than `rewinds` times. Without `on`, no step waits for its loss."""

    on: bool = True
    spike: float = 0.0
    window: int = 100
    skip: int = 1
    rewinds: int = 5


@dataclass(frozen=True)
class Branch:
    """A cooldown branched off a trunk: the trunk's folder and the step whose checkpoint the run starts from.

    An empty folder means that the run is no branch."""

    trunk: str = ""
    step: int = 0


@dataclass(frozen=True)
class Start:
    """Weights that a run begins with, all but the head's. weights: where they are, in any form that
    `scalevit convert` reads; empty begins anew. content: their SHA-256. parent: the run they come from, where
    that is known. preprocessing: what their images went through, and this run's go through."""

    weights: str = ""
    content: str = ""
    parent: str = ""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


@dataclass(frozen=True)
class Run:
    """One training run, complete: with the code's version it decides the weights bit for bit."""

    name: str = "run"
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    train: Train = field(default_factory=Train)
    probe: Probe = field(default_factory=Probe)
    branch: Branch = field(default_factory=Branch)
    start: Start = field(default_factory=Start)
    parallel: Parallel = field(default_factory=Parallel)
    guard: Guard = field(default_factory=Guard)


class Mistakes(ValueError):
    """All mistakes of a configuration, one a line."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


# --------------------------------------------------------------------------- in and out


def load(target: str, overrides: Sequence[str] = ()) -> Run:
    """The run that a preset's name, a YAML file or the JSON answer of `scalevit plan` describes, with
    `section.key=value` overrides applied.

    Raises `Mistakes` naming every unknown key, wrong type and impossible combination at once."""
    from scalevit.presets import PRESETS

    if target in PRESETS:
        base = to_dict(PRESETS[target])
    elif Path(target).is_file():
        base = _read_yaml(Path(target))
    else:
        near = nearest(target, [*PRESETS])
        raise ValueError(f"no preset and no file called {target!r}; nearest presets: {', '.join(near)}")
    return _complete(base, overrides)


def changed(run: Run, overrides: Sequence[str]) -> Run:
    """The run with `section.key=value` overrides applied. Raises `Mistakes` as `load` does."""
    return _complete(to_dict(run), overrides)


def _complete(base: dict[str, Any], overrides: Sequence[str]) -> Run:
    mistakes: list[str] = []
    for override in overrides:
        _apply(base, override, mistakes)
    run = from_dict(Run, base, mistakes)
    if run is not None:
        mistakes += validate(run)
    if mistakes or run is None:
        raise Mistakes(mistakes)
    return run


def to_dict(tree: Any) -> dict[str, Any]:
    """A dataclass tree as plain dictionaries and lists, ready for YAML or JSON."""
    return json.loads(json.dumps(dataclasses.asdict(tree)))


def dump(run: Run) -> str:
    """The run as YAML: complete, and read back by `load` to an equal run."""
    import yaml

    return yaml.safe_dump(to_dict(run), sort_keys=False, allow_unicode=True)


def resolved(run: Run) -> Run:
    """The same run with the five numbers of its shape written out."""
    return replace(run, model=replace(run.model, **dataclasses.asdict(run.model.resolve())))


#: Keys that came later, and the value that means what runs did before.
NEWER = (
    ("data", "part", "all"), ("data", "randaugment", 0), ("data", "mixup", 0.0), ("train", "polyak", 0),
    ("data", "more", []), ("data", "weights", []), ("optimizer", "momentum", "bf16"),
    ("train", "deterministic", False),
)  # fmt: skip


def run_id(run: Run) -> str:
    """A stable short name of what decides the weights: no names, folders, logging or probes."""
    facts = to_dict(resolved(run))
    for section, key in (("data", "workers"), ("data", "tolerate"), ("branch", "trunk"), ("model", "shape")):
        facts[section].pop(key)
    for key in ("log_every", "save_every", "eval_every", "keep_last", "keep_every", "keep_at"):
        facts["train"].pop(key)
    for key in ("checkpoints", "trackers"):
        facts["train"].pop(key)
    for key in ("name", "probe", "parallel", "guard"):
        facts.pop(key)
    for section, key, plain in NEWER:
        if facts[section][key] == plain:  # as if there were no such key: runs keep their older names
            facts[section].pop(key)
    start = facts.pop("start")
    if start["content"]:
        facts["start"] = {key: start[key] for key in ("content", "preprocessing")}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text()
        # YAML takes JSON, but reads numbers such as 1e-06 as words
        tree = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} is no YAML and no JSON: {' '.join(str(error).split())}") from None
    if isinstance(tree, dict):  # of a plan for a budget the best run, of a plan for a run that run
        tree = tree.get("best", tree)
        tree = tree.get("run", tree) if isinstance(tree, dict) else tree
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds no run: expected sections such as 'model:' and 'schedule:'")
    return tree


def _apply(tree: dict[str, Any], override: str, mistakes: list[str]) -> None:
    import yaml

    path, equals, text = override.partition("=")
    if not equals:
        mistakes.append(f"{override!r}: expected section.key=value")
        return
    *sections, key = path.split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        tree = inner if isinstance(inner, dict) else {}
    try:
        tree[key] = yaml.safe_load(text)
    except yaml.YAMLError:
        mistakes.append(f"{path}: cannot read the value {text!r}")


# --------------------------------------------------------------------------- what cannot work


def validate(run: Run) -> list[str]:
    """Every mistake that can be seen before anything is opened or created, one line each."""
    return [*_model_mistakes(run.model), *_schedule_mistakes(run.schedule), *_train_mistakes(run)]


def missing(run: Run) -> list[str]:
    """What planning can do without and training cannot: the images."""
    if run.data.source:
        return []
    return ["data.source: say where your images are, e.g. data.source=/path/to/folder"]


def _model_mistakes(model: Model) -> Iterator[str]:
    try:
        resolved = model.resolve()
    except ValueError as error:
        yield f"model.shape: {error}"
        return
    for name, value in dataclasses.asdict(resolved).items():
        if value < 1:
            yield f"model.{name}: must be at least 1, found {value}"
            return
    if model.image < 1 or model.image % resolved.patch:
        below = max(1, model.image // resolved.patch) * resolved.patch
        yield (
            f"model.image={model.image} is not divisible by the patch {resolved.patch}; "
            f"nearest: {below}, {below + resolved.patch}"
        )
    if resolved.width % resolved.heads:
        fits = [h for h in range(1, resolved.width + 1) if resolved.width % h == 0]
        near = sorted(fits, key=lambda h: abs(h - resolved.heads))[:2]
        yield f"model.heads={resolved.heads} does not divide the width {resolved.width}; nearest: {near}"
    if model.positions == "sincos2d" and resolved.width % 4:
        yield f"model.positions=sincos2d needs a width divisible by 4, found {resolved.width}"
    if model.classes < 0 or model.registers < 0:
        yield "model.classes and model.registers must not be negative"


def _schedule_mistakes(schedule: Schedule) -> Iterator[str]:
    if schedule.steps < 1:
        yield f"schedule.steps: must be at least 1, found {schedule.steps}"
    if min(schedule.warmup, schedule.cooldown) < 0 or schedule.timescale < 1:
        yield "schedule: warmup and cooldown must not be negative, timescale at least 1"
    elif schedule.warmup + schedule.cooldown > schedule.steps:
        yield (
            f"schedule: warmup {schedule.warmup} + cooldown {schedule.cooldown} steps are longer than the "
            f"run's {schedule.steps}; shorten them or raise schedule.steps"
        )
    if not schedule.lr > 0:
        yield f"schedule.lr: must be positive, found {schedule.lr}"


def _train_mistakes(run: Run) -> Iterator[str]:
    train = run.train
    if train.batch < 1:
        yield f"train.batch: must be at least 1, found {train.batch}"
    elif train.micro_batch and (train.micro_batch < 0 or train.batch % train.micro_batch):
        fits = [m for m in range(1, train.batch + 1) if train.batch % m == 0]
        near = sorted(fits, key=lambda m: abs(m - train.micro_batch))[:2]
        yield (
            f"train.micro_batch={train.micro_batch} does not divide train.batch={train.batch}; "
            f"nearest: {near}"
        )
    if not 0 < run.optimizer.layer_decay <= 1:
        yield f"optimizer.layer_decay: must lie in (0, 1], found {run.optimizer.layer_decay}"
    if not 0 <= train.ema < 1:
        yield f"train.ema: must lie in [0, 1), found {train.ema}"
    if train.polyak < 0 or (train.polyak and train.ema):
        yield "train.polyak: must not be negative, and one average is kept: leave train.ema at 0"
    if train.keep_last < 1 or train.keep_every < 0:
        yield "train.keep_last must be at least 1, and train.keep_every not negative"
    if bool(run.start.weights) != bool(run.start.content):
        yield "start: weights and their content belong together; scalevit finetune MODEL DATA fills them in"
    if run.start.weights and run.branch.trunk:
        yield "start and branch: a run begins with weights or goes on from a trunk, not both"
    yield from _mixture_mistakes(run.data)
    if run.data.images < 0:
        yield f"data.images: must not be negative, found {run.data.images}"
    if not 0 <= run.data.randaugment <= 20 or run.data.mixup < 0:
        yield "data.randaugment must lie between 0 and 20, and data.mixup must not be negative"
    if run.data.mixup and not run.model.classes:
        yield "data.mixup mixes labels: it needs model.classes of at least 1"
    if run.branch.trunk and run.branch.step > run.schedule.steps - run.schedule.cooldown:
        yield f"branch.step={run.branch.step} lies inside the cooldown, which the trunk does not share"
    if any(shots < 1 for shots in run.probe.shots) or run.probe.draws < 1:
        yield "probe.shots and probe.draws must be at least 1"


def _mixture_mistakes(data: Data) -> Iterator[str]:
    wanted = 1 + len(data.more) if data.more else 0
    if len(data.weights) != wanted:
        yield (
            f"data.weights: expected {wanted} numbers, one for data.source and each of data.more, "
            f"found {len(data.weights)}"
        )
    if any(weight <= 0 for weight in data.weights):
        yield f"data.weights: must be positive, found {list(data.weights)}"
    if data.more and (data.images or data.part != "all"):
        yield "data.more: of a mixture all images are used; leave data.images=0 and data.part=all"


def sharing_mistakes(parallel: Parallel, batch: int, size: int) -> list[str]:
    """Why `size` processes, one a device, cannot share such batches and models, with what would be
    possible."""
    found = []
    if batch % size:
        batches = f"{batch // size * size or size} or {(batch // size + 1) * size}"
        sizes = [n for n in range(1, batch + 1) if batch % n == 0]
        sizes = sorted(sizes, key=lambda n: abs(n - size))[:2]
        found.append(
            f"train.batch={batch} cannot be shared evenly by {size} processes; nearest: a batch of "
            f"{batches}, or {' or '.join(map(str, sorted(sizes)))} processes"
        )
    if parallel.strategy == "hybrid" and size > 1 and (parallel.shard < 1 or size % parallel.shard):
        fits = [n for n in range(1, size + 1) if size % n == 0]
        found.append(f"parallel.shard={parallel.shard} does not divide {size} processes; possible: {fits}")
    return found
