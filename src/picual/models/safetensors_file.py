"""Headers of safetensors files, read without any library: names, shapes, where the bytes lie.

Source: the safetensors format, https://github.com/huggingface/safetensors#format: eight bytes with the
header's length (little endian), the header as JSON, then the tensors.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
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
