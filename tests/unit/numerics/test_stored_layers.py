from __future__ import annotations

import pytest
import torch

from picual.numerics import stored_layers
from picual.numerics.stored_layers import StoredEmbedding, StoredHead


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(50, 8, generator=torch.Generator().manual_seed(1)).bfloat16()


def test_the_embedding_gives_its_rows_in_the_type_asked_for(weight: torch.Tensor) -> None:
    ids = torch.tensor([[3, 49], [0, 3]])
    found = StoredEmbedding(weight, None, torch.float32)(ids)
    assert found.dtype == torch.float32
    assert torch.equal(found, weight.float()[ids])


@pytest.mark.parametrize("rows", [7, 50, 4096])
def test_the_head_is_a_linear_layer_in_float32_and_so_is_its_gradient(
    rows: int, weight: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_layers, "ROWS", rows)
    states = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(2), requires_grad=True)
    twin = states.detach().clone().requires_grad_()
    push = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(3))

    found = StoredHead(torch.nn.Parameter(weight, requires_grad=False))(states)
    expected = twin @ weight.float().T
    found.backward(push)
    expected.backward(push)

    torch.testing.assert_close(found, expected)
    assert states.grad is not None
    torch.testing.assert_close(states.grad, twin.grad)


def test_both_hold_no_more_than_they_are_given(weight: torch.Tensor) -> None:
    embedding = StoredEmbedding(weight, None, torch.float32)
    head = StoredHead(embedding.weight)
    assert head.weight is embedding.weight
    assert embedding.weight.dtype == torch.bfloat16
    assert not embedding.weight.requires_grad
    assert [name for name, _ in head.named_parameters()] == ["weight"]
