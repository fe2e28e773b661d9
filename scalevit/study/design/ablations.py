"""The paper's ablations as ready studies, in a size for a laptop and in one for a GPU.

Everything but what is compared is the demo's recipe, on procedural images, so that anybody can run them.
"""

from __future__ import annotations

from scalevit.study.design.spec import Spec, Variant

#: What every run of a size is, besides what its study varies.
SIZES: dict[str, tuple[str, ...]] = {
    "cpu": ("model.width=64", "model.depth=3", "model.mlp=256", "model.heads=2"),
    "gpu": (
        "model.width=384", "model.depth=12", "model.mlp=1536", "model.heads=6", "model.patch=8",
        "model.image=64", "model.classes=4096", "train.batch=1024", "train.precision=bf16",
        "train.save_every=1000", "schedule.warmup=1000", "schedule.timescale=1000",
    ),
}  # fmt: skip

#: Steps of the longest run of each size.
STEPS = {"cpu": 300, "gpu": 20_000}

#: Weight decays of the paper's figure 5; a laptop tries half of them.
DECAYS = {"cpu": (0.0, 0.03, 0.3, 3.0), "gpu": (0.0, 0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)}


def heads(size: str) -> Spec:
    """What pools the tokens: a class token, their mean, or attention (paper §3.2, figure 5 right)."""
    pools = tuple(Variant(pool, (f"model.pool={pool}",)) for pool in ("token", "gap", "map"))
    return Spec("heads", "demo", SIZES[size], recipes=pools, durations=(STEPS[size],), seeds=(0, 1, 2))


def head_decay(size: str) -> Spec:
    """How strongly the head's and the body's weights decay (paper §3.1, figure 5 left)."""
    recipes = tuple(
        Variant(f"head{head}_body{body}", (f"optimizer.head_decay={head}", f"optimizer.body_decay={body}"))
        for head in DECAYS[size]
        for body in DECAYS[size]
    )
    return Spec("head-decay", "demo", SIZES[size], recipes=recipes, durations=(STEPS[size],))


def optimizers(size: str) -> Spec:
    """Adam, Adam and Adafactor with half-precision momentum (paper §3.4), and SGD."""
    told = (("adam", "adam", "fp32", 0.002), ("adam-bf16", "adam", "bf16", 0.002),
            ("adafactor", "adafactor", "bf16", 0.002), ("sgd", "sgd", "bf16", 0.1))  # fmt: skip
    recipes = tuple(
        Variant(name, (f"optimizer.name={rule}", f"optimizer.momentum={momentum}", f"schedule.lr={rate}"))
        for name, rule, momentum, rate in told
    )
    return Spec("optimizers", "demo", SIZES[size], recipes=recipes, durations=(STEPS[size],), seeds=(0, 1, 2))


def schedules(size: str) -> Spec:
    """Schedules with and without a horizon at three durations (paper §3.5, figure 7). Those without share
    trunks; linear and cosine pay for every duration anew."""
    names = ("rsqrt", "constant", "linear", "cosine")
    recipes = tuple(Variant(name, (f"schedule.name={name}",)) for name in names)
    steps = STEPS[size]
    return Spec(
        "schedules", "demo", SIZES[size], recipes=recipes, durations=(steps // 3, 2 * steps // 3, steps)
    )


#: Models of the two studies of size, as (width, depth), and their image counts.
MODELS = {"cpu": ((32, 2), (64, 3), (96, 4)), "gpu": ((192, 6), (384, 12), (768, 12))}
IMAGES = {"cpu": (512, 2_048, 8_192), "gpu": (30_000, 300_000, 3_000_000)}


def _models(size: str) -> tuple[Variant, ...]:
    """The models, heads 32 wide on a laptop and 64 on a GPU."""
    wide = {"cpu": 32, "gpu": 64}[size]
    return tuple(
        Variant(
            f"{width}x{depth}",
            (f"model.width={width}", f"model.depth={depth}", f"model.mlp={4 * width}",
             f"model.heads={width // wide}"),
        )
        for width, depth in MODELS[size]
    )  # fmt: skip


def sample_efficiency(size: str) -> Spec:
    """Larger models need fewer images to the same error (paper, figures 3 and 4): every model on endlessly
    new images, for four durations."""
    steps = STEPS[size]
    durations = tuple(steps * part // 8 for part in (2, 4, 6, 8))
    return Spec("sample-efficiency", "demo", SIZES[size], models=_models(size), durations=durations)


def data_size(size: str) -> Spec:
    """What more unique images are worth to small and large models (paper, figures 4 and 6)."""
    steps = STEPS[size]
    return Spec(
        "data-size", "demo", SIZES[size], models=_models(size), images=IMAGES[size],
        durations=(steps // 3, steps),
    )  # fmt: skip


ABLATIONS = {
    "heads": heads, "head-decay": head_decay, "optimizers": optimizers, "schedules": schedules,
    "sample-efficiency": sample_efficiency, "data-size": data_size,
}  # fmt: skip
