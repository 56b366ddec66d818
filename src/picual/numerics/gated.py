"""The gated activation of Llama's feed-forward layers, forward and backward.

    y = silu(g) u,   silu(g) = g sigmoid(g)       dg = d u sigmoid(g) (1 + g (1 - sigmoid(g)))       du = d silu(g)

Kept for the backward pass are g and u: autograd would keep silu(g) too.
Source: Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


class Gated(torch.autograd.Function):
    """y of gate and up projections (..., I)."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Return y (..., I)."""
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of gate and up."""
        gate, up = ctx.saved_tensors
        of_up = functional.silu(gate).mul_(d)
        of_gate: torch.Tensor = torch.ops.aten.silu_backward(d * up, gate)
        return of_gate, of_up


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up of tensors (..., I)."""
    found: torch.Tensor = Gated.apply(gate, up)  # type: ignore[no-untyped-call]  # torch leaves it so
    return found
