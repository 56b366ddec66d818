from __future__ import annotations

import pytest
import torch

from picual.numerics import lora

GENERATOR = torch.Generator().manual_seed(0)
A, B = torch.randn(3, 7, generator=GENERATOR), torch.randn(5, 3, generator=GENERATOR)


def test_the_delta_is_scale_times_b_a() -> None:
    expected = torch.zeros(5, 7)
    for row in range(5):
        for column in range(7):
            expected[row, column] = 0.5 * sum(B[row, r] * A[r, column] for r in range(3))
    assert torch.allclose(lora.delta(A, B, 0.5), expected, atol=1e-6)
    assert torch.equal(lora.delta(A, B, 0.5, transposed=True), lora.delta(A, B, 0.5).T)


def test_half_precision_factors_are_multiplied_in_float32() -> None:
    a, b = A.bfloat16(), B.bfloat16()
    found = lora.delta(a, b, 2.0)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), 2 * b.double() @ a.double(), atol=1e-6)


def test_the_scale_is_alpha_over_rank_or_over_its_root() -> None:
    assert lora.scaling(16, 32) == 2.0
    assert lora.scaling(16, 32, rank_stabilized=True) == pytest.approx(8.0)
