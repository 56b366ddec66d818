"""AWQ: inputs that are large get finer steps, by a scale that is moved into the layer before.

Layers that read the same x (K,) are rounded as Q(W diag(c)) diag(1/c), with c = a^r over its geometric middle,
a = E|x|; 1/c goes into what writes x, so nothing is left to do at run time. Of the exponents r the one of least
output error is taken, sum tr(D H D^T) over the layers. With ``duo`` scaling c = a^r / m^(1-r) is tried too, m the
mean of |w| in a column relative to the largest of its block. Apart from that, each block's range may be cut.

When: with calibration data; before any way of rounding, whose gain comes on top.
Cost: one rounding and N K^2 multiplications for each exponent; N K block for each cut.
Source: Lin et al., "AWQ", arXiv 2306.00978, section 3.2; the cut is that of its code; ``duo`` scaling: AutoAWQ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from picual.numerics import rounding
from picual.numerics.grids import Grid, away_from_zero, covering
from picual.numerics.rounding import Rounded, filled, filled_square

RATIOS = tuple(step / 20 for step in range(20))
CUTS = tuple(1 - step / 20 for step in range(11))
SMALLEST = 1e-4  # of a scale, before it is put in the middle: an input that is always zero has none


class MeanSizes:
    """a = E|x| of a layer's inputs, added up batch by batch."""

    def __init__(self, width: int) -> None:
        self._sum = torch.zeros(width)
        self._count = 0

    def add(self, inputs: torch.Tensor) -> None:
        """Take inputs (..., K) in."""
        flat = inputs.reshape(-1, inputs.shape[-1]).float()
        self._sum += flat.abs().sum(0)
        self._count += len(flat)

    def mean(self) -> torch.Tensor:
        """Return a (K,)."""
        return self._sum / max(self._count, 1)


def search_scales(
    weights: Sequence[torch.Tensor],
    mean_abs_input: torch.Tensor,
    hessian: torch.Tensor,
    *,
    bits: int,
    block: int,
    symmetric: bool,
    ratios: Sequence[float] = RATIOS,
    duo: bool = False,
) -> torch.Tensor:
    """Return the scales c (K,) under which the layers' outputs change least; ones where none is better than none.

    Args:
        weights: (N_i, K) each: the layers that read x.
        mean_abs_input: E|x| (K,).
        hessian: H (K, K) of x.
        bits: 2, 4 or 8.
        block: Weights that share a scale.
        symmetric: Without zero points.
        ratios: Exponents r to try; ones are tried in any case.
        duo: Whether the sizes of the weights enter too, in as many further tries.
    """
    best = torch.ones_like(mean_abs_input)
    least = _scaled_error(weights, best, hessian, bits, block, symmetric)
    tries = [input_scales(mean_abs_input, ratio) for ratio in ratios]
    if duo:
        sizes = relative_sizes(weights, block)
        tries += [input_scales(mean_abs_input, ratio, sizes) for ratio in ratios]
    for scales in tries:
        error = _scaled_error(weights, scales, hessian, bits, block, symmetric)
        if error < least:
            best, least = scales, error
    return best


def input_scales(mean_abs_input: torch.Tensor, ratio: float, sizes: torch.Tensor | None = None) -> torch.Tensor:
    """Return c = a^r (K,), over m^(1 - r) if given, the largest as far above 1 as the smallest is below."""
    scales: torch.Tensor = mean_abs_input.pow(ratio)
    if sizes is not None:
        scales = scales / sizes.pow(1 - ratio).clamp(min=SMALLEST)
    scales = scales.clamp(min=SMALLEST)
    middle: torch.Tensor = (scales.max() * scales.min()).sqrt()
    return scales / middle


def relative_sizes(weights: Sequence[torch.Tensor], block: int) -> torch.Tensor:
    """Return m (K,): the mean of |w| in each column, each relative to the largest |w| of its block and row."""
    stacked = torch.cat(list(weights)).abs()
    sizes = filled(stacked, block).unflatten(1, (-1, block))
    relative = sizes / sizes.amax(2, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    means: torch.Tensor = relative.mean(0).flatten()
    return means[: stacked.shape[1]]


def _scaled_error(
    weights: Sequence[torch.Tensor], scales: torch.Tensor, hessian: torch.Tensor, bits: int, block: int,
    symmetric: bool,
) -> float:  # fmt: skip
    total = 0.0
    for weight in weights:
        scaled = filled(weight * scales, block)
        grid = covering(scaled, bits=bits, block=block, symmetric=symmetric)
        error = grid.values(grid.nearest(scaled)).sub_(scaled)[:, : len(scales)].div(scales)
        total += float(torch.einsum("nk,nk->", error @ hessian, error))
    return total


def rounded(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    *,
    bits: int,
    block: int,
    symmetric: bool,
    cut: torch.Tensor,
    compensate: bool = True,
    damping: float = 0.01,
    sweeps: int = 2,
) -> Rounded:
    """Return the codes that leave each row's output the least error: nearest ones of a cut grid, or GPTQ's.

    Args:
        weight: (N, K), finite, scaled.
        hessian: H (K, K) of its inputs, scaled back.
        bits: 2, 4 or 8.
        block: Weights that share a scale.
        symmetric: Without zero points.
        cut: (N,), whether the ranges of a row's blocks may be cut.
        compensate: Whether to try GPTQ.
        damping: Share of the mean of diag(H) that GPTQ adds to it.
        sweeps: Of the polish after GPTQ.
    """
    full, moments = filled(weight, block), filled_square(hessian, block)
    grid = covering(full, bits=bits, block=block, symmetric=symmetric)
    if bool(cut.any()):
        shorter = search_clip(full, moments, bits=bits, block=block, symmetric=symmetric)
        grid = replace(grid, scales=torch.where(cut[:, None], shorter.scales, grid.scales))
    nearest = Rounded(grid, grid.nearest(full), weight.shape[1])
    fitted = rounding.with_moments(
        weight, hessian, bits=bits, block=block, symmetric=symmetric, damping=damping, sweeps=sweeps,
        compensate=compensate,
    )  # fmt: skip
    return rounding.least_error(weight, hessian, [nearest, fitted])


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
