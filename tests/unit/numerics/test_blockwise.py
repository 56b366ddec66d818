"""Blocks of small integers: no weight moves by more than half a step, and bytes lie where the runtime reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from picual.numerics import block_sizes, blockwise
from picual.numerics.block_sizes import Bits

RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "mixed": RANDOM.normal(size=(5, 48)),
    "positive": RANDOM.uniform(1, 2, size=(5, 48)),
    "negative": RANDOM.uniform(-2, -1, size=(5, 48)),
    "zero": np.zeros((5, 48)),
    "balanced": np.where(RANDOM.random((5, 48)) < 0.5, 1.0, -1.0),
    "outlier": np.concatenate([RANDOM.normal(size=(5, 47)) * 1e-3, np.full((5, 1), 7.0)], axis=1),
    "denormal": RANDOM.normal(size=(5, 48)) * 1e-40,
    "one column": RANDOM.normal(size=(5, 1)),
}


@pytest.mark.parametrize("scale_type", [np.float32, np.float16])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_no_weight_moves_by_more_than_half_a_step(
    kind: str, block: int, bits: Bits, symmetric: bool, scale_type: type[Any]
) -> None:
    weight = WEIGHTS[kind].astype(np.float32)

    blocks = blockwise.quantize(weight, bits=bits, block=block, symmetric=symmetric, scale_type=scale_type)

    read = blockwise.dequantize(blocks.codes, blocks.scales, blocks.zero_points, bits=bits, width=weight.shape[1])
    half = np.repeat(np.abs(blocks.scales.astype(np.float32)), block, axis=1)[:, : weight.shape[1]] / 2
    assert (np.abs(read - weight) <= half * 1.001 + 1e-45).all()
    assert (blocks.codes < 2**bits).all()
    assert blocks.scales.dtype == scale_type


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_each_block_takes_the_scale_with_the_least_error(bits: Bits, symmetric: bool) -> None:
    rows = RANDOM.normal(size=(200, 1, 32)).astype(np.float32)
    low, high = np.minimum(rows.min(2), 0), np.maximum(rows.max(2), 0)
    half = 2 ** (bits - 1)
    longest = np.maximum(np.maximum(-low, high) / half, np.minimum(-low, high) / (half - 0.5))
    narrow = longest if symmetric else (high - low) / (2**bits - 1)
    errors = {}
    for count in (2**bits - 1, 2**bits - 2, 2**bits - 3) if bits == 4 else (255,):
        steps = narrow * (2**bits - 1) / count
        steps = steps * np.where(symmetric & (-low < high), -1, 1)
        zeros = np.full_like(steps, half) if symmetric else np.rint(-low / steps)
        codes = np.clip(np.rint(rows / steps[:, :, None] + zeros[:, :, None]), 0, 2**bits - 1)
        errors[count] = (((codes - zeros[:, :, None]) * steps[:, :, None] - rows) ** 2).sum(2)

    blocks = blockwise.quantize(rows[:, 0], bits=bits, block=32, symmetric=symmetric)

    read = blockwise.dequantize(blocks.codes, blocks.scales, blocks.zero_points, bits=bits, width=32)
    least = np.min(list(errors.values()), axis=0)[:, 0]
    np.testing.assert_allclose(((read - rows[:, 0]) ** 2).sum(1), least, rtol=1e-3)


def test_a_longer_negative_or_positive_side_reaches_its_end_exactly() -> None:
    weight = np.array([[-8.0, 3.0], [8.0, -3.0]], dtype=np.float32)

    blocks = blockwise.quantize(weight, bits=4, block=16, symmetric=True)

    read = blockwise.dequantize(blocks.codes, blocks.scales, None, bits=4, width=2)
    np.testing.assert_array_equal(read, weight)
    assert blocks.scales[0, 0] > 0 > blocks.scales[1, 0]


@pytest.mark.parametrize("symmetric", [False, True])
def test_padding_is_the_code_of_zero(symmetric: bool) -> None:
    weight = RANDOM.uniform(1, 2, size=(3, 40)).astype(np.float32)

    blocks = blockwise.quantize(weight, bits=4, block=32, symmetric=symmetric)

    zero = 8 if blocks.zero_points is None else blocks.zero_points[:, 1, None]
    assert (blocks.codes[:, 1, 8:] == zero).all()


def test_codes_are_packed_low_nibble_first() -> None:
    packed = blockwise.pack(np.array([[[1, 2, 15, 0]]], dtype=np.uint8), 4)

    assert packed.tolist() == [[[0x21, 0x0F]]]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("bits", [4, 8])
def test_packed_zero_points_come_back_whatever_their_number(bits: Bits, count: int) -> None:
    points = RANDOM.integers(0, 2**bits, (4, count)).astype(np.uint8)

    packed = blockwise.pack_zero_points(points, bits)

    assert packed.shape == (4, -(-count * bits // 8))
    np.testing.assert_array_equal(blockwise.unpack_zero_points(packed, bits, count), points)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_weight_that_is_no_number_is_refused(symmetric: bool, bad: float) -> None:
    weight = np.ones((2, 64), dtype=np.float32)
    weight[1, 40] = bad

    with pytest.raises(FloatingPointError, match="not finite"):
        blockwise.quantize(weight, bits=4, block=32, symmetric=symmetric)


def test_a_range_too_wide_for_half_precision_scales_is_refused() -> None:
    with pytest.raises(FloatingPointError, match="too large"):
        blockwise.quantize(
            np.full((1, 16), 3e6, np.float32), bits=4, block=16, symmetric=False, scale_type=np.float16
        )


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_forecast_of_bytes_is_exact(bits: Bits, symmetric: bool) -> None:
    blocks = blockwise.quantize(np.ones((3, 80), np.float32), bits=bits, block=32, symmetric=symmetric)

    stored = blockwise.pack(blocks.codes, bits).nbytes + blocks.scales.nbytes
    if blocks.zero_points is not None:
        stored += blockwise.pack_zero_points(blocks.zero_points, bits).nbytes
    assert stored == block_sizes.nbytes(3, 80, bits=bits, block=32, symmetric=symmetric)


def on_a_grid(update: float) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (64, 256) of a dequantized 4-bit file, and a rank-one update of that many steps."""
    random = np.random.default_rng(5)
    steps = random.uniform(0.5, 2, (64, 8, 1))
    levels = random.integers(0, 16, (64, 8, 32))
    levels[:, :, :2] = 0, 15  # both ends are used, as whoever made the file saw to
    grid = ((levels + random.uniform(-9, -6, (64, 8, 1))) * steps).reshape(64, 256)
    return grid + update * np.outer(random.choice([-1, 1], 64), random.choice([-1, 1], 256)), grid


@pytest.mark.parametrize("update", [0.02, 0.1])
def test_an_update_finer_than_the_grid_below_it_survives(update: float) -> None:
    weight, grid = on_a_grid(update)
    made = (weight - grid).astype(np.float32)

    blocks = blockwise.quantize(weight.astype(np.float32), bits=4, block=32, symmetric=False)
    base = blockwise.quantize(
        grid.astype(np.float32) + 1e-2 * RANDOM.normal(size=grid.shape).astype(np.float32),
        bits=4, block=32, symmetric=False,
    )  # fmt: skip

    kept = read_of(blocks) - read_of(base)  # what the update changed in the rounded weights
    share = float((kept * made).sum() / (made * made).sum())
    assert share == pytest.approx(1, abs=0.35)


def read_of(blocks: blockwise.Blocks) -> np.ndarray:
    return blockwise.dequantize(blocks.codes, blocks.scales, blocks.zero_points, bits=4, width=256)


@pytest.mark.parametrize(("weight", "found"), [
    (on_a_grid(0.03)[0], True), (on_a_grid(0.0)[0], False), (RANDOM.normal(size=(64, 256)), False),
    (np.zeros((64, 256)), False),
], ids=["updated grid", "grid", "no grid", "zeros"])  # fmt: skip
def test_a_grid_is_seen_where_there_is_one_with_an_update(weight: np.ndarray, found: bool) -> None:
    rows = weight.astype(np.float32).reshape(64, 8, 32)

    assert blockwise.is_finely_updated_grid(rows) is found
