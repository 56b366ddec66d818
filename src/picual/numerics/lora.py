"""Low-rank adapters: what they add to a weight.

W: weight (out, in) · A: (r, in) · B: (out, r) · r: rank · alpha: the adapter's strength.

    W' = W + scale * B A          scale = alpha / r, or alpha / sqrt(r) when rank-stabilized

Sources: Hu et al., "LoRA", arXiv 2106.09685; Kalajdzievski, "rsLoRA", arXiv 2312.03732.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch  # only its tensors' methods are used: a check that reads headers alone need not load it


def scaling(rank: int, alpha: float, *, rank_stabilized: bool = False) -> float:
    """Return the factor on B A."""
    return alpha / math.sqrt(rank) if rank_stabilized else alpha / rank


def delta(a: torch.Tensor, b: torch.Tensor, scale: float, *, transposed: bool = False) -> torch.Tensor:
    """Return what the adapter adds to the weight, computed in float32.

    Args:
        a: (r, in), any float dtype.
        b: (out, r), any float dtype.
        scale: See ``scaling``.
        transposed: The weight is stored as (in, out): embeddings, and layers that keep fan-in first.

    Returns:
        scale * B A, (out, in) or transposed (in, out), float32.
    """
    update = (b.float() @ a.float()).mul_(scale)  # (out, in)
    return update.T if transposed else update
