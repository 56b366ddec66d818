"""Weights as small integers: blocks of consecutive inputs that share one scale and one zero point.

A weight matrix is (N, K): N outputs, K inputs. Each row is cut into B = ceil(K / block) blocks; the last one
is filled up with zeros. With b bits, code q in 0 .. 2^b - 1 stands for scale * (q - zero_point).

Plain rounding to nearest: no weight moves by more than half a step, |scale| / 2. The formats are those of ONNX
Runtime's ``MatMulNBits``: codes packed low nibble first, zero points packed the same way along a row.

Cost: a handful of passes over the weights. No calibration data.
Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Bits = Literal[4, 8]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Blocks:
    """One matrix in blocks."""

    codes: Bytes  # (N, B, block)
    scales: npt.NDArray[Any]  # (N, B), float32 or float16, finite and never zero
    zero_points: Bytes | None  # (N, B); None: 2^(bits - 1) everywhere


def blocks_in(width: int, block: int) -> int:
    """Return B, the blocks of a row of ``width`` inputs."""
    return -(-width // block)


def quantize(
    weight: Floats, *, bits: Bits, block: int, symmetric: bool, scale_type: type[np.floating[Any]] = np.float32
) -> Blocks:
    """Round every weight to the nearest code of its block.

    Args:
        weight: (N, K), finite.
        bits: 4 or 8.
        block: Weights that share a scale.
        symmetric: No zero points: code 2^(bits - 1) is zero.
        scale_type: What the scales are stored as. Codes are chosen for the stored scale.

    Raises:
        FloatingPointError: A weight is not finite, or a block's range overflows the type of the scales.
    """
    rows = _in_blocks(weight, block)  # (N, B, block)
    low = np.minimum(rows.min(axis=2), 0)  # the range must hold 0 exactly: padding is 0
    high = np.maximum(rows.max(axis=2), 0)
    wide = _symmetric_scales(low, high, bits) if symmetric else (high - low) / np.float32(2**bits - 1)
    scales = _stored(wide, scale_type)
    if not np.isfinite(scales).all():
        raise FloatingPointError("a weight is not finite, or too large for its scale")
    steps = scales.astype(np.float32)
    middle = np.float32(2 ** (bits - 1))
    zeros = np.full_like(low, middle) if symmetric else np.rint(-low / steps)
    rounded = rows / steps[:, :, None]
    np.rint(rounded, out=rounded)
    rounded += zeros[:, :, None]
    np.clip(rounded, 0, 2**bits - 1, out=rounded)
    return Blocks(rounded.astype(np.uint8), scales, None if symmetric else zeros.astype(np.uint8))


def _in_blocks(weight: Floats, block: int) -> Floats:
    height, width = weight.shape
    count = blocks_in(width, block)
    if width != count * block:
        weight = np.pad(weight, ((0, 0), (0, count * block - width)))
    return weight.reshape(height, count, block)


def _symmetric_scales(low: Floats, high: Floats, bits: Bits) -> Floats:
    """Return scales whose sign puts the longer side on the 2^(bits-1) codes below the middle.

    The shorter side has one code less, and may reach half a step beyond it: that is still half a step off.
    """
    below = np.float32(2 ** (bits - 1))
    above = below - np.float32(0.5)
    negative_is_longer = -low >= high
    longer = np.where(negative_is_longer, -low, high)
    shorter = np.where(negative_is_longer, high, -low)
    size = np.maximum(longer / below, shorter / above)
    return np.where(negative_is_longer, size, -size).astype(np.float32)


def _stored(scales: Floats, kind: type[np.floating[Any]]) -> npt.NDArray[Any]:
    """Return the scales as ``kind``, away from zero: a step rounded down would leave the ends uncovered."""
    smallest = np.finfo(kind).tiny
    sign = np.where(np.signbit(scales), kind(-1), kind(1)).astype(kind)
    with np.errstate(over="ignore"):  # an overflow becomes inf, which the caller refuses
        size = np.abs(scales).astype(kind)
    short = size.astype(np.float32) < np.abs(scales)
    size = np.where(short, np.nextafter(size, kind(np.inf)), size)
    return np.where(size < smallest, smallest, size).astype(kind) * sign


def pack(codes: Bytes, bits: Bits) -> Bytes:
    """Pack codes (..., n) to bytes (..., n * bits / 8), low nibble first; n must be even."""
    if bits == 8:
        return codes
    packed: Bytes = codes[..., 0::2] | (codes[..., 1::2] << np.uint8(4))
    return packed


def unpack(packed: Bytes, bits: Bits) -> Bytes:
    """Return the codes (..., n) in bytes (..., n * bits / 8)."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def pack_zero_points(zero_points: Bytes, bits: Bits) -> Bytes:
    """Pack zero points (N, B) to (N, ceil(B * bits / 8)); the spare nibble of an odd row is 0."""
    if bits == 4 and zero_points.shape[1] % 2:
        zero_points = np.pad(zero_points, ((0, 0), (0, 1)))
    return pack(zero_points, bits)


def unpack_zero_points(packed: Bytes, bits: Bits, count: int) -> Bytes:
    """Return the zero points (N, ``count``)."""
    return unpack(packed, bits)[:, :count]


def dequantize(
    codes: Bytes, scales: npt.NDArray[Any], zero_points: Bytes | None, *, bits: Bits, width: int
) -> Floats:
    """Return the weights (N, ``width``) that the codes (N, B, block) stand for, padding cut off."""
    zeros: Any = np.float32(2 ** (bits - 1))
    if zero_points is not None:
        zeros = zero_points[:, :, None].astype(np.float32)
    values = (codes.astype(np.float32) - zeros) * scales.astype(np.float32)[:, :, None]
    flat: Floats = values.reshape(len(codes), -1)[:, :width]
    return flat


def nbytes(height: int, width: int, *, bits: Bits, block: int, symmetric: bool, scale_bytes: int = 4) -> int:
    """Return the bytes of one stored matrix: codes, scales and zero points."""
    count = blocks_in(width, block)
    zeros = 0 if symmetric else -(-count * bits // 8)
    return height * (count * block * bits // 8 + count * scale_bytes + zeros)
