"""A weight matrix to integers, by the way that fits what is known of its inputs.

Without their second moments: least-squares grids and nearest codes. With them: grids weighted by E[x^2], GPTQ,
and a polish in the same measure. Eight bits need no more than nearest codes: what they lose is lost in the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from picual.numerics import gptq, polish, zero_points
from picual.numerics.blockwise import Blocks, is_finely_updated_grid
from picual.numerics.grids import Grid, covering

ENOUGH_BITS = 8
FEW = ((1.0,), (0,))  # of shrinks and shifts, where the step is so small that no search pays


@dataclass(frozen=True)
class Rounded:
    """A matrix (N, K) as codes on a grid; both are (N, B * block), filled up behind K."""

    grid: Grid
    codes: torch.Tensor
    width: int

    def values(self) -> torch.Tensor:
        """Return the weights (N, K) that the codes stand for."""
        return self.grid.values(self.codes)[:, : self.width]

    def rows(self, start: int, stop: int) -> Rounded:
        """Return some of the rows."""
        grid = Grid(self.grid.scales[start:stop], self.grid.zeros[start:stop], self.grid.bits, self.grid.block)
        return Rounded(grid, self.codes[start:stop], self.width)

    def blocks(self, *, symmetric: bool) -> Blocks:
        """Return the arrays that are stored."""
        codes = self.codes.unflatten(1, (-1, self.grid.block)).to(torch.uint8).numpy()
        zeros = None if symmetric else self.grid.zeros.to(torch.uint8).numpy()
        return Blocks(codes, self.grid.scales.numpy(), zeros)


def nearest(weight: torch.Tensor, *, bits: int, block: int, symmetric: bool, search: bool = True) -> Rounded:
    """Round to the nearest code of a grid.

    Args:
        weight: (N, K), finite.
        bits: 2, 4 or 8.
        block: Weights that share a scale.
        symmetric: Without zero points.
        search: Take the grid of least squared error; else the one that covers each block's range.
    """
    full = filled(weight, block)
    grid = _grid(full, None, bits, block, symmetric) if search else _covering(full, bits, block, symmetric)
    return Rounded(grid, grid.nearest(full), weight.shape[1])


def with_moments(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    *,
    bits: int,
    block: int,
    symmetric: bool,
    order: gptq.Order = "activation",
    damping: float = 0.01,
    sweeps: int = 2,
    compensate: bool = True,
) -> Rounded:
    """Round so that the layer's outputs change least.

    Args:
        weight: (N, K), finite.
        hessian: (K, K), second moments of the inputs.
        bits: 2, 4 or 8.
        block: Weights that share a scale.
        symmetric: Without zero points.
        order: In which GPTQ takes the columns.
        damping: Share of the mean of diag(H) that is added to it.
        sweeps: Of the polish.
        compensate: Whether to run GPTQ at all; else the nearest codes of the weighted grid are taken.
    """
    full, moments = filled(weight, block), filled_square(hessian, block)
    grid = _grid(full, moments.diagonal(), bits, block, symmetric)
    if bits >= ENOUGH_BITS or not compensate:
        return Rounded(grid, grid.nearest(full), weight.shape[1])
    codes = gptq.round_columns(full, moments, grid, order=order, damping=damping)
    if sweeps:
        grid, codes = polish.polish(full, moments, grid, codes, sweeps=sweeps)
    return Rounded(grid, codes, weight.shape[1])


def joined(parts: Sequence[Rounded]) -> Rounded:
    """Return stretches of rows of one matrix as one."""
    first = parts[0]
    grid = replace(
        first.grid,
        scales=torch.cat([part.grid.scales for part in parts]),
        zeros=torch.cat([part.grid.zeros for part in parts]),
    )
    return Rounded(grid, torch.cat([part.codes for part in parts]), first.width)


def least_error(weight: torch.Tensor, hessian: torch.Tensor, ways: Sequence[Rounded]) -> Rounded:
    """Return for each row the way of rounding whose output error d H d^T is least; the first where they are equal.

    Args:
        weight: (N, K).
        hessian: (K, K), second moments of the inputs.
        ways: Of the same bits and block.
    """
    best = ways[0]
    least = _row_errors(weight, hessian, best)
    for way in ways[1:]:
        errors = _row_errors(weight, hessian, way)
        better = (errors < least)[:, None]
        grid = replace(
            best.grid,
            scales=torch.where(better, way.grid.scales, best.grid.scales),
            zeros=torch.where(better, way.grid.zeros, best.grid.zeros),
        )
        best = Rounded(grid, torch.where(better, way.codes, best.codes), best.width)
        least = torch.minimum(errors, least)
    return best


def _row_errors(weight: torch.Tensor, hessian: torch.Tensor, way: Rounded) -> torch.Tensor:
    error = way.values() - weight
    return torch.einsum("nk,nk->n", error @ hessian, error)


def filled(weight: torch.Tensor, block: int) -> torch.Tensor:
    """Return a matrix (N, K) filled up with zeros to whole blocks."""
    spare = -weight.shape[1] % block
    return torch.nn.functional.pad(weight, (0, spare)) if spare else weight


def filled_square(hessian: torch.Tensor, block: int) -> torch.Tensor:
    """Return second moments (K, K) filled up with inputs that are always zero."""
    spare = -len(hessian) % block
    return torch.nn.functional.pad(hessian, (0, spare, 0, spare)) if spare else hessian


def _grid(weight: torch.Tensor, importance: torch.Tensor | None, bits: int, block: int, symmetric: bool) -> Grid:
    if is_finely_updated_grid(weight.unflatten(1, (-1, block)).numpy()):
        return _covering(weight, bits, block, symmetric)
    if bits >= ENOUGH_BITS:
        shrinks, shifts = FEW
        return zero_points.fit(weight, bits=bits, block=block, symmetric=symmetric, shrinks=shrinks, shifts=shifts)
    return zero_points.fit(weight, bits=bits, block=block, symmetric=symmetric, importance=importance)


def _covering(weight: torch.Tensor, bits: int, block: int, symmetric: bool) -> Grid:
    return covering(weight, bits=bits, block=block, symmetric=symmetric)
