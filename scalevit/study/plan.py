"""Forward planning: what a run is, needs, takes, costs and should reach, before anything is spent.

Counts are exact (`shapes.py`); speed is measured, given, or assumed, and each plan says which.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from scalevit.config import Run
from scalevit.devices import ASSUMED_MFU, MEASURED, Device, device
from scalevit.shapes import LETTERS, Shape, shape
from scalevit.study.expect import TABLES, paper_law
from scalevit.study.joint import Expected

GIB = 2**30
#: The paper's data, for a run that does not say yet which images it will see.
JFT_IMAGES = 3e9
#: Memory that the CUDA context, the allocator's rounding and the collectives' buffers take.
RESERVED = 0.06


@dataclass(frozen=True)
class Speed:
    """Training images/s of one device, the share of its peak, and where the figure comes from."""

    images_per_second: float
    mfu: float
    source: str


@dataclass(frozen=True)
class Memory:
    """GiB on one device by kind, for `micro_batch` images at once; `sharded` over all devices or not."""

    weights: float
    gradients: float
    optimizer: float
    copies: float
    activations: float
    logits: float
    micro_batch: int
    sharded: bool

    @property
    def total(self) -> float:
        return self.fixed + self.activations + self.logits

    @property
    def fixed(self) -> float:
        """What does not depend on the micro-batch."""
        return self.weights + self.gradients + self.optimizer + self.copies


@dataclass(frozen=True)
class Plan:
    """Everything about a run that can be known or estimated beforehand.

    parameters: counts by part. flops: forward, one image, by part. expected: errors by the paper's law."""

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
    expected: dict[str, Expected]
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
) -> Plan:
    """What `run` takes on `devices` devices. mfu: share of the peak, None for measured or assumed speed.
    price: money per device and hour, None when unknown.

    Raises ValueError for an unknown device or an impossible count."""
    if devices < 1:
        raise ValueError(f"at least one device is needed, found {devices}")
    resolved, hardware = run.model.resolve(), device(device_name)
    flops = resolved.flops_by_part(run.model.image, run.model.pool, run.model.classes)
    images = float(run.schedule.steps) * run.train.batch
    speed = speed_of(resolved, sum(flops.values()), hardware, mfu)
    memory = largest_that_fits(run, resolved, hardware, devices)
    hours = images / speed.images_per_second / devices / 3600
    fits = memory.total <= hardware.memory * (1 - RESERVED)
    expected = expect(run, resolved, images)
    return Plan(
        run=run, shape=resolved, parameters=parameters_by_part(run, resolved), flops=flops, images=images,
        train_flops=3 * sum(flops.values()) * images, device=hardware, devices=devices, memory=memory,
        fits=fits, speed=speed, hours=hours, kilowatt_hours=hours * devices * hardware.watts / 1000,
        cost=None if price is None else hours * devices * price, expected=expected,
        warnings=tuple(_warnings(run, hardware, memory, fits, expected)),
    )  # fmt: skip


def parameters_by_part(run: Run, resolved: Shape) -> dict[str, int]:
    """Exact counts: the trunk as the paper's Table 2 has it, with the pool, and with everything."""
    model = run.model
    trunk = resolved.parameters(model.image)
    pooled = resolved.parameters(model.image, model.pool)
    head = resolved.parameters(model.image, model.pool, model.classes) - pooled
    extras = model.registers * resolved.width
    extras += model.qk_norm * resolved.depth * 4 * (resolved.width // resolved.heads)
    extras += model.pre_logits * (resolved.width + 1) * resolved.width
    extras -= (model.positions == "sincos2d") * resolved.tokens(model.image) * resolved.width
    return {"trunk": trunk, f"with_{model.pool}": pooled, "head": head, "total": pooled + head + extras}


# --------------------------------------------------------------------------- memory


def memory_of(run: Run, resolved: Shape, micro_batch: int, shards: int) -> Memory:
    """GiB by kind on one of `shards` devices that share weights, gradients and optimizer state."""
    model = run.model
    count = parameters_by_part(run, resolved)["total"]
    itemsize = 2 if run.train.precision == "bf16" else 4
    state = resolved.optimizer_bytes(run.optimizer.name, model.image, model.pool, model.classes)
    copies = count * (itemsize == 2) * itemsize
    activations = resolved.activation_bytes(model.image, model.pool, itemsize)
    return Memory(
        weights=4 * count / shards / GIB,
        gradients=4 * count / shards / GIB,
        optimizer=state / shards / GIB,
        copies=copies / (resolved.depth if shards > 1 else 1) / GIB,
        activations=micro_batch * activations / GIB,
        logits=micro_batch * model.classes * (itemsize + 8) / GIB,
        micro_batch=micro_batch,
        sharded=shards > 1,
    )


def largest_that_fits(run: Run, resolved: Shape, hardware: Device, devices: int) -> Memory:
    """The configured micro-batch, or the largest power of two that fits one device; sharded only when
    weights and state would take over half of a device by themselves."""
    share = max(1, run.train.batch // devices)
    whole = memory_of(run, resolved, 1, 1)
    shards = devices if whole.fixed > hardware.memory / 2 else 1
    if run.train.micro_batch:
        return memory_of(run, resolved, min(share, run.train.micro_batch), shards)
    one = memory_of(run, resolved, 1, shards)
    room = hardware.memory * (1 - RESERVED) - one.fixed
    images = max(1, int(room / (one.activations + one.logits)))
    return memory_of(run, resolved, min(share, 2 ** int(math.log2(images))), shards)


# --------------------------------------------------------------------------- time


def speed_of(resolved: Shape, flops: float, hardware: Device, mfu: float | None) -> Speed:
    """Training speed: as told, else as measured for this shape and device, else from an assumed MFU."""
    peak = hardware.peak * 1e12
    if mfu is not None:
        if not 0 < mfu <= 1:
            raise ValueError(f"MFU is a share of the device's peak, between 0 and 1; found {mfu}")
        return Speed(mfu * peak / (3 * flops), mfu, "the MFU you gave")
    for row in MEASURED:
        if row.device == hardware.name and shape(row.shape) == resolved:
            own = 3 * shape(row.shape).flops()
            share = row.images_per_second * own / peak
            return Speed(share * peak / (3 * flops), share, f"measured: {row.source}")
    return Speed(ASSUMED_MFU * peak / (3 * flops), ASSUMED_MFU, "assumed MFU; give --mfu to change it")


# --------------------------------------------------------------------------- result


def expect(run: Run, resolved: Shape, images: float) -> dict[str, Expected]:
    """Errors after pre-training on data like JFT, by the joint law of the paper's tables."""
    unique = run.data.images or (images if run.data.source else JFT_IMAGES)
    flops = resolved.flops(run.model.image)
    return {task: paper_law(task).expect(flops, images, min(float(unique), images)) for task in TABLES}


def _warnings(
    run: Run, hardware: Device, memory: Memory, fits: bool, expected: dict[str, Expected]
) -> list[str]:
    found = []
    if not fits:
        found.append(
            f"does not fit: {memory.total:.1f} GiB needed at micro-batch {memory.micro_batch}, "
            f"{hardware.name} has {hardware.memory:.0f}; use more devices, or recompute activations"
        )
    beyond = sorted({name for one in expected.values() for name in one.beyond})
    if beyond:
        found.append(f"the expected errors extrapolate beyond the paper's runs in: {', '.join(beyond)}")
    if run.data.images and run.data.images < 1e6:
        found.append("under a million unique images: the paper's law says little here")
    return found


def names_of(resolved: Shape) -> str:
    """The shape's name when it has one, else its numbers."""
    for letter, numbers in LETTERS.items():
        if Shape(*numbers, patch=resolved.patch) == resolved:
            return f"{letter}/{resolved.patch}"
    return f"{resolved.width}×{resolved.depth}/{resolved.patch}, MLP {resolved.mlp}"
