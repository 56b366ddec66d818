"""AWQ: inputs that are large get finer steps, by a scale that is moved into the layer before.

Layers that read the same x (K,) are rounded as Q(W diag(c)) diag(1/c), with c = a^r over its geometric middle,
a = E|x|; 1/c goes into what writes x, so nothing is left to do at run time. Of the exponents r the one of least
output error is taken, sum tr(D H D^T) over the layers. Apart from that, each block's range may be cut.

When: with calibration data; before any way of rounding, whose gain comes on top.
Cost: one rounding and N K^2 multiplications for each exponent; N K block for each cut.
Source: Lin et al., "AWQ", arXiv 2306.00978, section 3.2; the cut is that of its code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from picual.numerics.grids import Grid, away_from_zero, covering

RATIOS = tuple(step / 20 for step in range(20))
CUTS = tuple(1 - step / 20 for step in range(11))
SMALLEST = 1e-4  # of a scale, before it is put in the middle: an input that is always zero has none


def search_scales(
    weights: Sequence[torch.Tensor],
    mean_abs_input: torch.Tensor,
    hessian: torch.Tensor,
    *,
    bits: int,
    block: int,
    symmetric: bool,
    ratios: Sequence[float] = RATIOS,
) -> torch.Tensor:
    """Return the scales c (K,) under which the layers' outputs change least; ones where none is better than none.

    Args:
        weights: (N_i, K) each: the layers that read x.
        mean_abs_input: E|x| (K,).
        hessian: H (K, K) of x.
        bits: 2, 4 or 8.
        block: Weights that share a scale; it must divide K.
        symmetric: Without zero points.
        ratios: Exponents r to try; ones are tried in any case.
    """
    best = torch.ones_like(mean_abs_input)
    least = _scaled_error(weights, best, hessian, bits, block, symmetric)
    for ratio in ratios:
        scales = input_scales(mean_abs_input, ratio)
        error = _scaled_error(weights, scales, hessian, bits, block, symmetric)
        if error < least:
            best, least = scales, error
    return best


def input_scales(mean_abs_input: torch.Tensor, ratio: float) -> torch.Tensor:
    """Return c = a^r (K,), the largest as far above 1 as the smallest is below."""
    scales = mean_abs_input.pow(ratio).clamp(min=SMALLEST)
    return scales / (scales.max() * scales.min()).sqrt()


def _scaled_error(
    weights: Sequence[torch.Tensor], scales: torch.Tensor, hessian: torch.Tensor, bits: int, block: int,
    symmetric: bool,
) -> float:  # fmt: skip
    total = 0.0
    for weight in weights:
        scaled = weight * scales
        grid = covering(scaled, bits=bits, block=block, symmetric=symmetric)
        error = grid.values(grid.nearest(scaled)).sub_(scaled).div_(scales)
        total += float(torch.einsum("nk,nk->", error @ hessian, error))
    return total


def search_clip(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    *,
    bits: int,
    block: int,
    symmetric: bool,
    steps: Sequence[float] = CUTS,
) -> Grid:
    """Return the grid that covers as much of each block's range as is best for the block's own output error.

    Of H only the blocks on its diagonal count: what one block errs, another is not asked to make up for.
    AWQ leaves queries and keys as they are: their outputs meet in products, where few large ones decide.

    Args:
        weight: (N, K), finite.
        hessian: H (K, K) of the inputs.
        bits: 2, 4 or 8.
        block: Weights that share a scale; it must divide K.
        symmetric: Without zero points.
        steps: Shares of the range to try; the whole of it is tried in any case.
    """
    whole = covering(weight, bits=bits, block=block, symmetric=symmetric)
    blocks = hessian.unflatten(0, (-1, block)).unflatten(2, (-1, block))  # (B, block, B, block)
    within = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (B, block, block)
    best, least = whole.scales, _block_errors(weight, whole, within)
    for step in steps:
        cut = Grid(away_from_zero(whole.scales * step), whole.zeros, bits, block)
        errors = _block_errors(weight, cut, within)
        best = torch.where(errors < least, cut.scales, best)
        least = torch.minimum(errors, least)
    return Grid(best, whole.zeros, bits, block)


def _block_errors(weight: torch.Tensor, grid: Grid, within: torch.Tensor) -> torch.Tensor:
    """Return d H_bb d^T of each block (N, B)."""
    errors = grid.values(grid.nearest(weight)).sub_(weight).unflatten(1, (-1, grid.block))
    return torch.einsum("nbi,nbi->nb", torch.einsum("nbi,bij->nbj", errors, within), errors)
