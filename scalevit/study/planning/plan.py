"""Forward planning: what a run is, needs, takes, costs and should reach, before anything is spent.

Counts are exact (`shapes.py`); speed is measured, given, or assumed, errors come from the paper's tables or a
study, and each plan says which.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from scalevit.config.devices import ASSUMED_MFU, MEASURED, Device, device
from scalevit.config.memory import Memory, count_parameters, optimizer_bytes, shard_count, step_memory
from scalevit.config.model_sizes import LETTERS, Shape, shape
from scalevit.config.run import Run
from scalevit.config.validate import parallel_errors
from scalevit.study.laws.joint import ExpectedError
from scalevit.study.planning.expected_error import Laws, paper_laws
from scalevit.study.planning.measured_speeds import MeasuredSpeeds

#: The paper's data, for a run that does not say yet which images it will see.
JFT_IMAGES = 3e9
#: Memory that the CUDA context, the allocator's rounding and the collectives' buffers take.
RESERVED_SHARE = 0.06


@dataclass(frozen=True)
class Speed:
    """Training images/s of one device, the share of its peak, and where the figure comes from."""

    images_per_second: float
    mfu: float
    source: str


@dataclass(frozen=True)
class Plan:
    """Everything about a run that can be known or estimated beforehand.

    parameters: counts by part. flops: forward, one image, by part. expected: errors by task, by the laws that
    expected_from names. kilowatt_hours: of the boards, NaN where their power is unknown."""

    run: Run
    shape: Shape
    parameters: dict[str, int]
    flops: dict[str, float]
    images: float
    train_flops: float
    device: Device
    devices: int
    memory: Memory
    fits: bool
    speed: Speed
    hours: float
    kilowatt_hours: float
    cost: float | None
    expected: dict[str, ExpectedError]
    expected_from: str
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """One JSON object; the run as it would be written to run.yaml."""
        facts = asdict(self)
        facts["memory"]["total"] = self.memory.total
        facts["parameters_millions"] = {k: round(v / 1e6, 1) for k, v in self.parameters.items()}
        facts["gflops_per_image"] = sum(self.flops.values()) / 1e9
        return facts


def plan(
    run: Run,
    *,
    device_name: str = "h100",
    devices: int = 1,
    mfu: float | None = None,
    price: float | None = None,
    bench: MeasuredSpeeds | None = None,
    laws: Laws | None = None,
    memory: float | None = None,
    custom: Device | None = None,
) -> Plan:
    """What `run` takes on `devices` devices. mfu: share of the peak, None for measured or assumed speed.
    price: money per device and hour, None when unknown. bench: speeds found on the devices themselves, which
    then count instead of `device_name`. custom: a device by its own figures, instead of both. laws: of the
    error, None for the paper's. memory: GiB that a device offers, None for what is in it.

    Raises ValueError for an unknown device or an impossible count, price or memory."""
    if devices < 1:
        raise ValueError(f"at least one device is needed, found {devices}")
    if price is not None and not 0 < price < math.inf:
        raise ValueError(f"a device's price for an hour is above 0, found {price:g}")
    odd = parallel_errors(run.parallel, run.train.batch, devices)
    if odd:
        raise ValueError("; ".join(odd))
    resolved, laws = run.model.resolve(), laws or paper_laws()
    hardware = custom or hardware_of(device_name, bench, memory)
    flops = resolved.flops_by_part(run.model.image, run.model.pool, run.model.classes)
    images = float(run.schedule.steps) * run.train.batch
    speed = speed_of(run, resolved, sum(flops.values()), hardware, mfu, bench)
    if mfu is None and not bench:
        speed = bounded_by_memory(speed, run, resolved, hardware, devices)
    held = largest_that_fits(run, resolved, hardware, devices)
    hours = images / speed.images_per_second / devices / 3600
    fits = fits_on(held, hardware)
    expected = predicted_errors(run, resolved, images, laws)
    return Plan(
        run=run, shape=resolved, parameters=count_parameters(run, resolved), flops=flops, images=images,
        train_flops=3 * sum(flops.values()) * images, device=hardware, devices=devices, memory=held,
        fits=fits, speed=speed, hours=hours, kilowatt_hours=hours * devices * hardware.watts / 1000,
        cost=None if price is None else hours * devices * price, expected=expected, expected_from=laws.source,
        warnings=tuple(_warnings(run, hardware, devices, held, fits, expected, laws)),
    )  # fmt: skip


def hardware_of(name: str, bench: MeasuredSpeeds | None = None, memory: float | None = None) -> Device:
    """The device that a bench ran on, or else the one of that name, with `memory` GiB instead of its own.
    ValueError for an unknown name and for memory that is none."""
    found = bench.hardware() if bench else device(name)
    if memory is None:
        return found
    _require_positive("a device's memory", "GiB", memory)
    return replace(found, memory=memory)


def custom_device(
    name: str | None, peak: float | None, memory: float | None, bandwidth: float | None
) -> Device | None:
    """A device by its own figures: `peak` TFLOP/s at the run's precision, `memory` GiB, `bandwidth` GB/s.
    Figures that are None come from the device called `name`. None when neither peak nor bandwidth is given.

    Raises ValueError for figures that are not above 0, and for a missing memory."""
    if peak is None and bandwidth is None:
        return None
    for what, unit, value in (
        ("--peak", "TFLOP/s", peak), ("--memory", "GiB", memory), ("--bandwidth", "GB/s", bandwidth),
    ):  # fmt: skip
        if value is not None:
            _require_positive(what, unit, value)
    try:
        known = device(name or "h100") if name or peak is None else None
    except ValueError:
        if peak is None:
            raise
        known = None
    if known is None:
        if memory is None:
            raise ValueError("--peak of a device that is not in the table needs --memory, too")
        known = Device(name or "device", math.nan, memory, math.nan, "")
    peaks = {} if peak is None else {"peak": peak, "fp32": peak, "fp8": peak}
    rest = {"memory": memory, "bandwidth": bandwidth}
    return replace(known, **peaks, **{key: value for key, value in rest.items() if value is not None})


def _require_positive(what: str, unit: str, value: float) -> None:
    """Memory alone may be without limit."""
    if not value > 0 or (value == math.inf and unit != "GiB"):
        raise ValueError(f"{what} is above 0 {unit}, found {value:g}")


# --------------------------------------------------------------------------- memory


def fits_on(memory: Memory, hardware: Device) -> bool:
    """Whether a device has so much, and the reserve that its driver and allocator take."""
    return memory.total <= hardware.memory * (1 - RESERVED_SHARE)


def largest_that_fits(run: Run, resolved: Shape, hardware: Device, devices: int) -> Memory:
    """With the configured micro-batch, or the largest part of a device's share that fits; one image at once
    where none does."""
    share = max(1, run.train.batch // devices)
    if run.train.micro_batch:
        return step_memory(run, resolved, min(share, run.train.micro_batch), devices)
    parts = [size for size in range(1, share + 1) if share % size == 0]
    # more images at once never take less, but for the last step: the whole share at once adds nothing up
    whole = step_memory(run, resolved, share, devices)
    if fits_on(whole, hardware):
        return whole
    few = bisect.bisect_right(
        parts,
        0,
        hi=len(parts) - 1,
        key=lambda n: not fits_on(step_memory(run, resolved, n, devices), hardware),
    )
    return step_memory(run, resolved, parts[max(0, few - 1)], devices)


def changed_to_fit(run: Run, resolved: Shape, hardware: Device, devices: int) -> Run | None:
    """The run with the fewest changes after which it fits: smaller micro-batches first, then recomputing,
    then sharding; None when nothing helps."""
    ways = [run.parallel.strategy, *({"fsdp"} - {run.parallel.strategy} if devices > 1 else ())]
    levels = ("none", "selective", "full")
    frugal = [replace(run, parallel=replace(run.parallel, strategy=way, recompute="full")) for way in ways]
    share = max(1, run.train.batch // devices)
    if not any(
        fits_on(step_memory(one, resolved, n, devices), hardware) for one in frugal for n in (1, share)
    ):
        return None
    for strategy in ways:
        for level in levels[levels.index(run.parallel.recompute) :]:
            parallel = replace(run.parallel, strategy=strategy, recompute=level)
            other = replace(run, parallel=parallel, train=replace(run.train, micro_batch=0))
            memory = largest_that_fits(other, resolved, hardware, devices)
            if fits_on(memory, hardware):
                at_once = memory.micro_batch if memory.micro_batch * devices < run.train.batch else 0
                return replace(other, train=replace(run.train, micro_batch=at_once))
    return None


def _changes(run: Run, other: Run) -> str:
    """What differs in how a step is shared and cut, as `section.key=value`."""
    words = [
        f"parallel.{key}={getattr(other.parallel, key)}"
        for key in ("strategy", "recompute")
        if getattr(other.parallel, key) != getattr(run.parallel, key)
    ]
    return " ".join([*words, f"train.micro_batch={other.train.micro_batch}"])


# --------------------------------------------------------------------------- time


#: Time of a step that recomputes its activations, in units of one that does not: four passes for three.
RECOMPUTE_TIME = {"none": 1.0, "selective": 1.0, "full": 4 / 3}


def speed_of(
    run: Run,
    resolved: Shape,
    flops: float,
    hardware: Device,
    mfu: float | None,
    bench: MeasuredSpeeds | None = None,
) -> Speed:
    """Training speed at the run's precision: as told, else as a bench found, else as others measured for this
    shape and device, else from an assumed MFU. flops: forward, of an image. Recomputing all activations costs
    a third more, except in an MFU that was told."""
    peak, precision = hardware.peak_of(run.train.precision) * 1e12, run.train.precision
    if mfu is not None:
        if not 0 < mfu <= 1:
            raise ValueError(f"MFU is a share of the device's peak, between 0 and 1; found {mfu}")
        return Speed(mfu * peak / (3 * flops), mfu, "the MFU you gave")
    rate, source = _speed_without_recompute(run, resolved, flops, hardware, bench)
    factor = RECOMPUTE_TIME[run.parallel.recompute]
    if factor > 1:
        source += f", {factor - 1:.0%} slower for recomputing"
    if precision != "bf16" and not bench:
        source += f"; peak of {precision}: {peak / 1e12:g} TFLOP/s"
    return Speed(rate / factor, rate / factor * 3 * flops / peak, source)


def _speed_without_recompute(
    run: Run, resolved: Shape, flops: float, hardware: Device, bench: MeasuredSpeeds | None
) -> tuple[float, str]:
    """Images/s of a device and where the figure comes from. Published measurements are in bf16."""
    if bench:
        rate, source = bench.images_per_second(run, resolved)
        return rate, f"measured: {source}"
    for row in MEASURED:
        same = row.device == hardware.name and shape(row.shape) == resolved
        if same and run.train.precision == "bf16":
            return row.images_per_second * shape(row.shape).flops() / flops, f"measured: {row.source}"
    rate = ASSUMED_MFU * hardware.peak_of(run.train.precision) * 1e12 / (3 * flops)
    return rate, "assumed MFU; give --mfu to change it"


def bounded_by_memory(speed: Speed, run: Run, resolved: Shape, hardware: Device, devices: int) -> Speed:
    """The speed, or less where the optimizer's update alone takes longer than the step: it reads and writes
    fp32 weights and the optimizer's state and reads the gradients, once a step."""
    model = run.model
    numbers = resolved.parameters(model.image, model.pool, model.classes)
    shards = shard_count(run, devices)
    traffic = (2 * optimizer_bytes(run, resolved) + 3 * 4 * numbers) / shards
    seconds = traffic / (hardware.bandwidth * 1e9)
    share = max(1, run.train.batch // devices)
    if math.isnan(seconds) or speed.images_per_second * seconds <= share:
        return speed
    factor = share / seconds / speed.images_per_second
    source = f"bounded by the memory's {hardware.bandwidth:g} GB/s"
    return Speed(share / seconds, speed.mfu * factor, source)


# --------------------------------------------------------------------------- result


def predicted_errors(run: Run, resolved: Shape, images: float, laws: Laws) -> dict[str, ExpectedError]:
    """Errors at the end of the run, by task."""
    unique = run.data.images or (images if run.data.source else JFT_IMAGES)
    return {task: laws.predict_run(task, resolved, run.model, images, float(unique)) for task in laws.tasks}


def _warnings(
    run: Run,
    hardware: Device,
    devices: int,
    memory: Memory,
    fits: bool,
    expected: dict[str, ExpectedError],
    laws: Laws,
) -> list[str]:
    found = []
    share = max(1, run.train.batch // devices)
    if not fits or memory.micro_batch < min(share, run.train.micro_batch or share):
        other = changed_to_fit(run, run.model.resolve(), hardware, devices)
        at_once = min(share, run.train.micro_batch or share)
        needed = step_memory(run, run.model.resolve(), at_once, devices).total
        found.append(
            f"does not fit as it is: {needed:.1f} GiB with {at_once} images at once, {hardware.name} has "
            f"{hardware.memory:.0f}; "
            + (f"fits with {_changes(run, other)}" if other else "use more devices")
        )
    beyond = sorted({name for one in expected.values() for name in one.beyond})
    if beyond:
        found.append(f"the expected errors extrapolate beyond {laws.source} in: {', '.join(beyond)}")
    if run.data.source and not run.data.images and "/" in run.data.source:
        found.append(
            "data.images=0 means all images, however many there are: the expected errors take each as seen "
            "once; give data.images=N"
        )
    if laws is paper_laws() and run.data.images and run.data.images < 1e6:
        found.append("under a million unique images: the paper's law says little here")
    return [*found, *laws.notes]


def names_of(resolved: Shape) -> str:
    """The shape's name when it has one, else its numbers."""
    for letter, numbers in LETTERS.items():
        if Shape(*numbers, patch=resolved.patch) == resolved:
            return f"{letter}/{resolved.patch}"
    return f"{resolved.width}×{resolved.depth}/{resolved.patch}, MLP {resolved.mlp}"
