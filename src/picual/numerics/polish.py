"""Codes and scales bettered in turn, each with all others as they are, until the layer's output error is least.

With D = W^ - W (N, K) and G = D H, the best code of column j, all others fixed, is the one nearest to
w^_j - G_j / H_jj; the best change of the scale of block b is -(v . G_b) / (v^T H_bb v), with v = q - zero.
Neither can make tr(D H D^T) larger.

Cost: 3 N K^2 multiplications a sweep, blocked so that most of them are matrix products.
Source: Behdin et al., "QuantEase", arXiv 2309.01885 (codes); scales: least squares.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from picual.numerics.grids import Grid, away_from_zero
from picual.numerics.hessian import damped

COLUMNS = 64


def polish(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    grid: Grid,
    codes: torch.Tensor,
    *,
    sweeps: int,
    damping: float = 0.001,
) -> tuple[Grid, torch.Tensor]:
    """Return a grid and codes (N, K) of no larger output error.

    Args:
        weight: (N, K): what the codes should come to.
        hessian: H (K, K) of the inputs.
        grid: To start from.
        codes: To start from, float32.
        sweeps: Rounds over scales and columns.
        damping: Share of the mean of diag(H) added to it.
    """
    full = damped(hessian, damping)
    for _ in range(sweeps):
        grid = _refit(weight, full, grid, codes)
        codes = _sweep(weight, full, grid, codes)
    return _refit(weight, full, grid, codes), codes


def _sweep(weight: torch.Tensor, hessian: torch.Tensor, grid: Grid, codes: torch.Tensor) -> torch.Tensor:
    """Go over the columns once."""
    scales, zeros = (part.T.contiguous() for part in grid.per_weight())  # (K, N)
    values = grid.values(codes).T.contiguous()
    slope = hessian @ (values - weight.T)  # G, (K, N)
    codes = codes.T.clone(memory_format=torch.contiguous_format)  # of one row, .contiguous() is the caller's own
    width = len(codes)
    for first in range(0, width, COLUMNS):
        last = min(first + COLUMNS, width)
        moves = torch.zeros(last - first, codes.shape[1])
        for column in range(first, last):
            goal = values[column] - slope[column] / hessian[column, column]
            code = (goal / scales[column]).add_(zeros[column]).round_().clamp_(0, grid.top)
            move = (code - codes[column]) * scales[column]
            codes[column] = code
            moves[column - first] = move
            slope[column + 1 : last].addr_(hessian[column + 1 : last, column], move)
        slope[last:].addmm_(hessian[last:, first:last], moves)
    return codes.T.contiguous()


def _refit(weight: torch.Tensor, hessian: torch.Tensor, grid: Grid, codes: torch.Tensor) -> Grid:
    """Go over the blocks once and fit their scales."""
    _, zeros = grid.per_weight()
    steps = codes - zeros  # v, (N, K)
    scales = grid.scales.clone()
    slope = (grid.values(codes) - weight) @ hessian  # G, (N, K)
    for number in range(scales.shape[1]):
        span = slice(number * grid.block, (number + 1) * grid.block)
        part = steps[:, span]
        curvature = ((part @ hessian[span, span]) * part).sum(1)
        change = -(part * slope[:, span]).sum(1) / curvature.clamp(min=1e-30)
        change = torch.where(curvature > 0, change, 0)
        flipped = (scales[:, number] + change) * scales[:, number] <= 0
        change = torch.where(flipped, 0, change)
        scales[:, number] += change
        slope[:, span.stop :] += (part * change[:, None]) @ hessian[span, span.stop :]
    return replace(grid, scales=away_from_zero(scales))
