"""What blocks of small integers weigh; see ``blockwise`` for what they mean. Plans ask here without numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Bits = Literal[2, 4, 8]


def blocks_in(width: int, block: int) -> int:
    """Return B, the blocks of a row of ``width`` inputs."""
    return -(-width // block)


def nbytes(height: int, width: int, *, bits: int, block: int, symmetric: bool, scale_bytes: int = 4) -> int:
    """Return the bytes of one stored matrix: codes, scales and zero points."""
    count = blocks_in(width, block)
    zeros = 0 if symmetric else -(-count * bits // 8)
    return height * (count * block * bits // 8 + count * scale_bytes + zeros)


def bytes_read(height: int, width: int, *, bits: int, block: int) -> int:
    """Return the bytes that a CPU kernel reads to multiply by a matrix once.

    It packs codes with a float32 scale and a float32 sum of each block, whatever the file holds.
    Source: ONNX Runtime, ``MlasQNBitGemm``'s packed layout for int8 activations.
    """
    count = blocks_in(width, block)
    return height * count * (block * bits // 8 + 8)


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a matrix is stored: see ``blockwise``."""

    bits: Bits
    block: int
    symmetric: bool

    def nbytes(self, height: int, width: int, *, scale_bytes: int = 4) -> int:
        """Return the bytes of one stored matrix (``height``, ``width``)."""
        return nbytes(
            height, width, bits=self.bits, block=self.block, symmetric=self.symmetric, scale_bytes=scale_bytes
        )

    def __str__(self) -> str:
        """Say it as the journal does."""
        return f"int{self.bits} block {self.block}{' symmetric' if self.symmetric else ''}"
