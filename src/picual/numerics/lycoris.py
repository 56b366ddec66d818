"""Adapters that reach a high rank from few numbers: products by element, and Kronecker products.

LoHa   D = scale * (A1 B1) * (A2 B2)            A1, A2: (out, r) · B1, B2: (r, in); * by element, rank up to r^2
LoKr   D = scale * kron(C, E)                   C: (a, b) · E: (out / a, in / b), either maybe A B of rank r

scale = alpha / r in both.

Sources: Hyeon-Woo et al., "FedPara", arXiv 2108.06098, for LoHa; Edalati et al., "KronA", arXiv 2212.10650, and
Yeh et al., "LyCORIS", arXiv 2309.14859, for LoKr.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def hadamard_delta(
    first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor], scale: float
) -> torch.Tensor:
    """Return what a LoHa adapter adds to the weight, (out, in), computed in float32.

    Args:
        first: A1 (out, r) and B1 (r, in), any float dtype.
        second: A2 (out, r) and B2 (r, in).
        scale: alpha / r.
    """
    left = first[0].float() @ first[1].float()
    return left.mul_(second[0].float() @ second[1].float()).mul_(scale)


def kronecker_delta(left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    """Return what a LoKr adapter adds to the weight, (a c, b d), computed in float32.

    Args:
        left: (a, b), any float dtype; ``composed`` of its factors where it has any.
        right: (c, d).
        scale: alpha / r.
    """
    product = left.float()[:, None, :, None] * right.float()[None, :, None, :]  # (a, c, b, d)
    rows, columns = left.shape[0] * right.shape[0], left.shape[1] * right.shape[1]
    return product.reshape(rows, columns).mul_(scale)


def composed(factors: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return a matrix, given whole or as A (n, r) and B (r, m), in float32."""
    return factors[0].float() if len(factors) == 1 else factors[0].float() @ factors[1].float()


def near_square(size: int) -> tuple[int, int]:
    """Return the two factors of a size that lie nearest to each other, the smaller first."""
    small = next(factor for factor in range(math.isqrt(size), 0, -1) if size % factor == 0)
    return small, size // small
