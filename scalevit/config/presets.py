"""Runs that have a name: the demo, the paper's eleven models, and the ImageNet-1k baseline.

The paper's data set is private, so `paper/…` presets need `data.source=PATH` before they can train.
"""

from __future__ import annotations

from scalevit.config.lr_schedule import Schedule
from scalevit.config.model_sizes import PAPER
from scalevit.config.run import Data, Model, Optimizer, Probe, Run, Train

#: Classes of JFT-3B's multi-label annotation in the authors' configuration (paper.md §2).
JFT_CLASSES = 29_593
IMAGENET_TRAIN = 1_281_167

#: Batch and steps of the longest run of each model (paper Tables 4 and 14-22, App. B and C).
LONGEST = {
    "s/28": (4096, 2_000_000),
    "s/16": (4096, 2_000_000),
    "S/32": (4096, 4_000_000),
    "Ti/16": (4096, 4_000_000),
    "B/32": (4096, 4_000_000),
    "S/16": (4096, 4_000_000),
    "B/28": (4096, 2_000_000),
    "B/16": (4096, 4_000_000),
    "L/16": (4096, 4_000_000),
    "g/14": (16_384, 1_000_000),
    "G/14": (16_384, 1_250_000),
}


def _paper(name: str) -> Run:
    batch, steps = LONGEST[name]
    return Run(
        name=f"paper-{name.replace('/', '')}",
        model=Model(shape=name, classes=JFT_CLASSES),
        data=Data(source="", transform="inception"),
        schedule=Schedule(lr=8e-4, steps=steps, warmup=10_000, timescale=10_000, cooldown=50_000),
        train=Train(batch=batch, loss="sigmoid", save_every=5_000, eval_every=10_000),
        probe=Probe(shots=(1, 5, 10, 25), draws=3),
    )


def _imagenet() -> Run:
    """Plain ViT-S/16 on ImageNet-1k for 90 epochs (Beyer et al. 2022, arXiv 2205.01580)."""
    batch = 1024
    return Run(
        name="i1k-S16",
        model=Model(shape="S/16", classes=1000, pool="gap", positions="sincos2d", head_bias=0.0),
        data=Data(source="", images=IMAGENET_TRAIN, transform="inception"),
        optimizer=Optimizer(name="adam", body_decay=0.1, head_decay=0.1),
        schedule=Schedule("cosine", lr=1e-3, steps=90 * IMAGENET_TRAIN // batch, warmup=10_000, cooldown=0),
        train=Train(batch=batch, loss="softmax"),
    )


def _demo() -> Run:
    """The demo's largest run: a few minutes of one core on procedural strokes, probed on handwritten digits.

    The probe's ridge is as strong for each example as the paper's is on ImageNet with ten shots: 2^10 there
    for 10 000 examples, 2^3 here for 100 (paper.md §2; docs/lab-log.md has what other strengths give)."""
    return Run(
        name="demo",
        model=Model(
            shape="Ti/4", width=96, depth=4, mlp=384, heads=3, patch=4, image=16, classes=512, pool="gap",
            positions="sincos2d", head_bias=0.0,
        ),
        data=Data(source="strokes"),
        optimizer=Optimizer(name="adam", body_decay=0.03, head_decay=0.03),
        schedule=Schedule("rsqrt", lr=3e-3, steps=1200, warmup=50, timescale=2000, cooldown=360),
        train=Train(batch=128, loss="softmax", precision="fp32", log_every=25, save_every=200),
        probe=Probe(datasets=("digits", "unseen-strokes"), shots=(1, 5, 10), draws=10, l2=2.0**3),
    )  # fmt: skip


PRESETS: dict[str, Run] = {
    "demo": _demo(),
    "i1k/S16": _imagenet(),
    **{f"paper/{name.replace('/', '')}": _paper(name) for name in PAPER},
}
