"""What accelerators can do on paper, and what runs of this family were measured to reach on them.

Peaks are the makers' data sheets: dense bf16 matrix products with fp32 accumulation, memory in GiB as the
driver shows it, board power in watts.
"""

from __future__ import annotations

from dataclasses import dataclass

from scalevit.config.dataclass_io import nearest_names


@dataclass(frozen=True)
class Device:
    """peak: TFLOP/s. memory: GiB. watts: board power. driver: what its driver's name for it contains."""

    name: str
    peak: float
    memory: float
    watts: float
    driver: str


DEVICES = {
    device.name: device
    for device in (
        Device("a100-40", 312, 39.5, 400, "A100"),
        Device("a100", 312, 79.2, 400, "A100"),
        Device("h100-pcie", 756, 79.6, 350, "H100 PCIe"),
        Device("h100", 989, 79.6, 700, "H100"),
        Device("h200", 989, 140.4, 700, "H200"),
        Device("b200", 2250, 179.0, 1000, "B200"),
        Device("l40s", 362, 44.5, 350, "L40S"),
        Device("l4", 121, 22.5, 72, "L4"),
        Device("a10g", 70, 22.5, 300, "A10G"),
        Device("rtx3090", 71, 23.6, 350, "RTX 3090"),
        Device("rtx4090", 165, 23.6, 450, "RTX 4090"),
    )
}


@dataclass(frozen=True)
class Measurement:
    """Training images/s on one device at 224 pixels, and who measured it."""

    shape: str
    device: str
    images_per_second: float
    source: str


NEMO = "NVIDIA NeMo Megatron documentation, ViT performance, bf16"
TIMM = "timm results/benchmark-train-amp-nchw-pt112-cu113-rtx3090.csv"

MEASURED = (
    Measurement("g/14", "a100", 86.6, NEMO),
    Measurement("g/14", "h100", 178.5, NEMO),
    Measurement("S/16", "rtx3090", 1053, TIMM),
    Measurement("B/16", "rtx3090", 391, TIMM),
    Measurement("L/16", "rtx3090", 117, TIMM),
)

#: Share of the peak that a run is taken to reach where nothing was measured: between the 29 % and 44 % that
#: NeMo reached with g/14 on H100 and A100.
ASSUMED_MFU = 0.35


def device(name: str) -> Device:
    """The device of that name. Raises ValueError with the nearest names."""
    if name.lower() not in DEVICES:
        raise ValueError(
            f"unknown device {name!r}; known: {', '.join(nearest_names(name.lower(), [*DEVICES]))}"
        )
    return DEVICES[name.lower()]


def device_from_driver(driver: str) -> Device | None:
    """The device that its driver calls so; None when it is not in the table."""
    return next((known for known in DEVICES.values() if known.driver in driver), None)


def peak_from_driver(driver: str) -> float | None:
    """Dense bf16 FLOP/s of the device that its driver calls so; None when it is not in the table."""
    known = device_from_driver(driver)
    return None if known is None else 1e12 * known.peak
