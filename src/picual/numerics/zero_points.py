"""Grids with the least squared error: whole zero points tried one by one, each with its least-squares scale.

For a block x with weights w on its squared errors, a zero z and a first scale s, the codes are
q = clip(round(x / s) + z); the scale that fits those codes best is s' = sum(w (q - z) x) / sum(w (q - z)^2), and
leaves the error sum(w x^2) - sum(w (q - z) x)^2 / sum(w (q - z)^2). The pair with the least error is kept.
With w = E[x_in^2] of calibration data the error is that of the layer's output, inputs taken as uncorrelated.

Cost: about ten passes over the weights for each pair. No data, unless ``importance`` comes from some.
Source: the least-squares refit of llama.cpp's k-quants (``make_qkx2_quants``), with zeros that stay whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from picual.numerics.grids import Grid, away_from_zero, covering

# The fewer the levels, the more is cut off both ends at the optimum.
SHRINKS = {2: (1.0, 0.8, 0.6, 0.44), 4: (1.0, 0.92, 0.84, 0.76), 8: (1.0, 0.98)}
SHIFTS = (0, -1, 1)
PIECE = 1 << 18  # weights at a time: what is worked on stays in the processor's cache


def fit(
    weight: torch.Tensor,
    *,
    bits: int,
    block: int,
    symmetric: bool,
    importance: torch.Tensor | None = None,
    shrinks: tuple[float, ...] | None = None,
    shifts: tuple[int, ...] = SHIFTS,
) -> Grid:
    """Return the grid of least weighted error for every block.

    Args:
        weight: (N, K), finite float32.
        bits: 2, 4 or 8.
        block: Weights that share a scale; it must divide K.
        symmetric: Only scales are fitted; every zero is 2^(bits - 1).
        importance: (K,), not negative: the weight of each column's squared error. None: all equal.
        shrinks: First scales, relative to the one that covers the block; None: ``SHRINKS`` of so many bits.
        shifts: Zeros, relative to the one that covers the block.
    """
    tried = SHRINKS[bits] if shrinks is None else shrinks
    step = max(1, PIECE // weight.shape[1])
    pieces = [
        _fit(weight[start : start + step], bits, block, symmetric, importance, tried, shifts)
        for start in range(0, len(weight), step)
    ]
    return Grid(torch.cat([p.scales for p in pieces]), torch.cat([p.zeros for p in pieces]), bits, block)


def _fit(
    weight: torch.Tensor, bits: int, block: int, symmetric: bool, importance: torch.Tensor | None,
    shrinks: tuple[float, ...], shifts: tuple[int, ...],
) -> Grid:  # fmt: skip
    rows = weight.unflatten(1, (-1, block))  # (N, B, block)
    weighted = rows if importance is None else rows * importance.unflatten(0, (-1, block))
    start = covering(weight, bits=bits, block=block, symmetric=symmetric)
    best_gain = torch.zeros_like(start.scales)
    scales, zeros = start.scales.clone(), start.zeros.clone()
    for scale, zero in _candidates(rows, start, symmetric, shrinks, shifts):
        gain, fitted = _gain(rows, weighted, importance, scale, zero, start.top)
        better = gain > best_gain
        best_gain = torch.where(better, gain, best_gain)
        scales = torch.where(better, fitted, scales)
        zeros = torch.where(better, zero, zeros)
    return Grid(away_from_zero(scales), zeros, bits, block)


def _candidates(
    rows: torch.Tensor, start: Grid, symmetric: bool, shrinks: tuple[float, ...], shifts: tuple[int, ...]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield first scales and zeros, (N, B) each; a scale is the narrowest that covers the block from its zero."""
    if symmetric:
        for shrink in shrinks:
            yield start.scales * shrink, start.zeros
            yield start.scales * -shrink, start.zeros
        return
    yield (
        start.scales,
        start.zeros,
    )  # none of those below need be as good: up to a fifth of 8-bit blocks lost by it
    low, high = rows.amin(2).clamp_(max=0), rows.amax(2).clamp_(min=0)
    for shift in shifts:
        zero = (start.zeros + shift).clamp_(0, start.top)
        below = torch.where(zero > 0, -low / zero.clamp(min=1), 0)
        above = torch.where(zero < start.top, high / (start.top - zero).clamp(min=1), 0)
        scale = away_from_zero(torch.maximum(below, above))
        for shrink in shrinks:
            yield scale * shrink, zero


def _gain(
    rows: torch.Tensor, weighted: torch.Tensor, importance: torch.Tensor | None, scale: torch.Tensor,
    zero: torch.Tensor, top: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return how much of sum(w x^2) a block's best-fitting codes explain (N, B), and their best scale."""
    low, high = -zero[..., None], (top - zero)[..., None]
    steps = (rows / scale[..., None]).round_()
    steps = torch.minimum(torch.maximum(steps, low, out=steps), high, out=steps)  # q - z
    across = torch.einsum("nbk,nbk->nb", steps, weighted)
    if importance is None:
        along = torch.einsum("nbk,nbk->nb", steps, steps)
    else:
        along = torch.einsum("nbk,nbk,bk->nb", steps, steps, importance.unflatten(0, (-1, steps.shape[2])))
    fitted = across / along.clamp(min=1e-30)
    return torch.where(along > 0, fitted * across, 0), fitted
