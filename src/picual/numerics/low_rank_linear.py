"""A frozen linear layer with a trained low-rank update beside it, forward and backward.

n: tokens · K: inputs · N: outputs · r: rank · s: scale · p: share of inputs left out · m: 1 where one stays

    c = s / (1 - p)       u = (m * x) A'              y = x W' + b + c u B'
    dB = c g' u           dA = c (g B)' (m * x)       dx = g W + m * (c (g B) A)

Kept for the backward pass are x, one byte an element for m, and u: the inputs that stay, which autograd would keep
in full, are made again. A and B may be wider than x and W: they are rounded for each product, as automatic mixed
precision does, and their gradients are theirs. Source: Hu et al., "LoRA", arXiv 2106.09685.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


class LowRankLinear(torch.autograd.Function):
    """y of inputs (n, K); the gradient of W is never made."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor,
        b: torch.Tensor, scale: float, mask: torch.Tensor | None,
    ) -> torch.Tensor:  # fmt: skip
        """Return y (n, N).

        Args:
            ctx: Of torch.
            x: (n, K).
            weight: W (N, K), frozen.
            bias: b (N), frozen, or None.
            a: A (r, K).
            b: B (N, r).
            scale: c.
            mask: m (n, K), bool; None: all inputs stay.
        """
        u = _staying(x, mask) @ a.to(x.dtype).T
        y: torch.Tensor = functional.linear(x, weight, bias)
        y.addmm_(u, b.to(x.dtype).T, alpha=scale)
        ctx.save_for_backward(x, weight, a, b, mask, u)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x, A and B."""
        x, weight, a, b, mask, u = ctx.saved_tensors
        back = (g @ b.to(g.dtype)).mul_(ctx.scale)  # (n, r)
        of_b = (g.T @ u).to(b.dtype).mul_(ctx.scale) if ctx.needs_input_grad[4] else None
        of_a = (back.T @ _staying(x, mask)).to(a.dtype) if ctx.needs_input_grad[3] else None
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = g @ weight
            if mask is None:
                of_x.addmm_(back, a.to(g.dtype))
            else:
                of_x += _staying(back @ a.to(g.dtype), mask)
        return of_x, None, None, of_a, of_b, None, None


def _staying(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return m * x."""
    if mask is None:
        return x
    # Times 0 or 1 an integer of the same bits is the same number, or zero; torch multiplies integers of one width
    # many times faster than numbers by booleans.
    width = torch.int16 if x.element_size() == 2 else torch.int32
    return x.detach().view(width).mul(mask.view(torch.int8).to(width)).view(x.dtype)


def low_rank_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, *,
    scale: float, mask: torch.Tensor | None = None, p: float = 0.0,
) -> torch.Tensor:  # fmt: skip
    """Return y (..., N) of inputs x (..., K) on a CPU; see the formulas above. ``scale`` is s."""
    flat = x.reshape(-1, x.shape[-1])
    c = scale / (1.0 - p)
    found: torch.Tensor = LowRankLinear.apply(flat, weight, bias, a, b, c, mask)  # type: ignore[no-untyped-call]  # torch leaves it so
    return found.view(*x.shape[:-1], -1)
