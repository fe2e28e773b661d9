"""Both implementations of attention give the same numbers, and the closed form."""

import math

import pytest
import torch

from scalevit.kernels.attention import attend, prefers_products, products


@pytest.mark.parametrize("queries", [1, 7])
def test_products_equal_the_definition_and_the_fused_kernel(queries):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator) for n in (queries, 7, 7))
    weights = torch.exp(torch.einsum("bhme,bhne->bhmn", q, k) / math.sqrt(8))
    want = torch.einsum("bhmn,bhne->bhme", weights / weights.sum(-1, keepdim=True), v)
    torch.testing.assert_close(products(q, k, v), want)
    torch.testing.assert_close(attend(q, k, v), want)


def test_bf16_on_a_cpu_takes_the_products():
    assert prefers_products(torch.device("cpu"), torch.bfloat16)
    assert not prefers_products(torch.device("cpu"), torch.float32)
    assert not prefers_products(torch.device("cuda"), torch.bfloat16)
    q = torch.randn(1, 1, 4, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(attend(q, q, q), products(q, q, q)) and attend(q, q, q).dtype == torch.bfloat16
