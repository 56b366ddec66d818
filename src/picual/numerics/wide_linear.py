"""A frozen linear layer with very many outputs, forward and backward, a slab of its outputs at a time.

n: rows · K: inputs · N: outputs

    y = x W'      dx = g W

A matrix product lays its weight out anew in memory before it multiplies: of a whole head that copy is as large as
the head. Of a slab it is small, and its product as fast. The gradient of W is never made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

SLAB = 16384  # outputs


class WideLinear(torch.autograd.Function):
    """y of inputs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return y (n, N) of x (n, K) and W (N, K)."""
        ctx.save_for_backward(weight)
        y = x.new_empty((x.shape[0], weight.shape[0]))
        for first in range(0, weight.shape[0], SLAB):
            y[:, first : first + SLAB] = functional.linear(x, weight[first : first + SLAB])
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient of x (n, K), added up in float32 or wider."""
        (weight,) = ctx.saved_tensors
        of_x = g.new_zeros((g.shape[0], weight.shape[1]), dtype=torch.promote_types(g.dtype, torch.float32))
        for first in range(0, weight.shape[0], SLAB):
            of_x += g[:, first : first + SLAB] @ weight[first : first + SLAB]
        return of_x.to(g.dtype), None


def wide_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return x W' (..., N) of inputs x (..., K) on a CPU and a frozen weight W (N, K)."""
    found: torch.Tensor = WideLinear.apply(x.reshape(-1, x.shape[-1]), weight)  # type: ignore[no-untyped-call]  # torch leaves it so
    return found.view(*x.shape[:-1], -1)
