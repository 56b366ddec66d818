"""The loss of a causal language model at the labelled positions alone.

B: rows · T: tokens · H: hidden size · V: vocabulary · N: positions with a label.

    loss = sum over n of -log softmax(head(h[n]))[label[n]] / count

Position t predicts label t + 1. Where a label is masked, no logits are computed; where they are, a few positions
at a time, each with its gradient at once: the (N, V) logits are never in memory whole.

The idea of computing the gradient in the forward pass: Hsu et al., "Liger Kernel", arXiv 2410.10989.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

IGNORED = -100
POSITIONS = 256  # at a time through the head: 25 MB of bfloat16 logits for a vocabulary of 49152
ROWS = 32  # of them at a time from logits to gradient, in float32

Head = Callable[[torch.Tensor], torch.Tensor]


def count_labels(labels: torch.Tensor) -> int:
    """Return how many labels (B, T) count in the loss: the first of a row is predicted by nothing."""
    return int((labels[:, 1:] != IGNORED).sum())


def label_loss(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    head: Head,
    *,
    count: float,
    smoothing: float = 0.0,
    head_is_frozen: bool = True,
) -> torch.Tensor:
    """Return the summed loss of a batch divided by ``count``.

    Args:
        hidden: (B, T, H), what the last layer gives.
        labels: (B, T), ``IGNORED`` where nothing is learnt.
        head: From (n, H) to the logits (n, V).
        count: Labels of the whole step, which may have several batches.
        smoothing: Share of the target spread over the vocabulary.
        head_is_frozen: No weight of ``head`` is trained: the gradient of ``hidden`` is all there is.
    """
    wanted = labels[:, 1:]
    chosen = wanted != IGNORED
    states, targets = hidden[:, :-1][chosen], wanted[chosen]  # (N, H), (N)
    if head_is_frozen and torch.is_grad_enabled() and states.requires_grad:
        total: torch.Tensor = _LossInPieces.apply(states, targets, head, smoothing)  # type: ignore[no-untyped-call]  # torch leaves it so
    else:
        losses = [
            _summed(states[at : at + POSITIONS], targets[at : at + POSITIONS], head, smoothing)
            for at in range(0, len(targets), POSITIONS)
        ]
        total = torch.stack(losses).sum() if losses else states.float().sum() * 0.0
    return total / count


def _summed(states: torch.Tensor, targets: torch.Tensor, head: Head, smoothing: float) -> torch.Tensor:
    logits = head(states)  # (n, V)
    logits = logits.to(_wide(logits))
    return functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)


def _loss_and_gradient(logits: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return the summed loss of logits (n, V), and put its gradient in their place."""
    losses = [
        _loss_of_rows(logits[at : at + ROWS], targets[at : at + ROWS], smoothing)
        for at in range(0, len(targets), ROWS)
    ]
    return torch.stack(losses).sum()


def _loss_of_rows(logits: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return the summed loss of a few rows; they become softmax less the target, rounded from float32 or wider."""
    wide, own = _wide(logits), targets[:, None]
    chances = torch.softmax(logits, dim=1, dtype=wide)
    # From the likeliest, whose chance is never rounded to 0 as that of a target may be.
    log_total = logits.amax(dim=1, keepdim=True).to(wide) - chances.amax(dim=1, keepdim=True).log()
    loss = (1.0 - smoothing) * (log_total - logits.gather(1, own).to(wide))
    if smoothing:
        loss += smoothing * (log_total - logits.mean(dim=1, keepdim=True, dtype=wide))
        spread = smoothing / logits.shape[1]
        at_targets = chances.gather(1, own) - (1.0 - smoothing + spread)
        chances.sub_(spread).scatter_(1, own, at_targets)
    else:
        chances.scatter_add_(1, own, chances.new_full(own.shape, -1.0))
    logits.copy_(chances)
    return loss.sum()


def _wide(logits: torch.Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


class _LossInPieces(torch.autograd.Function):
    """The summed loss, with the gradient of the states kept in place of logits."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, targets: torch.Tensor, head: Head, smoothing: float
    ) -> torch.Tensor:
        """Return the sum (scalar) over N positions of states (N, H)."""
        gradient = torch.empty_like(states)
        total = torch.zeros((), dtype=_wide(states), device=states.device)
        for at in range(0, len(targets), POSITIONS):
            piece = states[at : at + POSITIONS].detach().requires_grad_()
            with torch.enable_grad():
                logits = head(piece)  # (n, V)
            of_logits = logits.detach()  # the same memory
            total += _loss_and_gradient(of_logits, targets[at : at + POSITIONS], smoothing)
            (gradient[at : at + POSITIONS],) = torch.autograd.grad(logits, piece, of_logits)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """Return the gradient of the states, (N, H)."""
        (gradient,) = ctx.saved_tensors
        return gradient * scale, None, None, None
