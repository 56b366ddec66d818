from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from picual.numerics import label_loss as module
from picual.numerics.label_loss import IGNORED, count_labels, label_loss

B, T, H, V = 3, 7, 5, 11


def case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.nn.Linear]:
    torch.manual_seed(seed)
    hidden = torch.randn(B, T, H, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, V, (B, T))
    labels[torch.rand(B, T) < 0.4] = IGNORED
    labels[1, :] = IGNORED  # a row that teaches nothing
    return hidden, labels, torch.nn.Linear(H, V, bias=False, dtype=torch.float64).requires_grad_(False)


def textbook(hidden: torch.Tensor, labels: torch.Tensor, head: torch.nn.Linear, smoothing: float) -> torch.Tensor:
    logits = head(hidden[:, :-1]).reshape(-1, V)
    return functional.cross_entropy(logits, labels[:, 1:].reshape(-1), reduction="sum", label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("positions", [1, 4, 256])
@pytest.mark.parametrize("frozen", [True, False])
def test_loss_and_gradient_are_those_of_all_logits(
    frozen: bool, positions: int, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POSITIONS", positions)
    hidden, labels, head = case()
    head.requires_grad_(not frozen)
    expected = textbook(hidden, labels, head, smoothing) / 9
    wanted = torch.autograd.grad(expected, [hidden, *([] if frozen else [head.weight])])

    loss = label_loss(hidden, labels, head, count=9, smoothing=smoothing, head_is_frozen=frozen)

    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, [hidden, *([] if frozen else [head.weight])])
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_no_logits_are_computed_where_nothing_is_learnt() -> None:
    hidden, labels, head = case()
    seen = []

    def spy(states: torch.Tensor) -> torch.Tensor:
        seen.append(len(states))
        out: torch.Tensor = head(states)
        return out

    label_loss(hidden, labels, spy, count=1)
    assert sum(seen) == count_labels(labels) == int((labels[:, 1:] != IGNORED).sum())


def test_the_first_token_of_a_row_is_predicted_by_nothing() -> None:
    assert count_labels(torch.tensor([[5, IGNORED, 7], [1, 2, 3]])) == 3


def test_a_batch_without_labels_has_loss_zero_and_a_gradient_of_zeros() -> None:
    hidden, labels, head = case()
    loss = label_loss(hidden, torch.full_like(labels, IGNORED), head, count=1)
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert float(loss.detach()) == 0.0
    assert not gradient.any()
