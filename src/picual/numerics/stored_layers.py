"""Embedding and head in the type they are stored in, while the network around them computes in another.

B: rows · T: tokens · H: hidden size · V: vocabulary · n: positions.

A tied embedding may be most of what a network with 4-bit layers holds: widened to float32 it would double. Both
layers are frozen; the head widens a few thousand of its rows at a time, in the backward pass too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

ROWS = 4096  # of the vocabulary, widened at once


class StoredEmbedding(torch.nn.Embedding):
    """A look-up that gives its rows in another type than they are held in."""

    def __init__(self, weight: torch.Tensor, padding_idx: int | None, given: torch.dtype) -> None:
        torch.nn.Module.__init__(self)  # the other one would make a weight of its own
        self.num_embeddings, self.embedding_dim = weight.shape
        self.padding_idx, self.max_norm, self.norm_type = padding_idx, None, 2.0
        self.scale_grad_by_freq = self.sparse = False
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self._given = given

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the rows (B, T, H) of token ids (B, T)."""
        return functional.embedding(input, self.weight).to(self._given)


class StoredHead(torch.nn.Linear):
    """A head without bias that computes in the type of its inputs, whatever its weight is held in."""

    def __init__(self, weight: torch.Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        is_shared = isinstance(weight, torch.nn.Parameter)
        self.weight = weight if is_shared else torch.nn.Parameter(weight, requires_grad=False)
        self.register_parameter("bias", None)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the logits (..., V) of states (..., H)."""
        logits: torch.Tensor = _Widened.apply(input, self.weight)  # type: ignore[no-untyped-call]  # torch leaves it so
        return logits


class _Widened(torch.autograd.Function):
    """x W^T with a frozen W (V, H), widened to the type of x piece by piece."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return (..., V) of states (..., H)."""
        ctx.weight = weight
        logits = states.new_empty((*states.shape[:-1], weight.shape[0]))
        for at in range(0, weight.shape[0], ROWS):
            logits[..., at : at + ROWS] = functional.linear(states, weight[at : at + ROWS].to(states.dtype))
        return logits

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient of the states (..., H) from that of the logits (..., V)."""
        weight = ctx.weight
        found = gradient.new_zeros((*gradient.shape[:-1], weight.shape[1]))
        for at in range(0, weight.shape[0], ROWS):
            found += gradient[..., at : at + ROWS] @ weight[at : at + ROWS].to(gradient.dtype)
        return found, None
