"""Both implementations of attention give the same numbers, and the closed form."""

import math

import pytest
import torch

from scalevit.kernels.attention import dot_product_attention, matmul_attention, prefers_matmul


@pytest.mark.parametrize("queries", [1, 7])
def test_products_equal_the_definition_and_the_fused_kernel(queries):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator) for n in (queries, 7, 7))
    weights = torch.exp(torch.einsum("bhme,bhne->bhmn", q, k) / math.sqrt(8))
    want = torch.einsum("bhmn,bhne->bhme", weights / weights.sum(-1, keepdim=True), v)
    torch.testing.assert_close(matmul_attention(q, k, v), want)
    torch.testing.assert_close(dot_product_attention(q, k, v), want)


def test_bf16_on_a_cpu_takes_the_products():
    assert prefers_matmul(torch.device("cpu"), torch.bfloat16)
    assert not prefers_matmul(torch.device("cpu"), torch.float32)
    assert not prefers_matmul(torch.device("cuda"), torch.bfloat16)
    q = torch.randn(1, 1, 4, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert (
        torch.equal(dot_product_attention(q, q, q), matmul_attention(q, q, q))
        and dot_product_attention(q, q, q).dtype == torch.bfloat16
    )
