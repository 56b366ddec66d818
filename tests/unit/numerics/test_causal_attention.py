"""Attention by batched products against torch's own in float64, and its gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from picual.numerics import causal_attention
from picual.numerics.causal_attention import BLOCK

SHAPES = [(1, 1), (1, 3), (3, 5), (2, BLOCK), (1, BLOCK + 1), (2, 3 * BLOCK - 7)]  # documents, tokens


def drawn(documents: int, tokens: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return q, k, v as a network gives them, heads behind tokens in memory, and the gradient of y."""
    random = torch.Generator().manual_seed(tokens)
    parts = [torch.randn((documents, tokens, heads, 8), generator=random) for heads in (6, 2, 2, 6)]
    return [part.to(dtype).transpose(1, 2) for part in parts]


def theirs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    k, v = k.repeat_interleave(3, dim=1), v.repeat_interleave(3, dim=1)
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)


@pytest.mark.parametrize(("documents", "tokens"), SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_output_and_gradients_are_those_of_torch(
    documents: int, tokens: int, dtype: torch.dtype, tolerance: float
) -> None:
    *inputs, g = drawn(documents, tokens, dtype)
    found = [part.detach().requires_grad_() for part in inputs]
    expected = [part.detach().double().requires_grad_() for part in inputs]
    y = causal_attention.causal_attention(*found, 0.3)
    y.backward(g)
    own = theirs(*expected, 0.3)
    own.backward(g.double())
    pairs = [(y, own), *((one.grad, other.grad) for one, other in zip(found, expected, strict=True))]
    for ours, other in pairs:
        assert ours is not None
        assert other is not None
        assert ours.dtype == dtype
        assert float((ours.double() - other).detach().abs().max()) <= tolerance * max(
            float(other.detach().abs().max()), 1.0
        )


def test_what_comes_later_changes_nothing() -> None:
    q, k, v, _ = drawn(1, BLOCK + 9, torch.float32)
    before = causal_attention.causal_attention(q, k, v, 1.0)
    k, v = k.clone(), v.clone()
    k[:, :, -3:], v[:, :, -3:] = 50.0, math.pi
    after = causal_attention.causal_attention(q, k, v, 1.0)
    assert torch.equal(before[:, :, :-3], after[:, :, :-3])
    assert not torch.equal(before[:, :, -3:], after[:, :, -3:])
