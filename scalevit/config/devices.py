"""Devices: peak FLOP/s by precision, memory, bandwidth and power of accelerators, and measured speeds.

Peaks are the makers': dense matrix products, without sparsity; memory in GiB as the driver shows it. The
figures were taken from the named data sheets, not measured.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from scalevit.config.dataclass_io import nearest_names


@dataclass(frozen=True)
class Device:
    """An accelerator. peak: dense bf16 matrix products with fp32 accumulation, TFLOP/s. memory: GiB. watts:
    board power. driver: words that its driver's name for it holds. fp32: TFLOP/s of true fp32, without TF32.
    fp8: TFLOP/s, dense. bandwidth: of its memory, GB/s. source: where the figures stand. NaN where a maker
    publishes none; a device without bf16 units computes bf16 no faster than fp32."""

    name: str
    peak: float
    memory: float
    watts: float
    driver: str
    fp32: float = math.nan
    fp8: float = math.nan
    bandwidth: float = math.nan
    source: str = ""

    def peak_of(self, precision: str) -> float:
        """TFLOP/s at fp32, bf16 or fp8. A device without fp8 units trains in bf16. Raises ValueError where no
        figure is published."""
        value = {"fp32": self.fp32, "fp8": self.fp8}.get(precision, self.peak)
        if math.isnan(value) and precision == "fp8":
            value = self.peak
        if math.isnan(value):
            raise ValueError(f"no {precision} peak of {self.name} is published; give --peak TFLOPS")
        return value


_NAN = math.nan
DEVICES = {
    device.name: device
    for device in (
        # name, bf16, GiB, watts, driver, fp32, fp8, GB/s, source
        Device("v100-16", 15.7, 15.8, 300, "V100 16GB", 15.7, _NAN, 900, "NVIDIA V100 data sheet; no bf16"),
        Device("v100", 15.7, 31.7, 300, "V100", 15.7, _NAN, 900, "NVIDIA V100 data sheet; no bf16"),
        Device("t4", 8.1, 14.6, 70, "T4", 8.1, _NAN, 320, "NVIDIA T4 data sheet; no bf16"),
        Device("a100-40", 312, 39.5, 400, "A100 40GB", 19.5, _NAN, 1555, "NVIDIA A100 data sheet, SXM"),
        Device("a100", 312, 79.2, 400, "A100", 19.5, _NAN, 2039, "NVIDIA A100 80GB data sheet, SXM"),
        Device("a10", 125, 22.5, 150, "A10", 31.2, _NAN, 600, "NVIDIA A10 data sheet"),
        Device("a10g", 70, 22.5, 300, "A10G", 35, _NAN, 600, "NVIDIA A10G figures of AWS G5"),
        Device("a6000", 154.8, 47.5, 300, "RTX A6000", 38.7, _NAN, 768, "NVIDIA RTX A6000 data sheet"),
        Device("l4", 121, 22.5, 72, "L4", 30.3, 242.5, 300, "NVIDIA L4 data sheet"),
        Device("l40", 181, 44.5, 300, "L40", 90.5, 362, 864, "NVIDIA L40 data sheet"),
        Device("l40s", 362, 44.5, 350, "L40S", 91.6, 733, 864, "NVIDIA L40S data sheet"),
        Device("h100-pcie", 756, 79.6, 350, "H100 PCIe", 51, 1513, 2000, "NVIDIA H100 data sheet, PCIe"),
        Device("h100", 989, 79.6, 700, "H100", 67, 1979, 3350, "NVIDIA H100 data sheet, SXM"),
        Device("h200", 989, 140.4, 700, "H200", 67, 1979, 4800, "NVIDIA H200 data sheet, SXM"),
        Device("b200", 2250, 179.0, 1000, "B200", 75, 4500, 7750, "NVIDIA HGX B200 data sheet, an eighth"),
        Device("b300", 2250, 268.0, _NAN, "B300", 75, 4500, 8000, "NVIDIA HGX B300 data sheet, an eighth"),
        Device("rtx3090", 71, 23.6, 350, "RTX 3090", 35.6, _NAN, 936, "NVIDIA GA102 white paper"),
        Device("rtx4090", 165, 23.6, 450, "RTX 4090", 82.6, 330, 1008, "NVIDIA Ada white paper"),
        Device("rtx5090", 209.5, 31.8, 575, "RTX 5090", 104.8, 419, 1792, "NVIDIA RTX Blackwell white paper"),
        Device("mi300x", 1307, 191.5, 750, "MI300X", 163.4, 2615, 5300, "AMD Instinct MI300X data sheet"),
        Device("mi325x", 1307, 255.5, 1000, "MI325X", 163.4, 2615, 6000, "AMD Instinct MI325X data sheet"),
        Device("tpu-v5e", 197, 16, _NAN, "TPU v5e", _NAN, _NAN, 819, "Google Cloud TPU v5e documentation"),
        Device("tpu-v6e", 918, 32, _NAN, "TPU v6e", _NAN, _NAN, 1640, "Google Cloud TPU v6e documentation"),
    )
}  # fmt: skip


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


#: Words that make another device of a name: other boards, other clocks, or a part of one.
_VARIANTS = frozenset(("LAPTOP", "MOBILE", "MAX", "MIG", "NVL", "D", "ADA", "TI", "SUPER"))
#: What runtimes call devices of the table otherwise.
_ALIASES = {"TPU V5 LITE": "TPU V5E", "TPU V6 LITE": "TPU V6E"}


def device(name: str) -> Device:
    """The device of that name in the table, or of that name by its driver. Raises ValueError with the nearest
    names."""
    found = DEVICES.get(name.lower()) or device_from_driver(name)
    if found is None:
        near = ", ".join(nearest_names(name.lower(), [*DEVICES]))
        raise ValueError(f"unknown device {name!r}; known: {near}; or give --peak, --memory and --bandwidth")
    return found


def device_from_driver(driver: str) -> Device | None:
    """The device that its driver calls so, matched by whole words: an L40 is no L4, an RTX A1000 no A100.
    None when it is not in the table."""
    name = driver.upper()
    for alias, usual in _ALIASES.items():
        name = name.replace(alias, usual)
    words = {*re.findall(r"[A-Z0-9]+", name)}
    fitting = [known for known in DEVICES.values() if {*known.driver.upper().split()} <= words]
    best = max(fitting, key=lambda known: len(known.driver.split()), default=None)
    if best is None or (words & _VARIANTS) - {*best.driver.upper().split()}:
        return None
    return best


def peak_from_driver(driver: str) -> float | None:
    """Dense bf16 FLOP/s of the device that its driver calls so; None when it is not in the table."""
    known = device_from_driver(driver)
    return None if known is None else 1e12 * known.peak
