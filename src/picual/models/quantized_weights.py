"""The weights of a quantized checkpoint, read from mapped files: integers as they lie there, and what they mean.

A code of b bits: the first of a byte is in its lowest bits. w = scale * (code - zero point); without stored
zero points it is 2^(b - 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from picual.models.quantized import CODES, SCALES, ZERO_POINTS, QuantizedHfModel, Stored
from picual.models.safetensors_file import TensorInfo

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class StoredWeight:
    """One weight (N, K) in blocks; the arrays are mapped, and cost memory only where they are read.

    Attributes:
        how: Bits, block and shape.
        codes: (N, B * block * bits / 8) bytes.
        scales: (N, B) float32.
        zero_points: (N, ceil(B * bits / 8)) bytes, or None.
    """

    how: Stored
    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.uint8] | None

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return rows as float32 (stop - start, K)."""
        import numpy as np

        how, count = self.how, self.scales.shape[1]
        values = unpacked(self.codes[start:stop], how.bits).reshape(stop - start, count, how.block)
        centred = values.astype(np.float32)
        if self.zero_points is None:
            centred -= np.float32(2 ** (how.bits - 1))
        else:
            centred -= unpacked(self.zero_points[start:stop], how.bits)[:, :count, None].astype(np.float32)
        centred *= self.scales[start:stop, :, None]
        flat: npt.NDArray[np.float32] = centred.reshape(stop - start, -1)[:, : how.shape[1]]
        return flat


def open_weight(model: QuantizedHfModel, name: str) -> StoredWeight:
    """Return one quantized weight of a checkpoint."""
    return weight_among(model.parts(), name, model.stored()[name])


def weight_among(parts: Mapping[str, TensorInfo], name: str, how: Stored) -> StoredWeight:
    """Return one quantized weight whose parts are among these tensors."""
    import numpy as np

    def mapped(kind: str, dtype: str) -> npt.NDArray[Any]:
        info = parts[f"{name}.{kind}"]
        return np.memmap(info.file, dtype, "r", info.offset, info.shape)

    zeros = None if how.symmetric else mapped(ZERO_POINTS, "u1")
    return StoredWeight(how, mapped(CODES, "u1"), mapped(SCALES, "<f4"), zeros)


def unpacked(packed: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Return the codes (rows, n) in bytes (rows, n * bits / 8)."""
    import numpy as np

    if bits == 8:
        return packed
    mask = np.uint8(2**bits - 1)
    parts = [packed >> np.uint8(place * bits) & mask for place in range(8 // bits)]
    return np.stack(parts, axis=-1).reshape(packed.shape[0], -1)
