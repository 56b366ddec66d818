"""Root mean square normalization with a frozen weight, forward and backward.

H: hidden size · n: tokens

    r = (mean(x^2) + eps)^-1/2        y = w x r
    dx = r (w g - x r^2 mean(w g x))

Kept for the backward pass are x and r (n, 1): autograd would keep x three times over.
Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv 1910.07467.
"""

from __future__ import annotations

from typing import Any

import torch


class RmsNorm(torch.autograd.Function):
    """y of x (..., H); the gradient of w is never made."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Return y (..., H)."""
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        r = size.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        return (x * r).mul_(weight)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient of x."""
        x, weight, r = ctx.saved_tensors
        of_x = g * weight
        along = torch.linalg.vecdot(of_x, x)[..., None].div_(x.shape[-1]).mul_(r * r)
        return of_x.addcmul_(x, along, value=-1.0).mul_(r), None, None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return x (..., H), each row over its root mean square, times the weight (H)."""
    found: torch.Tensor = RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]  # torch leaves it so
    return found
