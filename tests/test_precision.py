"""What computes in which dtype, and what a device promises."""

import pytest
import torch

from scalevit.devices import DEVICES, peak_of
from scalevit.precision import compute_in, peak_flops

CPU = torch.device("cpu")


def test_bf16_computes_products_in_bf16_and_keeps_fp32_inputs():
    left = torch.randn(8, 8)
    with compute_in("bf16", CPU):
        assert (left @ left).dtype == torch.bfloat16
    with compute_in("fp32", CPU):
        assert (left @ left).dtype == torch.float32
    assert left.dtype == torch.float32


@pytest.mark.parametrize(
    ("driver", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Some Future Chip", None),
    ],
)
def test_peaks_are_found_by_the_name_that_a_driver_gives(driver, peak):
    assert peak_of(driver) == peak
    assert len(DEVICES) >= 10


def test_a_cpu_promises_no_peak():
    assert peak_flops("bf16", CPU) is None
