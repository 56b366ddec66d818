"""What an adapter makes of a weight, in float64 and by formulas of its own, a few rows at a time.

    LoRA   W + s B A                   (arXiv 2106.09685)
    DoRA   m (W + s B A) / |W + s B A|  by row          (arXiv 2402.09353)
    LoHa   W + s (A1 B1) * (A2 B2)     by element       (arXiv 2108.06098)
    LoKr   W + s kron(C, E)            (arXiv 2212.10650)

Beside each number goes how far the same sum in float32 may be from it. A dot product of length r is off by at most
r eps |b| |a|, however its terms cancel (Cauchy-Schwarz).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from picual.engine.verification.tensors import ranges

if TYPE_CHECKING:
    import torch

    Rows = Callable[[], Iterator[tuple[slice, torch.Tensor]]]  # of the weight before any update

EPS32 = 2.0**-23


class Update(Protocol):
    """One adapter's part in a weight."""

    def apply(self, value: Any, slack: Any, where: slice) -> tuple[Any, Any]:
        """Return rows of the weight after the update, and how far float32 may be from them.

        Args:
            value: Rows before it (rows, in), float64.
            slack: How far float32 may be from those.
            where: Which rows.
        """
        ...


@dataclass(frozen=True)
class LowRank:
    """W + left @ right: the scale is in left (out, r); right is (r, in)."""

    left: torch.Tensor
    right: torch.Tensor

    def apply(self, value: Any, slack: Any, where: slice) -> tuple[Any, Any]:
        """See ``Update``."""
        delta, size = _product(self.left[where], self.right)
        return _added(value, slack, delta, size * (self.right.shape[0] + 2))


@dataclass(frozen=True)
class Hadamard:
    """W + scale * (A1 B1) * (A2 B2), by element."""

    first: tuple[torch.Tensor, torch.Tensor]
    second: tuple[torch.Tensor, torch.Tensor]
    scale: float

    def apply(self, value: Any, slack: Any, where: slice) -> tuple[Any, Any]:
        """See ``Update``."""
        (one, one_size), (other, other_size) = (_product(a[where], b) for a, b in (self.first, self.second))
        roundings = 2 * self.first[0].shape[1] + 4
        return _added(value, slack, self.scale * one * other, abs(self.scale) * one_size * other_size * roundings)


@dataclass(frozen=True)
class Kronecker:
    """W + scale * kron(C, E); ``roundings`` is how many went into each number of C and E."""

    left: torch.Tensor
    right: torch.Tensor
    sizes: tuple[torch.Tensor, torch.Tensor]  # of the products that C and E are: at least their absolutes
    scale: float
    roundings: int

    def apply(self, value: Any, slack: Any, where: slice) -> tuple[Any, Any]:
        """See ``Update``."""
        delta = self.scale * _kronecker_rows(self.left, self.right, where)
        size = abs(self.scale) * _kronecker_rows(*self.sizes, where)
        return _added(value, slack, delta, size * self.roundings)


@dataclass
class Decomposed:
    """Each row of W + s B A brought to its own length; of a transposed weight, each column.

    Attributes:
        inner: The low-rank update.
        magnitude: The lengths (out,), float64.
        transposed: The weight is (in, out).
        lengths: Of the columns before, where the weight is transposed; see ``measured``.
        lengths_slack: How far float32 may be from those.
    """

    inner: LowRank
    magnitude: torch.Tensor
    transposed: bool
    lengths: Any = None
    lengths_slack: Any = None

    def apply(self, value: Any, slack: Any, where: slice) -> tuple[Any, Any]:
        """See ``Update``."""
        moved, slack = self.inner.apply(value, slack, where)
        if self.transposed:
            lengths, lengths_slack, magnitude = self.lengths, self.lengths_slack, self.magnitude
        else:
            lengths = moved.norm(dim=1, keepdim=True)
            lengths_slack = slack.norm(dim=1, keepdim=True)
            magnitude = self.magnitude[where][:, None]
        lengths = lengths.clamp_min(1e-300)
        factors = magnitude / lengths
        made = factors * moved
        # Off by the row's own roundings, by those of its length, and by the last few of the quotient.
        return made, factors.abs() * slack + made.abs() * (lengths_slack / lengths + 4 * EPS32)


def applied(updates: Sequence[Update], value: Any, where: slice) -> tuple[Any, Any]:
    """Return rows of the weight after all updates, and how far float32 may be from them; see ``Update.apply``."""
    slack = EPS32 * value.abs()
    for update in updates:
        value, slack = update.apply(value, slack, where)
    return value, slack


def measured(updates: Sequence[Update], rows: Rows) -> None:
    """Take the lengths of columns that a transposed DoRA divides by: they go over all rows of the weight."""
    for number, update in enumerate(updates):
        if not isinstance(update, Decomposed) or not update.transposed:
            continue
        total: Any = 0.0
        total_slack: Any = 0.0
        for where, source in rows():
            before = applied(updates[:number], source.double(), where)
            moved, slack = update.inner.apply(*before, where)
            total = total + moved.square().sum(dim=0)
            total_slack = total_slack + slack.square().sum(dim=0)
        update.lengths, update.lengths_slack = total.sqrt(), total_slack.sqrt()


def largest(update: Update, shape: tuple[int, ...]) -> float:
    """Return the largest number that an update adds to a weight of a shape; of DoRA, its low-rank part."""
    import torch

    inner = update.inner if isinstance(update, Decomposed) else update
    found = 0.0
    for where in ranges(shape):
        zero = torch.zeros(where.stop - where.start, shape[1], dtype=torch.float64)
        found = max(found, float(inner.apply(zero, zero, where)[0].abs().max()))
    return found


def _product(left: Any, right: Any) -> tuple[Any, Any]:
    """Return rows of left @ right, and |left| |right|, which no partial sum of theirs exceeds."""
    return left @ right, left.norm(dim=1, keepdim=True) * right.norm(dim=0, keepdim=True)


def _added(value: Any, slack: Any, delta: Any, size: Any) -> tuple[Any, Any]:
    """Return the sum and its slack; ``size`` is that of the delta times the roundings that went into it."""
    made = value + delta
    return made, slack + EPS32 * (made.abs() + size)


def _kronecker_rows(left: Any, right: Any, where: slice) -> Any:
    """Return some rows of kron(left, right): row i is row i // c of left times row i mod c of right."""
    import torch

    index = torch.arange(where.start, where.stop)
    height = right.shape[0]
    rows = left[index // height][:, :, None] * right[index % height][:, None, :]
    return rows.reshape(len(index), -1)
