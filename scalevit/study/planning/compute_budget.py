"""Backward planning: the best run that a budget buys, what the next ones would be, and what each limit costs.

Every candidate shape spends the whole budget; a joint law, of the paper's tables or of a study, says what
error it ends with; the smallest one that fits wins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

import numpy as np

from scalevit.config.devices import Device
from scalevit.config.lr_schedule import Schedule
from scalevit.config.model_sizes import LETTERS, Shape
from scalevit.config.run import Data, Model, Optimizer, Parallel, Run, Train
from scalevit.study.planning.candidates import candidates
from scalevit.study.planning.expected_error import Laws, paper_laws
from scalevit.study.planning.measured_speeds import MeasuredSpeeds
from scalevit.study.planning.plan import changed_to_fit, hardware_of, speed_of

#: A run shorter than this has no room for a warm-up and a cooldown.
LEAST_STEPS = 1_000
#: Beyond these a budget is a typing error. What may be without limit is so here.
LIMITS = {
    "devices": 1e6, "days": 1e5, "unique_images": 1e15, "classes": 1e7, "inference_gflops": np.inf,
    "device_hours": np.inf, "money": np.inf, "train_flops": np.inf,
}  # fmt: skip
#: Devices that are chosen are a power of two up to this, which shares the recipe's batches evenly.
MOST_CHOSEN = 4096
#: Errors this close, relatively, are the same for a purse.
SAME_ERROR = 0.01
#: An error from here on is no better than guessing.
GUESSED = 0.99
#: Shares of the budget at which its price is told.
BUDGET_FACTORS = {"half": 0.5, "twice": 2.0, "ten times": 10.0}


@dataclass(frozen=True)
class Budget:
    """What may be spent: `devices` for `days`, or `device_hours`, or `money` at `price` for a device and
    hour, or `train_flops`; of several the tightest counts. devices None: as many as finish within `days`.

    unique_images: how many different images there are. inference_gflops: most forward GFLOPs an image may
    cost in use. mfu: None for measured or assumed. task: what to be best at, None for the first that the laws
    know. memory: GiB that a device offers, None for what is in it."""

    device: str = "h100"
    devices: int | None = 8
    days: float = 7.0
    unique_images: float = 1e9
    inference_gflops: float = np.inf
    mfu: float | None = None
    classes: int = 1000
    image: int = 224
    task: str | None = None
    device_hours: float = np.inf
    money: float = np.inf
    price: float | None = None
    train_flops: float = np.inf
    memory: float | None = None

    @property
    def spending(self) -> dict[str, float]:
        """The limits on what is spent, by field, that there are; without the time of given devices."""
        fields = ("device_hours", "money", "train_flops")
        return {name: getattr(self, name) for name in fields if getattr(self, name) < np.inf}

    def hours(self, flops: float) -> float:
        """Device-hours that may be spent where training takes so many FLOPs in an hour of a device."""
        given = np.inf if self.devices is None else self.devices * self.days * 24
        bought = self.money / self.price if self.price else np.inf
        return min(given, self.device_hours, bought, self.train_flops / flops)

    def times(self, factor: float) -> Budget:
        """So many times as much to spend; the day on which chosen devices must be ready stays."""
        more = {name: value * factor for name, value in self.spending.items()}
        return (
            replace(self, **more) if self.devices is None else replace(self, days=self.days * factor, **more)
        )


@dataclass(frozen=True)
class Basis:
    """What choices rest on: laws of the error, and speeds of a bench instead of those of `Budget.device`."""

    laws: Laws
    bench: MeasuredSpeeds | None = None
    device: Device | None = None

    def hardware(self, budget: Budget) -> Device:
        """The device to plan for, with the budget's memory."""
        if self.device:
            return self.device if budget.memory is None else replace(self.device, memory=budget.memory)
        return hardware_of(budget.device, self.bench, budget.memory)


@dataclass(frozen=True)
class BudgetRun:
    """A candidate that spends the whole budget: its run, on how many devices for how many days, the images
    it sees, and the error it should end with. cost: None without a price."""

    name: str
    run: Run
    devices: int
    days: float
    cost: float | None
    images: float
    error: float
    low: float
    high: float


@dataclass(frozen=True)
class BudgetPlan:
    """The best choice, the next two of other shapes, and the expected error with one limit moved. enough:
    the share of the budget after which the error is the same within 1 %, where that is less than half."""

    best: BudgetRun
    others: tuple[BudgetRun, ...]
    prices: dict[str, float]
    enough: float | None


def best_run(budget: Budget, basis: Basis | None = None) -> BudgetPlan:
    """The run to do with this budget, resting on the paper's tables when `basis` is None. Raises ValueError
    when no shape can be trained with it, or none so that it would learn anything."""
    basis = basis or Basis(paper_laws())
    _check(budget, basis)
    ranked = rank(budget, basis, 3)
    if not ranked:
        raise ValueError(_why_nothing(budget, basis))
    if ranked[0].error >= GUESSED:
        raise ValueError(
            f"{budget.unique_images:g} unique images: by {basis.laws.source} even the best choice ends no "
            f"better than guessing; it takes more images, or fine-tuning of a trained model"
        )
    moved = prices(budget, basis)
    spare = moved.get(f"half {_spent(budget)}", np.inf) <= ranked[0].error * (1 + SAME_ERROR)
    enough = _enough(budget, basis, ranked[0].error * (1 + SAME_ERROR)) if spare else None
    return BudgetPlan(ranked[0], tuple(ranked[1:3]), moved, enough)


def _enough(budget: Budget, basis: Basis, error: float) -> float:
    """The least share of the budget that reaches this error, by halving the logarithm; half of it does."""
    low, high = -8.0, np.log(0.5)
    for _ in range(7):
        middle = (low + high) / 2
        ranked = rank(budget.times(float(np.exp(middle))), basis, 1)
        reached = bool(ranked) and ranked[0].error <= error
        low, high = (low, middle) if reached else (middle, high)
    return float(np.exp(high))


def rank(budget: Budget, basis: Basis, most: int | None = None) -> list[BudgetRun]:
    """Candidates that fit, best first, one for each shape; the first `most` of them."""
    task, drafts = basis.laws.named(budget.task), _drafts(budget, basis)
    flops = np.array([basis.laws.flops(draft.shape, draft.run.model) for draft in drafts])
    seen = np.array([draft.seen for draft in drafts])
    errors = basis.laws.errors(task, flops, seen, budget.unique_images)
    ordered = (drafts[index] for index in np.argsort(errors, kind="stable"))
    fitting = (_fitted(draft, budget, basis, task) for draft in ordered)
    return list(islice((choice for choice in fitting if choice), most))


def prices(budget: Budget, basis: Basis) -> dict[str, float]:
    """Best error with one limit moved at a time: what that limit costs, or what more of it would buy."""
    moved = {f"{words} {_spent(budget)}": budget.times(factor) for words, factor in BUDGET_FACTORS.items()}
    moved["ten times the unique images"] = replace(budget, unique_images=budget.unique_images * 10)
    moved["no limit on memory"] = replace(budget, memory=np.inf)
    if budget.inference_gflops < np.inf:
        moved["no limit on inference"] = replace(budget, inference_gflops=np.inf)
    if len(budget.spending) + (budget.devices is not None) > 1:
        for name in budget.spending:
            moved[f"no limit on {name.replace('_', ' ')}"] = replace(budget, **{name: np.inf})
    if budget.devices is not None and budget.spending:
        moved["no limit on days"] = replace(budget, days=LIMITS["days"])
    ranked = {name: rank(other, basis, 1) for name, other in moved.items()}
    return {name: choices[0].error for name, choices in ranked.items() if choices}


def _spent(budget: Budget) -> str:
    return "the budget" if budget.spending else "the time"


@dataclass(frozen=True)
class _Draft:
    """A shape and the run that spends the whole budget on it, before its error and memory are known.
    device_days: what that takes."""

    name: str
    shape: Shape
    run: Run
    devices: int
    seen: float
    device_days: float


def _drafts(budget: Budget, basis: Basis, least_steps: int = LEAST_STEPS) -> list[_Draft]:
    """What the whole budget buys with each shape that breaks none of its limits."""
    hardware = basis.hardware(budget)
    plain = Run(model=Model(image=budget.image, classes=budget.classes))
    found = []
    for name, candidate in candidates():
        flops = candidate.flops(budget.image, "map", budget.classes)
        if flops > min(budget.inference_gflops * 1e9, basis.laws.largest):
            continue
        rate = 3600 * speed_of(plain, candidate, flops, hardware, budget.mfu, basis.bench).images_per_second
        hours = budget.hours(3 * flops * rate)
        devices = budget.devices or _chosen(hours, budget.days)
        hours = min(hours, devices * budget.days * 24)
        run = recipe(budget, devices, name, candidate, rate * hours, least_steps)
        if run:
            seen = float(run.schedule.steps) * run.train.batch
            found.append(_Draft(name, candidate, run, devices, seen, seen / rate / 24))
    return found


def _chosen(hours: float, days: float) -> int:
    """The fewest devices, a power of two, that spend so many device-hours within so many days."""
    needed = np.ceil(np.log2(max(1.0, hours / (24 * days) - 1e-9)))
    return int(2 ** min(needed, np.log2(MOST_CHOSEN)))


def _fitted(draft: _Draft, budget: Budget, basis: Basis, task: str) -> BudgetRun | None:
    """With the micro-batches, recomputing and sharding that a device has the memory for, or if their number
    is free with more devices, and its error."""
    hardware, devices, drafted = basis.hardware(budget), draft.devices, draft.run
    way = _fitting_strategy(drafted.model, drafted.train.batch, hardware, devices)
    while way is None and budget.devices is None and 2 * devices <= MOST_CHOSEN:
        devices *= 2
        way = _fitting_strategy(drafted.model, drafted.train.batch, hardware, devices)
    if way is None:
        return None
    parallel, at_once = way
    run = replace(drafted, parallel=parallel, train=replace(drafted.train, micro_batch=at_once))
    cost = None if budget.price is None else 24 * draft.device_days * budget.price
    expected = basis.laws.predict_run(task, draft.shape, run.model, draft.seen, budget.unique_images)
    return BudgetRun(
        draft.name, run, devices, draft.device_days / devices, cost, draft.seen, expected.error,
        expected.low, expected.high,
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _fitting_strategy(
    model: Model, batch: int, hardware: Device, devices: int
) -> tuple[Parallel, int] | None:
    """How a step is shared and cut so that it fits; None when nothing helps. Limits that are moved ask again
    and again for the same."""
    plain = Run(model=model, train=Train(batch=batch))
    run = changed_to_fit(plain, model.resolve(), hardware, devices)
    return None if run is None else (run.parallel, run.train.micro_batch)


def recipe(
    budget: Budget, devices: int, name: str, candidate: Shape, images: float, least_steps: int = LEAST_STEPS
) -> Run | None:
    """The paper's recipe stretched over `images`: batch 4096 below g and 16384 from there (App. B), smaller
    ones only where the run would have too few steps, to the nearest that the devices share evenly; warm-up
    and cooldown keep their share of short runs. None for a run that stays too short."""
    wanted = 16_384 if candidate.width >= 1408 else 4096
    sizes = [devices * max(1, round(size / devices)) for size in (wanted, 4096, 1024) if size <= wanted]
    batch = next((size for size in sizes if images / size >= 20_000), sizes[-1])
    steps = int(images // batch)
    if steps < least_steps:
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


# --------------------------------------------------------------------------- what cannot be


def _check(budget: Budget, basis: Basis) -> None:
    for name, most in LIMITS.items():
        value = getattr(budget, name)
        if value is not None and not 0 < value <= most:
            raise ValueError(f"{name} must be positive and at most {most:g}, found {value:g}")
    if budget.price is not None and not 0 < budget.price < np.inf:
        raise ValueError(f"a device's price for an hour is above 0, found {budget.price:g}")
    if budget.money < np.inf and budget.price is None:
        raise ValueError("what does a device cost for an hour? money buys nothing without a price")
    if budget.devices is None and not budget.spending:
        raise ValueError("no limit on what is spent: give devices, device_hours, money or train_flops")
    if budget.unique_images < budget.classes:
        raise ValueError(
            f"{budget.unique_images:g} unique images are fewer than {budget.classes} classes: each needs one"
        )
    basis.hardware(budget)
    basis.laws.named(budget.task)


def _why_nothing(budget: Budget, basis: Basis) -> str:
    """Which limit leaves no shape."""
    sizes = [shape.flops(budget.image, "map", budget.classes) for _, shape in candidates()]
    least = min(sizes) / 1e9
    if least > budget.inference_gflops:
        return (
            f"nothing trains within inference_gflops={budget.inference_gflops:g}: the smallest shape takes "
            f"{least:.3g} GFLOPs an image"
        )
    if least > basis.laws.largest / 1e9:
        return (
            f"nothing to choose from: the smallest shape takes {least:.3g} GFLOPs an image, and "
            f"{basis.laws.source} say nothing beyond {basis.laws.largest / 1e9:.3g}"
        )
    drafts = _drafts(budget, basis, 0)
    longest = max(drafts, key=lambda draft: draft.run.schedule.steps)
    if longest.run.schedule.steps < LEAST_STEPS:
        return (
            f"nothing trains within this budget: {longest.name}, the fastest shape, gets "
            f"{longest.run.schedule.steps} steps of {longest.run.train.batch} images, and a run needs "
            f"{LEAST_STEPS}"
        )
    hardware = basis.hardware(budget)
    return (
        f"nothing that has time to train fits into {hardware.memory:.3g} GiB on each {hardware.name}: more "
        f"devices share the weights, or others have more memory"
    )
