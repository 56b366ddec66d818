"""Weights beside the graph: one file, laid out first, filled piece by piece, never in memory whole.

Sizes follow from shapes, so every tensor has its place before any weight is read. The graph refers to places
only; no weight passes through a protobuf. Two tensors of different shape can be the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register


class DataFile:
    """The layout of one data file, and its content once it is opened for filling.

    Args:
        location: Name of the file, as the graph refers to it.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self.size = 0
        self.spans: dict[str, tuple[int, int]] = {}  # name: offset, bytes
        self.aliases: dict[str, str] = {}  # name: whose bytes it shares

    def reserve(self, name: str, dtype: ir.DataType, shape: Sequence[int]) -> ir.ExternalTensor:
        """Give a tensor the next free place."""
        offset = -(-self.size // ALIGNMENT) * ALIGNMENT
        tensor = self._tensor(name, dtype, shape, offset)
        self.size = offset + tensor.nbytes
        self.spans[name] = (offset, tensor.nbytes)
        return tensor

    def same_bytes(self, name: str, other: str, dtype: ir.DataType, shape: Sequence[int]) -> ir.ExternalTensor:
        """Return a tensor of another name and shape in the place of ``other``."""
        offset, length = self.spans[other]
        tensor = self._tensor(name, dtype, shape, offset)
        if tensor.nbytes != length:
            raise ValueError(f"`{name}` has {tensor.nbytes} bytes and `{other}` has {length}")
        self.aliases[name] = other
        return tensor

    def holds(self, name: str) -> bool:
        """Say whether a tensor of that name has its place here."""
        return name in self.spans or name in self.aliases

    def _tensor(self, name: str, dtype: ir.DataType, shape: Sequence[int], offset: int) -> ir.ExternalTensor:
        import math

        import onnx_ir as ir

        length = math.prod(shape) * dtype.bitwidth // 8
        return ir.ExternalTensor(self.location, offset, length, dtype, shape=ir.Shape(shape), name=name)

    def open(self, path: Path) -> OpenDataFile:
        """Open ``path`` for filling; what a file of this size holds already is kept."""
        return OpenDataFile(path, self)


class OpenDataFile:
    """A data file being filled. Use it as a context manager."""

    def __init__(self, path: Path, layout: DataFile) -> None:
        self._path = path
        self._layout = layout

    def __enter__(self) -> OpenDataFile:
        """Open the file at its final size; gaps between tensors are zeros."""
        if not self._path.exists() or self._path.stat().st_size != self._layout.size:
            self._path.write_bytes(b"")
        self._stream = self._path.open("r+b")
        self._stream.truncate(self._layout.size)
        return self

    def write(self, name: str, start: int, array: npt.NDArray[np.generic]) -> int:
        """Write ``array`` ``start`` bytes into a tensor's place and return where the next piece starts.

        Raises:
            ValueError: The piece does not fit there.
        """
        import numpy as np

        offset, length = self._layout.spans[name]
        piece = np.ascontiguousarray(array)
        if start + piece.nbytes > length:
            raise ValueError(f"{piece.nbytes} bytes at {start} do not fit the {length} of `{name}`")
        self._stream.seek(offset + start)
        self._stream.write(piece.reshape(-1).view(np.uint8).data)
        return start + piece.nbytes

    def sync(self) -> None:
        """Bring what was written to the disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def __exit__(self, *_: Any) -> None:
        """Close the file."""
        self._stream.close()
