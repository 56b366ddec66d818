"""Safetensors files without any library: their headers, and files written tensor by tensor.

A header says names, shapes and where the bytes lie. A writer holds no more than one tensor.

Source: the safetensors format, https://github.com/huggingface/safetensors#format: eight bytes with the
header's length (little endian), the header as JSON, then the tensors.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from picual.errors import UnreadableModel

BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """One tensor in one file: ``nbytes`` bytes from ``offset`` of ``file``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Return the tensors of one file by name.

    Raises:
        UnreadableModel: The header is not one, or the file is shorter than it says.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size:
                raise ValueError(f"its header claims {length} bytes")
            header = json.loads(stream.read(length))
        start = 8 + length
        tensors = {
            name: _info(name, entry, file, start) for name, entry in header.items() if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, struct.error, UnicodeDecodeError) as error:
        raise UnreadableModel(
            f"`{file.name}` is not a safetensors file ({error})",
            where=str(file),
            hint="fetch the model again",
        ) from error
    needed = max((tensor.offset + tensor.nbytes for tensor in tensors.values()), default=0)
    if needed > size:
        raise UnreadableModel(
            f"`{file.name}` is cut short: {size} bytes of {needed}",
            where=str(file),
            hint="fetch the model again",
        )
    return tensors


def _info(name: str, entry: dict[str, Any], file: Path, start: int) -> TensorInfo:
    first, last = (int(offset) for offset in entry["data_offsets"])
    dtype = str(entry["dtype"])
    shape = tuple(int(size) for size in entry["shape"])
    tensor = TensorInfo(name, dtype, shape, file, start + first, last - first)
    if tensor.nbytes != tensor.count * BYTES[dtype]:
        raise ValueError(f"`{name}` has {tensor.nbytes} bytes for shape {shape}")
    return tensor


class SafetensorsWriter:
    """Writes one file, its header first: sizes are known before any tensor is.

    Use it as a context manager and ``append`` every declared tensor in the order of ``names``. The same
    tensors give the same bytes.

    Args:
        file: Where to write.
        tensors: Name, dtype as in ``BYTES`` and shape of each tensor, in any order.
    """

    def __init__(self, file: Path, tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> None:
        # Widest elements first, as the format's own library does: then every tensor lies aligned.
        declared = sorted(tensors, key=lambda tensor: (-BYTES[tensor[1]], tensor[0]))
        self.names = [name for name, _, _ in declared]
        self._file = file
        self._sizes = {name: BYTES[dtype] * math.prod(shape) for name, dtype, shape in declared}
        self._header = _header(declared)
        self._waiting = iter(self.names)

    def __enter__(self) -> SafetensorsWriter:
        """Open the file and write the header."""
        self._stream = self._file.open("wb")
        self._stream.write(self._header)
        return self

    def append(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Write the bytes of the next tensor, little endian, in as many pieces as suits.

        Raises:
            ValueError: It is not this tensor's turn, or the bytes are not as many as declared.
        """
        expected = next(self._waiting, None)
        if name != expected:
            raise ValueError(f"`{name}` was given, `{expected}` is next")
        written = sum(self._stream.write(piece) for piece in pieces)
        if written != self._sizes[name]:
            raise ValueError(f"`{name}` has {written} bytes, {self._sizes[name]} were declared")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; a tensor that never came is an error."""
        self._stream.close()
        missing = next(self._waiting, None)
        if error is None and missing is not None:
            raise ValueError(f"`{missing}` was declared and never written")


def _header(declared: Iterable[tuple[str, str, tuple[int, ...]]]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in declared:
        size = BYTES[dtype] * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors start aligned to eight bytes
    return struct.pack("<Q", len(text)) + text


def read_pieces(tensor: TensorInfo, piece: int = 1 << 24) -> Iterable[bytes]:
    """Yield the raw bytes of a tensor, ``piece`` bytes at a time."""
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.offset)
        left = tensor.nbytes
        while left:
            chunk = stream.read(min(piece, left))
            if not chunk:
                raise UnreadableModel(
                    f"`{tensor.file.name}` is cut short in `{tensor.name}`",
                    where=str(tensor.file),
                    hint="fetch the model again",
                )
            left -= len(chunk)
            yield chunk
