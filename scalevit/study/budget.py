"""Backward planning: the best run that a budget buys, what the next ones would be, and what each limit costs.

Every candidate shape spends the whole budget; a joint law, of the paper's tables or of a study, says what
error it ends with; the smallest one that fits wins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from scalevit.config import Data, Model, Optimizer, Run, Train
from scalevit.devices import Device, device
from scalevit.schedule import Schedule
from scalevit.shapes import LETTERS, Shape, shape
from scalevit.study.expect import Laws, paper
from scalevit.study.measured import Bench
from scalevit.study.plan import made_to_fit, names_of, speed_of

#: SoViT's exponents of the optimal width, depth and MLP in compute (arXiv 2305.13035, §3), and its anchor.
SOVIT = {"width": 0.22, "depth": 0.45, "mlp": 0.6}
ANCHOR = "So400m/14"
#: A run shorter than this has no room for a warm-up and a cooldown.
LEAST_STEPS = 1_000
#: Beyond these a budget is a typing error.
MOST = {"devices": 1e6, "days": 1e5, "unique_images": 1e15, "inference_gflops": float("inf"), "classes": 1e7}
#: Errors this close, relatively, are the same for a purse.
SAME = 0.01


@dataclass(frozen=True)
class Budget:
    """What may be spent: devices for some days. unique_images: how many different images there are.
    inference_gflops: most forward GFLOPs an image may cost in use. mfu: None for measured or assumed.
    task: what to be best at, None for the first that the laws know."""

    device: str = "h100"
    devices: int = 8
    days: float = 7.0
    unique_images: float = 1e9
    inference_gflops: float = float("inf")
    mfu: float | None = None
    classes: int = 1000
    image: int = 224
    task: str | None = None


@dataclass(frozen=True)
class Basis:
    """What choices rest on: laws of the error, and speeds of a bench instead of those of `Budget.device`."""

    laws: Laws
    bench: Bench | None = None

    def hardware(self, budget: Budget) -> Device:
        return self.bench.hardware() if self.bench else device(budget.device)


@dataclass(frozen=True)
class Choice:
    """A candidate that spends the whole budget: its run, images seen, and the error it should end with."""

    name: str
    run: Run
    images: float
    error: float
    low: float
    high: float


@dataclass(frozen=True)
class Answer:
    """The best choice, the next two of other shapes, and the expected error with one limit moved.
    enough_days: the time after which the error is the same within 1 %, where that is less than half."""

    best: Choice
    others: tuple[Choice, ...]
    prices: dict[str, float]
    enough_days: float | None


def best(budget: Budget, basis: Basis | None = None) -> Answer:
    """The run to do with this budget, resting on the paper's tables when `basis` is None. Raises ValueError
    when no shape can be trained with it."""
    basis = basis or Basis(paper())
    _check(budget, basis)
    ranked = rank(budget, basis, 3)
    if not ranked:
        name, known = basis.hardware(budget).name, basis.laws.largest
        raise ValueError(
            f"nothing trains within {budget.devices} × {name} for {budget.days:g} days under these limits: "
            f"even the smallest shape gets fewer than {LEAST_STEPS} steps, or exceeds memory or "
            f"inference_gflops={budget.inference_gflops:g}"
            + (
                f", or {known / 1e9:.3g} GFLOPs, beyond which {basis.laws.source} say nothing"
                * (known < np.inf)
            )
        )
    moved = prices(budget, basis)
    spare = moved.get("half the time", np.inf) <= ranked[0].error * (1 + SAME)
    enough = _enough(budget, basis, ranked[0].error * (1 + SAME)) if spare else None
    return Answer(ranked[0], tuple(ranked[1:3]), moved, enough)


def _enough(budget: Budget, basis: Basis, error: float) -> float:
    """The least days that reach this error, by halving the logarithm; half of the budget's do."""
    low, high = np.log(budget.days) - 8, np.log(budget.days / 2)
    for _ in range(7):
        middle = (low + high) / 2
        ranked = rank(replace(budget, days=float(np.exp(middle))), basis, 1)
        reached = bool(ranked) and ranked[0].error <= error
        low, high = (low, middle) if reached else (middle, high)
    return float(np.exp(high))


def rank(budget: Budget, basis: Basis, most: int | None = None) -> list[Choice]:
    """Candidates that fit, best first, one for each shape; the first `most` of them."""
    task, hardware = basis.laws.named(budget.task), basis.hardware(budget)
    drafts = (_draft(budget, basis, name, candidate) for name, candidate in candidates())
    drafts = [draft for draft in drafts if draft]
    flops = np.array([basis.laws.flops(draft.shape, draft.run.model) for draft in drafts])
    seen = np.array([draft.seen for draft in drafts])
    errors = basis.laws.errors(task, flops, seen, budget.unique_images)
    ordered = (drafts[index] for index in np.argsort(errors, kind="stable"))
    fitting = (_fitted(draft, budget, basis, task, hardware) for draft in ordered)
    return list(islice((choice for choice in fitting if choice), most))


def prices(budget: Budget, basis: Basis) -> dict[str, float]:
    """Best error with one limit moved at a time: what that limit costs, or what more of it would buy."""
    moved = {
        "half the time": replace(budget, days=budget.days / 2),
        "twice the time": replace(budget, days=budget.days * 2),
        "ten times the time": replace(budget, days=budget.days * 10),
        "ten times the unique images": replace(budget, unique_images=budget.unique_images * 10),
    }
    if np.isfinite(budget.inference_gflops):
        moved["no limit on inference"] = replace(budget, inference_gflops=float("inf"))
    ranked = {name: rank(other, basis, 1) for name, other in moved.items()}
    return {name: choices[0].error for name, choices in ranked.items() if choices}


def candidates() -> Iterator[tuple[str, Shape]]:
    """Named letters with the patch sizes in use, and shapes between them by SoViT's exponents."""
    for letter in LETTERS:
        for patch in (14, 16, 28, 32):
            if letter != "mu":
                yield f"{letter}/{patch}", shape(f"{letter}/{patch}")
    anchor = shape(ANCHOR)
    between = (sovit(anchor, compute, patch) for compute in np.geomspace(1e-3, 30, 24) for patch in (14, 16))
    for candidate in dict.fromkeys(between):
        yield names_of(candidate), candidate


def sovit(anchor: Shape, compute: float, patch: int) -> Shape:
    """The anchor moved to `compute` times its training compute, rounded to heads of 64 and MLPs of 64."""
    width = max(128, 64 * round(anchor.width * compute ** SOVIT["width"] / 64))
    depth = max(2, round(anchor.depth * compute ** SOVIT["depth"]))
    mlp = max(128, 64 * round(anchor.mlp * compute ** SOVIT["mlp"] / 64))
    return Shape(width, depth, mlp, heads=width // 64, patch=patch)


@dataclass(frozen=True)
class _Draft:
    """A shape and the run that spends the whole budget on it, before its error and memory are known."""

    name: str
    shape: Shape
    run: Run
    seen: float


def _draft(budget: Budget, basis: Basis, name: str, candidate: Shape) -> _Draft | None:
    """What the whole budget buys with this shape; None when it breaks a limit of the budget."""
    hardware, flops = basis.hardware(budget), candidate.flops(budget.image, "map", budget.classes)
    if flops > min(budget.inference_gflops * 1e9, basis.laws.largest):
        return None
    plain = Run(model=Model(image=budget.image, classes=budget.classes))
    speed = speed_of(plain, candidate, flops, hardware, budget.mfu, basis.bench)
    images = speed.images_per_second * budget.devices * budget.days * 86_400
    run = recipe(budget, name, candidate, images)
    return None if run is None else _Draft(name, candidate, run, float(run.schedule.steps) * run.train.batch)


def _fitted(draft: _Draft, budget: Budget, basis: Basis, task: str, hardware: Device) -> Choice | None:
    """With the micro-batches, recomputing and sharding that a device has the memory for, and its error."""
    run = made_to_fit(draft.run, draft.shape, hardware, budget.devices)
    if run is None:
        return None
    expected = basis.laws.expect(task, draft.shape, run.model, draft.seen, budget.unique_images)
    return Choice(draft.name, run, draft.seen, expected.error, expected.low, expected.high)


def recipe(budget: Budget, name: str, candidate: Shape, images: float) -> Run | None:
    """The paper's recipe stretched over `images`: batch 4096 below g and 16384 from there (App. B), smaller
    ones only where the run would have too few steps; warm-up and cooldown keep their share of short runs."""
    wanted = 16_384 if candidate.width >= 1408 else 4096
    fitting = [size for size in (wanted, 4096, 1024) if size <= wanted and size % budget.devices == 0]
    batch = next((size for size in fitting if images / size >= 20_000), fitting[-1] if fitting else 0)
    steps = int(images // batch) if batch else 0
    if steps < LEAST_STEPS:
        return None
    warmup = min(10_000, steps // 10)
    named = name.partition("/")[0] in LETTERS
    base = name if named else f"B/{candidate.patch}"
    numbers = {} if named else {key: getattr(candidate, key) for key in ("width", "depth", "mlp", "heads")}
    return Run(
        name=f"plan-{name.replace('/', '').replace('×', 'x').replace(', MLP ', '-')}",
        model=replace(Model(shape=base, image=budget.image, classes=budget.classes), **numbers),
        data=Data(source="", images=int(min(budget.unique_images, images)), transform="inception"),
        optimizer=Optimizer(),
        schedule=Schedule(
            steps=steps, warmup=warmup, timescale=max(1, warmup), cooldown=min(50_000, steps // 5)
        ),
        train=Train(batch=batch, save_every=max(100, min(5_000, steps // 50))),
    )


def _check(budget: Budget, basis: Basis) -> None:
    for name, most in MOST.items():
        value = getattr(budget, name)
        if not 0 < value <= most:
            raise ValueError(f"{name} must be positive and at most {most:g}, found {value:g}")
    basis.hardware(budget)
    basis.laws.named(budget.task)


def draw(budget: Budget, basis: Basis, answer: Answer, path: Path) -> None:
    """Contours of the expected error over size and images seen, lines of equal compute, and the choice."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    task, model = basis.laws.named(budget.task), answer.best.run.model
    own = basis.laws.flops(model.resolve(), model)
    flops, seen = np.geomspace(min(5e8, own / 30), 5e12, 60), np.geomspace(1e7, 1e11, 60)
    error = 100 * basis.laws.errors(task, flops, seen[:, None], budget.unique_images)
    figure, axes = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
    lines = axes.contour(
        flops / 1e9, seen / 1e6, error, levels=[8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80], cmap="viridis"
    )
    axes.clabel(lines, fmt="%.0f %%", fontsize=8)
    line = own / flops * answer.best.images / 1e6
    axes.plot(flops / 1e9, line, "k--", lw=1, label="the budget")
    axes.plot(flops / 1e9, line / 10, "k:", lw=0.7, label="a tenth of it, and ten times")
    axes.plot(flops / 1e9, 10 * line, "k:", lw=0.7)
    axes.plot(
        own / 1e9,
        answer.best.images / 1e6,
        "ko",
        label=f"{answer.best.name}, {100 * answer.best.error:.1f} %",
    )
    axes.set(
        xscale="log", yscale="log", xlabel="forward GFLOPs of one image", ylabel="images seen (millions)",
        ylim=(10, 1e5), title=f"expected error, {task.replace('_', ' ')}",
    )  # fmt: skip
    axes.legend(frameon=False)
    figure.savefig(path)
    plt.close(figure)
