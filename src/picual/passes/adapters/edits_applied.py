"""One edit applied to a weight in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from picual.numerics import dora, lora
from picual.passes.adapters.edits import Decomposed, Edit, LowRank, Replacement
from picual.passes.rewriting import read

if TYPE_CHECKING:
    import torch


def applied(edit: Edit, weight: torch.Tensor) -> torch.Tensor:
    """Return the weight with the edit, in the dtype it has; the given one may be changed."""
    if isinstance(edit, Replacement):
        return read(edit.file, edit.tensor).to(weight.dtype)
    if isinstance(edit, LowRank):
        return weight.add_(_low_rank(edit))
    if isinstance(edit, Decomposed):
        magnitude = read(edit.low_rank.file, edit.magnitude)
        return dora.decomposed(weight, _low_rank(edit.low_rank), magnitude, transposed=edit.low_rank.transposed)
    return weight.add_(edit.delta())


def _low_rank(edit: LowRank) -> torch.Tensor:
    a, b = read(edit.file, edit.a), read(edit.file, edit.b)
    return lora.delta(a, b, edit.scale, transposed=edit.transposed)
