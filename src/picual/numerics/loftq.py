"""Where a low-rank update starts beside a weight held in few bits: at what these bits lose of it.

W: weight (N, K) · Q: what few bits leave of a matrix · B: (N, r) · A: (r, K) · r: rank · T: rounds.

    B_0 A_0 = 0;    for t = 1 .. T:    Q_t = Q(W - B_(t-1) A_(t-1)),    B_t A_t = the nearest of rank r to W - Q_t

The network then starts from Q_T + B_T A_T, which is nearer to W than Q(W) is. With one round Q_1 = Q(W).
Source: Li et al., "LoftQ", arXiv 2310.08659, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


class LowRank(NamedTuple):
    """A product B A."""

    b: torch.Tensor  # (N, r) float32
    a: torch.Tensor  # (r, K) float32


def start(
    weight: torch.Tensor, rank: int, rounds: int, narrow: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[LowRank | None, LowRank]:
    """Return B_(T-1) A_(T-1), which is taken off a weight before it is held, and B_T A_T, where the update starts.

    Args:
        weight: (N, K).
        rank: Of the update.
        rounds: T, at least 1; with one nothing is taken off.
        narrow: Gives what few bits leave of a matrix (N, K), float32.
    """
    taken: LowRank | None = None
    found = nearest(weight.float() - narrow(weight.float()), rank)
    for _ in range(rounds - 1):
        taken = found
        found = nearest(weight.float() - narrow(without(weight, taken)), rank)
    return taken, found


def without(weight: torch.Tensor, taken: LowRank) -> torch.Tensor:
    """Return W - B A (N, K), float32, summed in float64: the order of a sum must not decide on a rounding."""
    return (weight.double() - taken.b.double() @ taken.a.double()).float()


def nearest(matrix: torch.Tensor, rank: int) -> LowRank:
    """Return the product of a rank that is nearest to a matrix (N, K) in squares: its first singular vectors.

    Each factor takes the root of the singular values. Those past the smaller side are zero.
    """
    wide = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().T
    values, vectors = torch.linalg.eigh(wide @ wide.T)  # ascending; (n), (n, n), n the smaller side
    kept = min(rank, len(values))
    left = vectors.flip(1)[:, :kept]
    # An eigenvector's sign is a matter of the library: the largest element is positive.
    left = left * left.gather(0, left.abs().argmax(0, keepdim=True)).sign()
    roots = values.flip(0)[:kept].clamp_min(0.0).sqrt().sqrt()  # of the singular values
    right = left.T @ wide / roots.clamp_min(1e-30)[:, None]
    one = torch.nn.functional.pad(left * roots, (0, rank - kept)).float()
    other = torch.nn.functional.pad(right, (0, 0, 0, rank - kept)).float()
    if matrix.shape[0] <= matrix.shape[1]:
        return LowRank(one.contiguous(), other.contiguous())
    return LowRank(other.T.contiguous(), one.T.contiguous())
