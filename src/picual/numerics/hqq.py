"""HQQ: zero points and scales for which most weights are met well and a few outliers may be far off.

With codes q = clip(round(x / s) + z) the error x - s (q - z) is split into outliers e and the rest, and
sum |e|^p + beta/2 (x - s (q - z) - e)^2 made small by halves: e is the error shrunk towards zero,
e = sign(d) max(0, |d| - |d|^(p-1) / beta), and z the mean of q - (x - e) / s. beta grows. Errors are counted in
steps here, so that a matrix times ten has the same codes; the paper counts them in units of the weights.

The zero that comes out is no whole number, and ``MatMulNBits`` is fast only with those. Rounded, it is nearly
always the one that covers the block; what is gained is gained by the scale, which is fitted along with the zero
and again after it, by least squares to the weights without their outliers. On normal weights in blocks of 64 that
was 5 % of sum |e|^0.7 with 4 bits, and 23 % with 2. A block that gains nothing stays on its covering grid.

When: without calibration data, for weights with heavy tails. ``zero_points`` has the smaller squared error.
Cost: about ten passes over the weights for each iteration.
Source: Badri and Shaji, "Half-Quadratic Quantization", 2023, https://mobiusml.github.io/hqq_blog/
"""

from __future__ import annotations

import torch

from picual.numerics.grids import Grid, away_from_zero, covering

NORM = 0.7
BETA = 10.0
GROWTH = 1.01
ITERATIONS = 20
PIECE = 1 << 17  # weights at a time: what is worked on stays in the processor's cache


def fit(
    weight: torch.Tensor,
    *,
    bits: int,
    block: int,
    symmetric: bool = False,
    norm: float = NORM,
    beta: float = BETA,
    growth: float = GROWTH,
    iterations: int = ITERATIONS,
) -> Grid:
    """Return for every block the grid of least sum |error|^norm that was met on the way.

    Args:
        weight: (N, K), finite float32.
        bits: 2, 4 or 8.
        block: Weights that share a scale; it must divide K.
        symmetric: Only scales are fitted; every zero is 2^(bits - 1).
        norm: p, above 0 and at most 1: the smaller, the less outliers count.
        beta: How firmly the split must hold at first.
        growth: Of beta, an iteration.
        iterations: Of the two halves.
    """
    step = max(1, PIECE // weight.shape[1])
    betas = [beta * growth**number for number in range(iterations)]
    pieces = [
        _fit(weight[start : start + step], bits, block, symmetric, norm, betas)
        for start in range(0, len(weight), step)
    ]
    return Grid(torch.cat([p.scales for p in pieces]), torch.cat([p.zeros for p in pieces]), bits, block)


def _fit(
    weight: torch.Tensor, bits: int, block: int, symmetric: bool, norm: float, betas: list[float]
) -> Grid:  # fmt: skip
    rows = weight.unflatten(1, (-1, block))  # (N, B, block)
    start = covering(weight, bits=bits, block=block, symmetric=symmetric)
    scales, zeros = start.scales, start.zeros
    if not symmetric:
        for beta in betas:
            zeros = _zeros(rows, scales, zeros, start.top, norm, beta)
            scales = _scales(rows, scales, zeros, start.top, norm, beta)
        zeros = zeros.round().clamp(0, start.top)
    for beta in betas:
        scales = _scales(rows, scales, zeros, start.top, norm, beta)
    return _better(rows, start, Grid(scales, zeros, bits, block), norm)


def _zeros(
    rows: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, top: int, norm: float, beta: float
) -> torch.Tensor:  # fmt: skip
    """Return the zeros (N, B), not whole, that fit the weights without their outliers."""
    exact = rows / scales[..., None]
    codes = (exact + zeros[..., None]).round_().clamp_(0, top)
    outliers = _shrunk(exact - (codes - zeros[..., None]), norm, beta)
    return (codes - exact + outliers).mean(2)


def _scales(
    rows: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, top: int, norm: float, beta: float
) -> torch.Tensor:  # fmt: skip
    """Return the scales (N, B) that fit the weights without their outliers by least squares."""
    exact = rows / scales[..., None]
    steps = (exact + zeros[..., None]).round_().clamp_(0, top) - zeros[..., None]
    usual = exact - _shrunk(exact - steps, norm, beta)
    along = steps.square().sum(2)
    factor = (steps * usual).sum(2) / along.clamp(min=1)  # whole numbers: at least 1, or all are 0
    return torch.where(factor > 0, scales * factor, scales)


def _shrunk(errors: torch.Tensor, norm: float, beta: float) -> torch.Tensor:
    """Return errors nearer to zero, the small ones at zero: the step of the p-norm."""
    size = errors.abs()
    # Of a size of 0 the power is infinite, and what is left is 0.
    return (size - size.pow(norm - 1) / beta).clamp_(min=0).copysign_(errors)


def _better(rows: torch.Tensor, first: Grid, second: Grid, norm: float) -> Grid:
    """Return, block by block, whichever has the smaller sum of |error|^norm."""
    second = Grid(away_from_zero(second.scales), second.zeros, second.bits, second.block)
    less = _robust_errors(rows, second, norm) < _robust_errors(rows, first, norm)
    scales = torch.where(less, second.scales, first.scales)
    return Grid(scales, torch.where(less, second.zeros, first.zeros), first.bits, first.block)


def _robust_errors(rows: torch.Tensor, grid: Grid, norm: float) -> torch.Tensor:
    weight = rows.flatten(1)
    errors = grid.values(grid.nearest(weight)).sub_(weight).abs_().pow_(norm)
    sums: torch.Tensor = errors.unflatten(1, (-1, grid.block)).sum(2)
    return sums
