"""One quantized weight (N, K) as the tensors of another format: the same integers, laid out as its readers expect.

compressed-tensors packs along a row, the first code in the lowest bits: as we store it, so the bytes go over as
they are. GPTQ packs along a column. N: outputs, K: inputs, B = K / block; a word is 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from picual.models.quantized_weights import StoredWeight, unpacked

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Pieces = Iterable[bytes | memoryview]
ROWS_AT_ONCE = 1 << 22  # elements


@dataclass(frozen=True)
class Tensor:
    """One tensor to write; ``content`` makes its bytes when they are wanted."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: Callable[[], Pieces]


def as_floats(name: str, weight: StoredWeight) -> list[Tensor]:
    """Return the numbers that the integers stand for, in float32: narrower ones would lie off their grid."""
    height, width = weight.how.shape
    step = max(1, ROWS_AT_ONCE // width)

    def content() -> Pieces:
        for start in range(0, height, step):
            yield _raw(weight.rows(start, min(start + step, height)))

    return [Tensor(name, "F32", weight.how.shape, content)]


def as_compressed_tensors(name: str, weight: StoredWeight) -> list[Tensor]:
    """Return the packed codes, the scales, the shape and, unless symmetric, the packed zero points."""
    how, count = weight.how, weight.scales.shape[1]
    height, width = how.shape
    tensors = [
        Tensor(f"{name}_packed", "I32", (height, width * how.bits // 32), lambda: [_raw(weight.codes)]),
        Tensor(f"{name}_scale", "F32", (height, count), lambda: [_raw(weight.scales)]),
        Tensor(f"{name}_shape", "I64", (2,), lambda: [b"".join(n.to_bytes(8, "little") for n in how.shape)]),
    ]
    if not how.symmetric:
        shape = (-(-height * how.bits // 32), count)
        tensors.append(Tensor(f"{name}_zero_point", "I32", shape, lambda: [_raw(_zeros_down(weight))]))
    return tensors


def as_gptq(name: str, weight: StoredWeight, *, less: int) -> list[Tensor]:
    """Return ``qweight``, ``qzeros``, ``scales`` and ``g_idx``.

    Args:
        name: Of the weight.
        weight: What it holds.
        less: What is taken off every zero point: 1 in the format's first version, 0 in its second.
    """
    how, count = weight.how, weight.scales.shape[1]
    height, width = how.shape
    module = name.removesuffix("weight")
    words, zero_words = width * how.bits // 32, height * how.bits // 32
    return [
        Tensor(f"{module}qweight", "I32", (words, height), lambda: [_raw(_words(weight.codes).T)]),
        Tensor(f"{module}qzeros", "I32", (count, zero_words), lambda: [_raw(_zeros_across(weight, less))]),
        Tensor(f"{module}scales", "F16", (count, height), lambda: [_raw(halves(weight).T)]),
        Tensor(f"{module}g_idx", "I32", (width,), lambda: [_raw(_groups(width, how.block))]),
    ]


def halves(weight: StoredWeight) -> npt.NDArray[np.float16]:
    """Return the scales (N, B) rounded to float16; one that is too large becomes infinite."""
    import numpy as np

    with np.errstate(over="ignore", under="ignore"):
        return weight.scales.astype("<f2")


def zero_points(weight: StoredWeight) -> npt.NDArray[np.uint8]:
    """Return the zero points (N, B), those of a symmetric weight too."""
    import numpy as np

    if weight.zero_points is None:
        return np.full(weight.scales.shape, 2 ** (weight.how.bits - 1), np.uint8)
    return unpacked(weight.zero_points, weight.how.bits)[:, : weight.scales.shape[1]]


def _zeros_down(weight: StoredWeight) -> npt.NDArray[np.int32]:
    """Return the zero points (N * bits / 32, B): words that run down the columns, the last filled up."""
    import numpy as np

    share = 32 // weight.how.bits
    turned = zero_points(weight).T  # (B, N)
    spare = -turned.shape[1] % share
    return _packed(np.pad(turned, ((0, 0), (0, spare))), weight.how.bits).T


def _zeros_across(weight: StoredWeight, less: int) -> npt.NDArray[np.int32]:
    """Return the zero points (B, N * bits / 32), each less ``less``."""
    import numpy as np

    return _packed(zero_points(weight).T - np.uint8(less), weight.how.bits)


def _packed(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.int32]:
    """Pack (rows, n) to words (rows, n * bits / 32)."""
    import numpy as np

    from picual.numerics import blockwise

    return _words(np.ascontiguousarray(blockwise.pack(np.ascontiguousarray(codes), bits)))


def _words(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    return packed.view("<i4")


def _groups(width: int, block: int) -> npt.NDArray[np.int32]:
    import numpy as np

    return (np.arange(width) // block).astype("<i4")


def _raw(array: npt.NDArray[Any]) -> memoryview:
    import numpy as np

    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
