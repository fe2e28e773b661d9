"""Devices: found by whole words of a driver's name, with a peak for each precision and a source."""

import math

import pytest

from scalevit.config.devices import DEVICES, device, device_from_driver


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA L40", "l40"), ("NVIDIA L4", "l4"), ("NVIDIA L40S", "l40s"), ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", "a10g"), ("NVIDIA A100-SXM4-40GB", "a100-40"), ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-PCIE-40GB", "a100-40"), ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"), ("NVIDIA B200", "b200"), ("NVIDIA B300 SXM6 AC", "b300"),
        ("Tesla V100-SXM2-32GB", "v100"), ("Tesla V100-SXM2-16GB", "v100-16"), ("NVIDIA RTX A6000", "a6000"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"), ("NVIDIA GeForce RTX 5090", "rtx5090"),
        ("AMD Instinct MI300X", "mi300x"), ("AMD Instinct MI325X", "mi325x"), ("TPU v5 lite", "tpu-v5e"),
        ("TPU v6 lite", "tpu-v6e"),
    ],
)  # fmt: skip
def test_a_driver_names_its_device(driver, name):
    assert device_from_driver(driver) is DEVICES[name] is device(driver) is device(name.upper())


@pytest.mark.parametrize(
    "driver",
    [
        "NVIDIA RTX A1000", "NVIDIA RTX A1000 Laptop GPU", "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D", "NVIDIA H100 NVL", "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA GH200 480GB",
        "NVIDIA L400", "NVIDIA RTX 6000 Ada Generation", "",
    ],
)  # fmt: skip
def test_a_device_of_a_similar_name_is_not_taken_for_another(driver):
    assert device_from_driver(driver) is None


def test_an_unknown_device_names_the_nearest_and_the_way_out():
    with pytest.raises(ValueError, match=r"known: .*h100.*--peak"):
        device("h1000")


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_has_figures_that_fit_together_and_a_source(name):
    known = DEVICES[name]
    assert known.source and known.memory > 0 and known.bandwidth > 0
    assert known.peak_of("fp8") >= known.peak_of("bf16")
    if not math.isnan(known.fp32):
        assert known.peak_of("fp32") <= known.peak_of("bf16")
    else:
        with pytest.raises(ValueError, match="no fp32 peak"):
            known.peak_of("fp32")
