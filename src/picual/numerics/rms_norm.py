"""Root mean square normalization with a frozen weight, forward and backward.

H: hidden size · n: tokens

    r = (mean(x^2) + eps)^-1/2        y = w x r
    dx = r (w g - x r^2 mean(w g x))

Kept for the backward pass are x and r (n, 1): autograd would keep x three times over. All is computed in float32;
x r is rounded to the type of x before it is multiplied by w, as Llama's own norm does.
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
        wide = x.float()
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        r = size.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        found: torch.Tensor = (wide * r).to(x.dtype).mul_(weight)
        return found

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient of x."""
        x, weight, r = ctx.saved_tensors
        wide, of_x = x.float(), g.float() * weight.float()  # types alike: mixed ones multiply slowly
        along = torch.linalg.vecdot(of_x, wide)[..., None].div_(x.shape[-1]).mul_(r * r)
        return of_x.addcmul_(wide, along, value=-1.0).mul_(r).to(x.dtype), None, None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return x (..., H), each row over its root mean square, times the weight (H)."""
    found: torch.Tensor = RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]  # torch leaves it so
    return found
