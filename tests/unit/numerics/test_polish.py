"""The polish: no sweep makes the output error larger, it mostly makes it smaller, and codes stay codes."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from picual.numerics import gptq, zero_points
from picual.numerics.grids import Grid, covering
from picual.numerics.hessian import damped
from picual.numerics.polish import polish

RANDOM = torch.Generator().manual_seed(4)
WIDTH, BLOCK, DAMPING = 160, 32, 0.001
WEIGHT = torch.randn(12, WIDTH, generator=RANDOM)


def correlated(samples: int = 400) -> torch.Tensor:
    mixing = torch.randn(WIDTH, WIDTH, generator=RANDOM) * torch.rand(WIDTH, generator=RANDOM) ** 2
    inputs = torch.randn(samples, WIDTH, generator=RANDOM) @ (mixing / WIDTH**0.5 + 0.3 * torch.eye(WIDTH))
    return inputs.T @ inputs / samples


HESSIAN = correlated()


def row_errors(weight: torch.Tensor, hessian: torch.Tensor, grid: Grid, codes: torch.Tensor) -> torch.Tensor:
    """Return d H d^T of each row (N,), H as the polish damps it."""
    error = (grid.values(codes) - weight).double()
    return ((error @ damped(hessian, DAMPING).double()) * error).sum(1)


@pytest.mark.parametrize("samples", [20, 400])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_no_sweep_makes_any_row_worse_and_the_first_makes_the_sum_better(
    bits: int, symmetric: bool, samples: int
) -> None:
    hessian = correlated(samples)
    grid = covering(WEIGHT, bits=bits, block=BLOCK, symmetric=symmetric)
    codes = grid.nearest(WEIGHT)
    errors = [row_errors(WEIGHT, hessian, grid, codes)]

    for sweeps in range(4):
        after, bettered = polish(WEIGHT, hessian, grid, codes, sweeps=sweeps, damping=DAMPING)
        errors.append(row_errors(WEIGHT, hessian, after, bettered))
        assert torch.equal(bettered, bettered.round().clamp(0, 2**bits - 1))
        assert torch.equal(after.zeros, grid.zeros)
        assert (after.scales * grid.scales > 0).all()

    for before, later in pairwise(errors):
        assert (later <= before * (1 + 1e-4)).all()
    assert errors[2].sum() < 0.7 * errors[0].sum()


def test_it_betters_what_gptq_left() -> None:
    grid = zero_points.fit(WEIGHT, bits=4, block=BLOCK, symmetric=False, importance=HESSIAN.diagonal())
    codes = gptq.round_columns(WEIGHT, HESSIAN, grid)

    after, bettered = polish(WEIGHT, HESSIAN, grid, codes, sweeps=2)

    before = row_errors(WEIGHT, HESSIAN, grid, codes).sum()
    assert row_errors(WEIGHT, HESSIAN, after, bettered).sum() < 0.97 * before


def test_at_the_end_no_single_code_can_be_bettered() -> None:
    grid = covering(WEIGHT, bits=4, block=BLOCK, symmetric=False)
    grid, codes = polish(WEIGHT, HESSIAN, grid, grid.nearest(WEIGHT), sweeps=40)
    least = row_errors(WEIGHT, HESSIAN, grid, codes)

    for column in range(0, WIDTH, 7):
        for step in (-1, 1):
            other = codes.clone()
            other[:, column] = (other[:, column] + step).clamp(0, 15)
            assert (row_errors(WEIGHT, HESSIAN, grid, other) >= least * (1 - 1e-3)).all()


def test_with_no_sweep_the_scale_of_a_single_block_is_that_of_least_squares() -> None:
    weight, hessian = WEIGHT[:, :BLOCK], HESSIAN[:BLOCK, :BLOCK]
    grid = covering(weight, bits=2, block=BLOCK, symmetric=False)
    codes = grid.nearest(weight)

    after, same = polish(weight, hessian, grid, codes, sweeps=0, damping=DAMPING)

    steps = (codes - grid.zeros).double()
    full = damped(hessian, DAMPING).double()
    best = ((steps @ full) * weight).sum(1) / ((steps @ full) * steps).sum(1)
    torch.testing.assert_close(after.scales[:, 0].double(), best, rtol=1e-4, atol=0)
    assert torch.equal(same, codes)


def test_scales_are_fitted_in_turn_where_two_blocks_read_the_same_inputs() -> None:
    grid = Grid(torch.ones(1, 2), torch.zeros(1, 2), 4, 4)
    weight, codes = torch.full((1, 8), 3.0), torch.full((1, 8), 2.0)
    twins = torch.full((8, 8), 1.0)  # every input is the same: either block could make up for both

    after, _ = polish(weight, twins, grid, codes, sweeps=0, damping=DAMPING)

    torch.testing.assert_close(after.scales, torch.tensor([[2.0, 1.0]]), rtol=2e-2, atol=0)


def test_a_scale_that_would_change_its_sign_stays() -> None:
    grid = Grid(torch.tensor([[1.0, -1.0]]), torch.full((1, 2), 8.0), 4, 4)
    weight, codes = torch.tensor([[-1.0] * 4 + [1.0] * 4]), torch.full((1, 8), 9.0)

    after, _ = polish(weight, torch.eye(8), grid, codes, sweeps=0)

    assert torch.equal(after.scales, grid.scales)


@pytest.mark.parametrize("symmetric", [False, True])
def test_blocks_without_a_step_off_zero_keep_a_scale_that_is_a_number(symmetric: bool) -> None:
    weight = WEIGHT.clone()
    weight[:, :BLOCK] = 0
    grid = covering(weight, bits=4, block=BLOCK, symmetric=symmetric)
    codes = grid.nearest(weight)
    codes[3] = grid.per_weight()[1][3]  # a whole row at its zeros

    after, bettered = polish(weight, HESSIAN, grid, codes, sweeps=3, damping=DAMPING)

    assert torch.isfinite(after.scales).all()
    assert (after.scales != 0).all()
    before = row_errors(weight, HESSIAN, grid, codes)
    assert (row_errors(weight, HESSIAN, after, bettered) <= before * (1 + 1e-4)).all()


def test_inputs_that_were_always_zero_go_to_the_nearest_code() -> None:
    dead = [1, 40, 64, 159]
    hessian = HESSIAN.clone()
    hessian[dead], hessian[:, dead] = 0, 0
    grid = covering(WEIGHT, bits=4, block=BLOCK, symmetric=False)

    grid, codes = polish(WEIGHT, hessian, grid, torch.zeros_like(WEIGHT), sweeps=20)

    off = (grid.values(codes) - WEIGHT)[:, dead].abs()
    every = torch.stack([grid.values(torch.full_like(WEIGHT, code)) - WEIGHT for code in range(16)])
    torch.testing.assert_close(off, every[:, :, dead].abs().amin(0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 12])
def test_a_second_run_gives_the_same_and_arguments_stay_as_they_were(rows: int) -> None:
    weight = WEIGHT[:rows].clone()
    grid = covering(weight, bits=4, block=BLOCK, symmetric=False)
    codes, scales = grid.nearest(weight), grid.scales.clone()
    start = codes.clone()

    runs = [polish(weight, HESSIAN, grid, codes, sweeps=2) for _ in range(2)]

    assert torch.equal(codes, start)
    assert torch.equal(grid.scales, scales)
    assert torch.equal(weight, WEIGHT[:rows])
    assert torch.equal(runs[0][1], runs[1][1])
    assert torch.equal(runs[0][0].scales, runs[1][0].scales)
