"""Weight-decomposed low-rank adapters: a direction with a low-rank update, and a length for each output.

W: weight (out, in) · D: (out, in), scale * B A · m: (out,), the length of each row.

    W' = m * (W + D) / ||W + D||          the norm of each row, over its inputs

Source: Liu et al., "DoRA", arXiv 2402.09353. The paper speaks of columns, because it writes W as (in, out).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch  # only its tensors' methods are used: a check that reads headers alone need not load it


def decomposed(
    weight: torch.Tensor, update: torch.Tensor, magnitude: torch.Tensor, *, transposed: bool = False
) -> torch.Tensor:
    """Return the weight with its update, each row at its own length.

    Args:
        weight: (out, in), or transposed (in, out): embeddings, and layers that keep fan-in first.
        update: As the weight, scale included.
        magnitude: (out,).
        transposed: How the weight is stored.

    Returns:
        As the weight, in its dtype. A row of zeros stays one.
    """
    moved = weight + update
    lengths = moved.double().norm(dim=0 if transposed else 1)  # (out,)
    factors = magnitude.double() / lengths.clamp_min(sys.float_info.min)
    return moved.mul_((factors if transposed else factors[:, None]).to(moved.dtype))
