"""The checkpoint an export was made from, seen through the names that the exported file uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from picual.engine.verification import tensors as stored
from picual.engine.verification.exported import Blocks, Exported, Holder, Matrix
from picual.models import HfCheckpoint, QuantizedHfModel
from picual.models.layout import TensorSlice, slices_of
from picual.models.quantized import DTYPE
from picual.models.quantized_weights import StoredWeight, open_weight

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ELEMENTS = 1 << 19  # in one piece: fits a processor's cache, and bounds the memory


@dataclass(frozen=True)
class Placed:
    """Some rows of an exported matrix and the rows of the checkpoint's tensor that they come from."""

    name: str  # as the exported file says it
    matrix: Matrix  # the exported one
    start: int  # first row there
    source: TensorSlice

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.source.stop - self.source.start

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield row ranges, counted from the first of these rows, small enough to work on."""
        step = max(1, ELEMENTS // max(self.matrix.width, 1))
        for start in range(0, self.height, step):
            yield start, min(start + step, self.height)


class Source:
    """Where each exported row should come from."""

    def __init__(self, model: HfCheckpoint) -> None:
        self.model = model
        self.tensors = model.tensors()
        self.config: dict[str, Any] = model.config()

    def slices(self, name: str) -> list[TensorSlice]:
        """Return where a weight lies in the checkpoint; empty when nowhere."""
        return slices_of(name, self.tensors, self.config)

    def placed(self, holder: Holder) -> list[Placed]:
        """Return the rows of one exported matrix with their sources; empty when shapes do not agree."""
        parts = [(name, part) for name in holder.names for part in self.slices(name)]
        shapes = [self.tensors[part.name].shape for _, part in parts]
        if not parts or any(not self.slices(name) for name in holder.names) or any(len(s) != 2 for s in shapes):
            return []
        matrix = _without_filling(holder.matrix, shapes[0][1])
        found, row = [], 0
        for name, part in parts:
            found.append(Placed(name, matrix, row, part))
            row += part.stop - part.start
        fits = row == matrix.height and all(width == matrix.width for _, width in shapes)
        return found if fits else []

    def vector_parts(self, name: str, exported: Exported) -> list[tuple[str, TensorSlice]]:
        """Return under which names a norm or bias is exported: that of a fused layer goes by its parts."""
        if exported.vector(name) is None and ".qkv_proj." in name:
            parts = [name.replace(".qkv_proj.", f".{part}.") for part in ("q_proj", "k_proj", "v_proj")]
            found = [(part, piece) for part in parts for piece in self.slices(part)]
            if len(found) == len(parts):
                return found
        return [(name, piece) for piece in self.slices(name)]

    def integers(self, name: str) -> StoredWeight | None:
        """Return a weight that the checkpoint stores as integers; None for floats."""
        if not isinstance(self.model, QuantizedHfModel) or self.tensors[name].dtype != DTYPE:
            return None
        return open_weight(self.model, name)

    def rows(self, part: TensorSlice, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return rows of a slice as float32, counted from its first."""
        weight = self.integers(part.name)
        if weight is not None:
            return weight.rows(part.start + start, part.start + stop)
        wanted = slice(part.start + start, part.start + stop)
        (piece,) = stored.rows(self.tensors[part.name].file, part.name, iter([wanted]))
        array: npt.NDArray[np.float32] = piece.float().numpy()
        return array


def _without_filling(matrix: Matrix, width: int) -> Matrix:
    """Return the matrix at its source's width: a look-up stores whole blocks and does not say where they end."""
    if isinstance(matrix, Blocks) and matrix.width == -(-width // matrix.block) * matrix.block:
        return replace(matrix, width=width)
    return matrix
