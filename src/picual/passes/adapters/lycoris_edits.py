"""Edits of LoHa and LoKr adapters, read from their headers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from picual.numerics import lycoris
from picual.passes.adapters.reading import Reading
from picual.passes.rewriting import read

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Hadamard:
    """W += scale * (A1 B1) * (A2 B2), the factors under four names of one file."""

    file: Path
    first: tuple[str, str]
    second: tuple[str, str]
    rank: int
    scale: float

    def __str__(self) -> str:
        """Say it as the journal does."""
        return f"LoHa, rank {self.rank}, scale {self.scale:g}"

    def delta(self) -> torch.Tensor:
        """Return what is added to the weight, float32."""
        a1, b1, a2, b2 = (read(self.file, name) for name in (*self.first, *self.second))
        return lycoris.hadamard_delta((a1, b1), (a2, b2), self.scale)


@dataclass(frozen=True)
class Kronecker:
    """W += scale * kron(C, E), each given whole or as two factors."""

    file: Path
    left: tuple[str, ...]
    right: tuple[str, ...]
    rank: int
    scale: float

    def __str__(self) -> str:
        """Say it as the journal does."""
        return f"LoKr, rank {self.rank}, scale {self.scale:g}"

    def delta(self) -> torch.Tensor:
        """Return what is added to the weight, float32."""
        left, right = (
            lycoris.composed(tuple(read(self.file, name) for name in names)) for names in (self.left, self.right)
        )
        return lycoris.kronecker_delta(left, right, self.scale)


def hadamard_of(reading: Reading, prefix: str, module: str) -> Hadamard:
    """Return the edit of a module's LoHa.

    Args:
        reading: Of the adapter.
        prefix: Of the names of its factors, with the dot.
        module: That it changes.

    Raises:
        Refused: A factor is missing, or of another shape.
    """
    a1, b1, a2, b2 = names = [f"{prefix}hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b")]
    for name in names:
        if name not in reading.tensors:
            raise reading.lacks(name, next(one for one in names if one in reading.tensors))
    rank, shape = reading.rank(module), reading.known[f"{module}.weight"].shape
    fits = len(shape) == 2 and all(
        reading.shape(a) == (shape[0], rank) and reading.shape(b) == (rank, shape[1])
        for a, b in ((a1, b1), (a2, b2))
    )
    reading.check_shapes(f"{module}.weight", fits, names)
    scale = reading.weight * reading.alpha(module) / rank
    return Hadamard(reading.file, (a1, b1), (a2, b2), rank, scale)


def kronecker_of(reading: Reading, prefix: str, module: str) -> Kronecker:
    """Return the edit of a module's LoKr; arguments and errors as of ``hadamard_of``."""
    left, right = (_factors(reading, f"{prefix}lokr_{part}") for part in ("w1", "w2"))
    rank, shape = reading.rank(module), reading.known[f"{module}.weight"].shape
    (rows, columns), (inner_rows, inner_columns) = (_shape(reading, names, rank) for names in (left, right))
    fits = shape == (rows * inner_rows, columns * inner_columns)
    reading.check_shapes(f"{module}.weight", fits, [*left, *right])
    scale = reading.weight * reading.alpha(module) / rank
    return Kronecker(reading.file, left, right, rank, scale)


def _factors(reading: Reading, name: str) -> tuple[str, ...]:
    """Return the name of a matrix, or those of its two factors."""
    if name in reading.tensors:
        return (name,)
    both = f"{name}_a", f"{name}_b"
    for one in both:
        if one not in reading.tensors:
            raise reading.lacks(one, next(own for own in reading.tensors if own.startswith(name[:-2])))
    return both


def _shape(reading: Reading, names: tuple[str, ...], rank: int) -> tuple[int, int]:
    """Return the shape of a matrix, given whole or in factors; (0, 0) where they do not go together."""
    shapes = [reading.shape(name) for name in names]
    if any(len(shape) != 2 for shape in shapes):
        return 0, 0
    if len(shapes) == 2 and not shapes[0][1] == shapes[1][0] == rank:
        return 0, 0
    return shapes[0][0], shapes[-1][1]
