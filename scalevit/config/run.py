"""The configuration of a run: one frozen tree of dataclasses. `load.py` reads it, `validate.py` checks it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from scalevit.config.lr_schedule import Schedule
from scalevit.config.model_sizes import Shape, shape


@dataclass(frozen=True)
class Model:
    """The network. width, depth, mlp, heads, patch: None means the named shape's own.

    image: side of the input in pixels. classes: outputs of the head, 0 for no head.
    The last seven describe weights from elsewhere: a class token that is not what is pooled; positions that
    cover class token and registers too; a norm before the blocks (and then no patch bias), as in CLIP; the
    final norm after pooling instead of before; a learned scale on every residual branch; channels of the
    input; its width in pixels where that is not `image` (0: square). So do the pools "token_gap" (class token
    and mean of the patches, concatenated: DINOv2's classifier) and "distilled" (class and distillation token,
    concatenated: DeiT). Runs train with none of the last two, and with neither of these pools."""

    shape: str = "S/16"
    width: int | None = None
    depth: int | None = None
    mlp: int | None = None
    heads: int | None = None
    patch: int | None = None
    image: int = 224
    classes: int = 1000
    pool: Literal["map", "gap", "token", "token_gap", "distilled"] = "map"
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
    channels: int = 3
    image_width: int = 0

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return self.image, self.image_width or self.image

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        patch = self.resolve().patch
        return self.image_size[0] // patch, self.image_size[1] // patch

    def resolve(self) -> Shape:
        """The five numbers of the shape, with explicit ones taking precedence over the named shape's."""
        explicit = {name: getattr(self, name) for name in ("width", "depth", "mlp", "heads", "patch")}
        return shape(self.shape, **{name: value for name, value in explicit.items() if value is not None})


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of a model's images, which travels with the weights: resized to image / crop pixels, the
    central square cut out, values in [0, 1] shifted by `mean` and divided by `std` (each of red, green,
    blue). resize: what becomes image / crop pixels long: the shortest side; both sides, "squash"; or the
    longest side, and what lacks is filled with `mean`. The defaults are the paper's (App. C): 256 → 224,
    values in [-1, 1]."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    crop: float = 0.875
    resize: Literal["shortest", "squash", "longest"] = "shortest"

    def agrees(self, other: Preprocessing) -> bool:
        """Whether both are the same but for rounding."""
        ours, theirs = ((*p.mean, *p.std, p.crop) for p in (self, other))
        same = (self.interpolation, self.resize) == (other.interpolation, other.resize)
        return same and all(abs(a - b) <= 1e-3 * max(1.0, abs(a)) for a, b in zip(ours, theirs))


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
    parameter of the Beta distribution that images are mixed by, 0 for none.
    image, label, split: columns of a table or list, or keys of a tar's members and of JSON, that hold the
    image, the label and the split; empty: found by the rules of docs/data.md. follow_links: also links that
    leave the data set. names: of the classes, in the order of the model's outputs; empty where the source has
    none. content: hash over the names, labels and number of the images that the run began with, and accepted:
    those of changed images that it was allowed to go on with; a run fills them in."""

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
    image: str = ""
    label: str = ""
    split: str = ""
    follow_links: bool = False
    names: tuple[str, ...] = ()
    content: str = ""
    accepted: tuple[str, ...] = ()


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

    An empty folder means that the run is no branch. parent: the trunk's run id."""

    trunk: str = ""
    step: int = 0
    parent: str = ""


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
