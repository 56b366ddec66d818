"""GPTQ: the codes are those of the plain algorithm, in every order, and the layer's output changes less for it."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from picual.numerics import gptq
from picual.numerics.gptq import Order
from picual.numerics.grids import Grid, covering
from picual.numerics.hessian import damped

RANDOM = torch.Generator().manual_seed(3)
WIDTH, BLOCK = 160, 32  # two and a half of the blocks of columns that are updated lazily
ORDERS: tuple[Order, ...] = get_args(Order)
WEIGHT = torch.randn(12, WIDTH, generator=RANDOM)


def correlated(samples: int = 400) -> torch.Tensor:
    mixing = torch.randn(WIDTH, WIDTH, generator=RANDOM) * torch.rand(WIDTH, generator=RANDOM) ** 2
    inputs = torch.randn(samples, WIDTH, generator=RANDOM) @ (mixing / WIDTH**0.5 + 0.3 * torch.eye(WIDTH))
    return inputs.T @ inputs / samples


HESSIAN = correlated()


def output_error(weight: torch.Tensor, hessian: torch.Tensor, grid: Grid, codes: torch.Tensor) -> float:
    error = (grid.values(codes) - weight).double()
    return float(torch.trace(error @ hessian.double() @ error.T))


def textbook(
    weight: torch.Tensor, hessian: torch.Tensor, grid: Grid, turn: list[int], damping: float
) -> torch.Tensor:
    """Round one column after the other by optimal brain surgery, H^-1 shrunk by Gauss elimination: no Cholesky."""
    scales, zeros = (part.double() for part in grid.per_weight())
    left, inverse = weight.double().clone(), torch.linalg.inv(damped(hessian, damping).double())
    codes = torch.empty_like(left)
    for column in turn:
        code = (left[:, column] / scales[:, column] + zeros[:, column]).round().clamp(0, grid.top)
        codes[:, column] = code
        error = (left[:, column] - (code - zeros[:, column]) * scales[:, column]) / inverse[column, column]
        left -= torch.outer(error, inverse[column])
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column].clone()
    return codes


def turns(diagonal: list[float], order: Order) -> list[int]:
    columns = range(len(diagonal))
    if order == "given":
        return list(columns)
    if order == "activation":
        return sorted(columns, key=lambda column: -diagonal[column])
    largest = {first: max(diagonal[first : first + BLOCK]) for first in columns[::BLOCK]}
    return sorted(columns, key=lambda column: (-largest[column - column % BLOCK], -diagonal[column]))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_are_those_of_the_plain_algorithm(bits: int, order: Order) -> None:
    grid = covering(WEIGHT, bits=bits, block=BLOCK, symmetric=False)

    codes = gptq.round_columns(WEIGHT, HESSIAN, grid, order=order, damping=0.01)

    turn = turns(HESSIAN.diagonal().tolist(), order)
    assert gptq.ordered(HESSIAN.diagonal(), BLOCK, order).tolist() == turn
    expected = textbook(WEIGHT, HESSIAN, grid, turn, 0.01)
    # A tie broken the other way in float32 changes the columns after it in its row.
    assert (codes == expected).double().mean() > 0.98
    errors = [output_error(WEIGHT, HESSIAN, grid, each.float()) for each in (codes, expected)]
    assert errors[0] == pytest.approx(errors[1], rel=0.02)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4])
def test_the_output_changes_less_than_by_rounding_to_nearest(bits: int, symmetric: bool, order: Order) -> None:
    grid = covering(WEIGHT, bits=bits, block=BLOCK, symmetric=symmetric)

    codes = gptq.round_columns(WEIGHT, HESSIAN, grid, order=order)

    nearest = output_error(WEIGHT, HESSIAN, grid, grid.nearest(WEIGHT))
    assert output_error(WEIGHT, HESSIAN, grid, codes) < 0.8 * nearest
    assert torch.equal(codes, codes.round().clamp(0, 2**bits - 1))


@pytest.mark.parametrize("order", ORDERS)
def test_with_uncorrelated_inputs_it_rounds_to_nearest(order: Order) -> None:
    grid = covering(WEIGHT, bits=4, block=BLOCK, symmetric=False)
    hessian = torch.diag(torch.rand(WIDTH, generator=RANDOM) + 0.1)

    for each in (torch.eye(WIDTH), hessian):
        assert torch.equal(gptq.round_columns(WEIGHT, each, grid, order=order), grid.nearest(WEIGHT))


@pytest.mark.parametrize("order", ORDERS)
def test_a_matrix_on_its_grid_stays_there(order: Order) -> None:
    grid = covering(WEIGHT, bits=4, block=BLOCK, symmetric=False)
    codes = torch.randint(0, 16, WEIGHT.shape, generator=RANDOM).float()

    assert torch.equal(gptq.round_columns(grid.values(codes), HESSIAN, grid, order=order), codes)


@pytest.mark.parametrize("order", ORDERS)
def test_inputs_that_were_always_zero_are_rounded_to_nearest_and_disturb_no_other(order: Order) -> None:
    dead = [0, 33, 63, 64, 159]
    hessian = HESSIAN.clone()
    hessian[dead], hessian[:, dead] = 0, 0
    grid = covering(WEIGHT, bits=4, block=BLOCK, symmetric=False)

    codes = gptq.round_columns(WEIGHT, hessian, grid, order=order)

    changed = WEIGHT.clone()
    changed[:, dead] = 0
    others = [column for column in range(WIDTH) if column not in dead]
    assert torch.equal(codes[:, dead], grid.nearest(WEIGHT)[:, dead])
    assert torch.equal(codes[:, others], gptq.round_columns(changed, hessian, grid, order=order)[:, others])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("samples", [1, 20])
def test_fewer_samples_than_columns_still_better_the_output(samples: int, order: Order) -> None:
    hessian = correlated(samples)
    grid = covering(WEIGHT, bits=4, block=BLOCK, symmetric=False)

    codes = gptq.round_columns(WEIGHT, hessian, grid, order=order)

    assert torch.isfinite(codes).all()
    nearest = output_error(WEIGHT, hessian, grid, grid.nearest(WEIGHT))
    assert output_error(WEIGHT, hessian, grid, codes) < 0.5 * nearest


def test_no_inputs_at_all_mean_rounding_to_nearest() -> None:
    grid = covering(WEIGHT, bits=4, block=BLOCK, symmetric=False)

    assert torch.equal(gptq.round_columns(WEIGHT, torch.zeros(WIDTH, WIDTH), grid), grid.nearest(WEIGHT))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_moments_that_are_no_numbers_are_refused(bad: float, order: Order) -> None:
    hessian = HESSIAN.clone()
    hessian[3, 3] = bad

    with pytest.raises(FloatingPointError, match="not finite"):
        gptq.round_columns(WEIGHT, hessian, covering(WEIGHT, bits=4, block=BLOCK, symmetric=False), order=order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rows", [1, 12])
def test_a_second_run_gives_the_same_and_arguments_stay_as_they_were(rows: int, order: Order) -> None:
    weight = WEIGHT[:rows].clone()
    grid = covering(weight, bits=4, block=BLOCK, symmetric=False)

    first, second = (gptq.round_columns(weight, HESSIAN, grid, order=order) for _ in range(2))

    assert torch.equal(first, second)
    assert torch.equal(weight, WEIGHT[:rows])
    assert first.is_contiguous()
