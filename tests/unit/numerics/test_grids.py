"""Grids: every weight has a code within half a step, whatever the block holds, and codes mean what they say."""

from __future__ import annotations

import pytest
import torch

from picual.numerics.grids import SMALLEST, Grid, away_from_zero, covering

RANDOM = torch.Generator().manual_seed(0)
WIDTH = 256


def drawn(low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    return torch.rand(5, WIDTH, generator=RANDOM) * (high - low) + low


def with_one(number: float) -> torch.Tensor:
    weight = drawn(-1e-3, 1e-3)
    weight[:, 37] = number
    return weight


WEIGHTS = {
    "mixed": drawn(),
    "positive": drawn(1.0, 2.0),
    "negative": drawn(-2.0, -1.0),
    "zero": torch.zeros(5, WIDTH),
    "constant": torch.full((5, WIDTH), 0.3),
    "negative constant": torch.full((5, WIDTH), -0.3),
    "balanced": torch.where(drawn() < 0, -1.0, 1.0),
    "large outlier": with_one(1e4),
    "large negative outlier": with_one(-1e4),
    "tiny": drawn() * 1e-36,
}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_covering_grid_has_every_weight_within_half_a_step(
    kind: str, bits: int, block: int, symmetric: bool
) -> None:
    weight = WEIGHTS[kind]

    grid = covering(weight, bits=bits, block=block, symmetric=symmetric)

    codes = grid.nearest(weight)
    half = grid.scales.abs().repeat_interleave(block, 1) / 2
    assert ((grid.values(codes) - weight).abs() <= half * 1.001 + SMALLEST).all()
    assert grid.scales.shape == grid.zeros.shape == (5, WIDTH // block)
    for whole in (codes, grid.zeros):
        assert torch.equal(whole, whole.round())
        assert whole.min() >= 0
        assert whole.max() <= 2**bits - 1
    if symmetric:
        assert (grid.zeros == 2 ** (bits - 1)).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["mixed", "positive", "negative", "large outlier"])
def test_a_covering_grid_is_no_wider_than_it_must_be(kind: str, bits: int, symmetric: bool) -> None:
    weight = WEIGHTS[kind]
    grid = covering(weight, bits=bits, block=WIDTH, symmetric=symmetric)

    if symmetric:  # a step of 0.7 would leave an end more than half a step outside
        narrow = Grid(grid.scales * 0.7, grid.zeros, bits, WIDTH)
        off = (narrow.values(narrow.nearest(weight)) - weight).abs().amax(1)
        assert (off > narrow.scales[:, 0].abs() / 2).all()
    else:
        span = weight.amax(1).clamp(min=0) - weight.amin(1).clamp(max=0)
        torch.testing.assert_close(span / grid.scales[:, 0], torch.full((5,), 2.0**bits - 1))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zeros_stay_zeros(bits: int, symmetric: bool) -> None:
    weight = drawn()
    weight[:, ::3] = 0

    grid = covering(weight, bits=bits, block=32, symmetric=symmetric)

    assert (grid.values(grid.nearest(weight))[:, ::3] == 0).all()


def test_the_longer_side_of_a_symmetric_block_is_reached_exactly() -> None:
    weight = torch.tensor([[-8.0, 3.0], [8.0, -3.0]])

    grid = covering(weight, bits=4, block=2, symmetric=True)

    torch.testing.assert_close(grid.values(grid.nearest(weight)), weight, rtol=0, atol=0)
    assert grid.scales[0, 0] > 0 > grid.scales[1, 0]


@pytest.mark.parametrize("bits", [2, 4])
def test_the_nearest_code_is_the_nearest_of_all(bits: int) -> None:
    weight = drawn() * 2
    grid = covering(weight / 2.5, bits=bits, block=64, symmetric=False)  # some weights lie beyond its ends

    codes = grid.nearest(weight)

    every = torch.stack([grid.values(torch.full_like(weight, code)) for code in range(2**bits)])
    least = (every - weight).abs().amin(0)
    torch.testing.assert_close((grid.values(codes) - weight).abs(), least)


def test_codes_of_values_come_back_and_nothing_is_changed_in_place() -> None:
    scales = drawn(0.5, 2.0)[:, :8] * torch.tensor([1.0, -1.0]).repeat(4)
    grid = Grid(scales, torch.randint(0, 16, (5, 8), generator=RANDOM).float(), 4, 32)
    codes = torch.randint(0, 16, (5, WIDTH), generator=RANDOM).float()
    before = codes.clone()

    values = grid.values(codes)
    copied = values.clone()

    assert torch.equal(grid.nearest(values), codes)
    assert torch.equal(codes, before)
    assert torch.equal(values, copied)


def test_no_scale_is_zero_and_signs_stay() -> None:
    made = away_from_zero(torch.tensor([0.0, -0.0, -1e-45, 1e-45, -2.0, 3.0]))

    assert made.tolist() == [SMALLEST, SMALLEST, -SMALLEST, SMALLEST, -2.0, 3.0]
