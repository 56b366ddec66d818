"""Grids of small integers in torch: which numbers the weights of a block may take, and the nearest of them.

A weight matrix is (N, K); each row is cut into B = K / block blocks. Code q in 0 .. 2^bits - 1 of a block stands
for scale * (q - zero), with a whole zero, as ONNX Runtime's ``MatMulNBits`` stores it; see ``blockwise`` for how
the codes lie in memory. K must be a multiple of the block here: a caller with an odd width fills it up with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

SMALLEST = float(torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class Grid:
    """The numbers that each block of a matrix may take.

    Attributes:
        scales: (N, B) float32, never 0; a negative scale turns the block's codes around.
        zeros: (N, B) float32, whole numbers from 0 to 2^bits - 1.
        bits: Of a code.
        block: Weights that share a scale.
    """

    scales: torch.Tensor
    zeros: torch.Tensor
    bits: int
    block: int

    @property
    def top(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)

    def nearest(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the codes (N, K), float32, nearest to a weight (N, K)."""
        scales, zeros = self.per_weight()
        return (weight / scales).add_(zeros).round_().clamp_(0, self.top)

    def values(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the weights (N, K) that codes (N, K) stand for."""
        scales, zeros = self.per_weight()
        return (codes - zeros).mul_(scales)

    def per_weight(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scales and zeros as (N, K)."""
        return self.scales.repeat_interleave(self.block, 1), self.zeros.repeat_interleave(self.block, 1)


def away_from_zero(scales: torch.Tensor) -> torch.Tensor:
    """Return scales of which none is 0, so that a block of zeros has a grid too."""
    sign = torch.where(scales < 0, -1.0, 1.0)
    return scales.abs().clamp_(min=SMALLEST).mul_(sign)


def covering(weight: torch.Tensor, *, bits: int, block: int, symmetric: bool) -> Grid:
    """Return the narrowest grid that reaches both ends of every block (N, B, block), and zero.

    Source: Jacob et al., "Quantization and Training of Neural Networks", arXiv 1712.05877, section 2.1.

    Args:
        weight: (N, K), finite.
        bits: Of a code.
        block: Weights that share a scale; it must divide K.
        symmetric: Zero at 2^(bits - 1); the longer side of a block takes the side with one code more.
    """
    rows = weight.unflatten(1, (-1, block))
    low = rows.amin(2).clamp_(max=0)
    high = rows.amax(2).clamp_(min=0)
    if not symmetric:
        scales = away_from_zero((high - low) / (2**bits - 1))
        return Grid(scales, (-low / scales).round_().clamp_(0, 2**bits - 1), bits, block)
    half = 2 ** (bits - 1)
    turned = high > -low
    longer, shorter = torch.where(turned, high, -low), torch.where(turned, -low, high)
    size = torch.maximum(longer / half, shorter / (half - 0.5))
    return Grid(away_from_zero(torch.where(turned, -size, size)), torch.full_like(low, half), bits, block)
