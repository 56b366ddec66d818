from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from picual.numerics.dropout import kept
from picual.numerics.gated import gated
from picual.numerics.low_rank_linear import low_rank_linear
from picual.numerics.rms_norm import rms_norm
from picual.numerics.wide_linear import SLAB, wide_linear


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_a_low_rank_update_has_the_gradients_of_autograd(p: float) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(7, 5), torch.randn(7)
    x, a, b = torch.randn(2, 6, 5), torch.randn(3, 5), torch.randn(7, 3)
    mask = kept((12, 5), p) if p else None
    leaves = [[tensor.clone().requires_grad_() for tensor in (x, a, b)] for _ in range(2)]
    mine = low_rank_linear(leaves[0][0], weight, bias, leaves[0][1], leaves[0][2], scale=1.5, mask=mask, p=p)
    stays = torch.ones(2, 6, 5) if mask is None else mask.view(2, 6, 5) / (1 - p)
    own = leaves[1]
    textbook = functional.linear(own[0], weight, bias) + 1.5 * ((own[0] * stays) @ own[1].T) @ own[2].T
    close(mine, textbook)
    upstream = torch.randn(2, 6, 7)
    mine.backward(upstream)
    textbook.backward(upstream)
    for found, expected in zip(*leaves, strict=True):
        assert found.grad is not None
        assert expected.grad is not None
        close(found.grad, expected.grad)


def test_a_norm_has_the_gradient_of_autograd() -> None:
    torch.manual_seed(0)
    weight, x, upstream = torch.randn(16), torch.randn(3, 4, 16), torch.randn(3, 4, 16)
    mine, own = x.clone().requires_grad_(), x.clone().requires_grad_()
    found = rms_norm(mine, weight, 1e-5)
    expected = functional.rms_norm(own, (16,), weight, 1e-5)
    close(found, expected)
    found.backward(upstream)
    expected.backward(upstream)
    assert mine.grad is not None
    assert own.grad is not None
    close(mine.grad, own.grad)


def test_the_asked_share_stays_and_follows_the_generator_of_torch() -> None:
    torch.manual_seed(4)
    state = torch.get_rng_state()
    first, second = kept((1000, 333), 0.1), kept((1000, 333), 0.1)
    assert float(first.float().mean()) == pytest.approx(0.9, abs=0.002)
    assert not torch.equal(first, second)
    columns, rows = first.float().mean(0), first.float().mean(1)
    assert float(columns.min()) > 0.85
    assert float(rows.min()) > 0.8
    torch.set_rng_state(state)
    assert torch.equal(kept((1000, 333), 0.1), first)


def test_a_gate_has_the_gradients_of_autograd() -> None:
    torch.manual_seed(0)
    leaves = [[torch.randn(3, 8).requires_grad_() for _ in range(2)]]
    leaves.append([tensor.detach().clone().requires_grad_() for tensor in leaves[0]])
    found, expected = gated(*leaves[0]), functional.silu(leaves[1][0]) * leaves[1][1]
    close(found, expected)
    upstream = torch.randn(3, 8)
    found.backward(upstream)
    expected.backward(upstream)
    for mine, own in zip(*leaves, strict=True):
        assert mine.grad is not None
        assert own.grad is not None
        close(mine.grad, own.grad)


def test_dropout_of_bfloat16_leaves_out_whole_numbers() -> None:
    x = torch.randn(6, 5).to(torch.bfloat16)
    mask = kept((6, 5), 0.4)
    identity, zero = torch.eye(5), torch.zeros(5, 5)
    found = low_rank_linear(x, zero.to(x.dtype), None, identity, identity, scale=0.5, mask=mask, p=0.5)
    torch.testing.assert_close(found, x * mask, rtol=0, atol=0)


def test_a_wide_layer_has_the_gradient_of_autograd() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(2 * SLAB + 5, 3), torch.randn(2, 4, 3)
    upstream = torch.randn(2, 4, len(weight))
    mine, own = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = wide_linear(mine, weight), functional.linear(own, weight)
    close(found, expected)
    found.backward(upstream)
    expected.backward(upstream)
    assert mine.grad is not None
    assert own.grad is not None
    torch.testing.assert_close(mine.grad, own.grad, rtol=1e-4, atol=1e-3)  # sums of 32773 numbers
