"""GPTQ: weights rounded one input after the other, each error made up for by the weights that are still free.

With H the second moments of the inputs and U the upper Cholesky factor of H^-1, rounding column j leaves
e = (w_j - w^_j) / U_jj, and every later column i moves by -e U_ji.
Grids are static: fitted before, so that any order of the columns keeps the layout that kernels read without an
index (``g_idx``). ``order="activation"`` takes the columns by falling H_jj; ``order="groups"`` whole blocks by
their largest H_jj, and columns by H_jj within them.

Cost: N K^2 multiplications a matrix, K^3 for the factor.
Source: Frantar et al., arXiv 2210.17323; group-aware order: arXiv 2505.14638.
"""

from __future__ import annotations

from typing import Literal

import torch

from picual.numerics import hessian as moments
from picual.numerics.grids import Grid

Order = Literal["activation", "groups", "given"]
COLUMNS = 64  # rounded before the rest of the matrix is brought up to date


def round_columns(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    grid: Grid,
    *,
    order: Order = "activation",
    damping: float = moments.DAMPING,
) -> torch.Tensor:
    """Return the codes (N, K), float32.

    Args:
        weight: (N, K).
        hessian: H (K, K).
        grid: Of ``weight``.
        order: In which the columns are rounded.
        damping: Share of the mean of diag(H) added to it.
    """
    turn = ordered(hessian.diagonal(), grid.block, order)
    upper = moments.inverse_factor(hessian[turn][:, turn], damping)
    scales, zeros = (part[:, turn].T.contiguous() for part in grid.per_weight())  # (K, N): a column in one piece
    left = weight[:, turn].T.contiguous()
    codes = torch.empty_like(left)
    width = len(left)
    for first in range(0, width, COLUMNS):
        last = min(first + COLUMNS, width)
        errors = torch.empty(last - first, left.shape[1])
        for column in range(first, last):
            values = left[column]
            code = (values / scales[column]).add_(zeros[column]).round_().clamp_(0, grid.top)
            codes[column] = code
            error = (values - (code - zeros[column]) * scales[column]) / upper[column, column]
            errors[column - first] = error
            left[column + 1 : last].addr_(upper[column, column + 1 : last], error, alpha=-1)
        left[last:].addmm_(upper[first:last, last:].T, errors, alpha=-1)
    back = torch.empty_like(turn)
    back[turn] = torch.arange(width)
    return codes[back].T.contiguous()


def ordered(diagonal: torch.Tensor, block: int, order: Order) -> torch.Tensor:
    """Return the columns in the order in which they are rounded."""
    if order == "given":
        return torch.arange(len(diagonal))
    if order == "activation":
        return torch.argsort(diagonal, descending=True, stable=True)
    within = torch.argsort(diagonal.unflatten(0, (-1, block)), dim=1, descending=True, stable=True)
    largest = torch.argsort(diagonal.unflatten(0, (-1, block)).amax(1), descending=True, stable=True)
    return (within + torch.arange(len(within))[:, None] * block)[largest].flatten()
