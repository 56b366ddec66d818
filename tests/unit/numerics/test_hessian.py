"""Second moments: what they add up to, how damping makes them invertible, and the factor of the inverse."""

from __future__ import annotations

import pytest
import torch

from picual.numerics.hessian import Moments, damped, inverse_factor

RANDOM = torch.Generator().manual_seed(2)
INPUTS = torch.randn(50, 24, generator=RANDOM) @ torch.randn(24, 24, generator=RANDOM)


def test_batches_of_any_shape_add_up_to_the_mean_of_outer_products() -> None:
    moments = Moments(24)
    moments.add(INPUTS[:20].reshape(2, 10, 24))
    moments.add(INPUTS[20:])

    expected = sum(torch.outer(row, row) for row in INPUTS.double()) / 50
    torch.testing.assert_close(moments.mean().double(), expected, rtol=1e-5, atol=1e-5)
    assert moments.count == 50


def test_the_trace_is_the_mean_squared_output_error() -> None:
    moments = Moments(24)
    moments.add(INPUTS)
    error = torch.randn(7, 24, generator=RANDOM)

    trace = torch.trace(error @ moments.mean() @ error.T)

    torch.testing.assert_close(trace, (INPUTS @ error.T).square().sum(1).mean(), rtol=1e-4, atol=0)


def test_half_precision_inputs_are_added_up_in_float32() -> None:
    moments = Moments(2)
    moments.add(torch.full((3, 2), 300.0, dtype=torch.float16))  # 300^2 does not fit float16

    torch.testing.assert_close(moments.mean(), torch.full((2, 2), 90000.0))


def test_no_inputs_at_all_have_no_moments() -> None:
    assert torch.equal(Moments(3).mean(), torch.zeros(3, 3))


def test_damping_adds_its_share_of_the_mean_over_living_inputs_and_one_to_dead_ones() -> None:
    made = damped(torch.diag(torch.tensor([1.0, 3.0, 0.0])), 0.1)

    torch.testing.assert_close(made, torch.diag(torch.tensor([1.2, 3.2, 1.0])))
    assert torch.equal(damped(torch.zeros(2, 2)), torch.eye(2))


def few_inputs() -> torch.Tensor:
    return INPUTS[:6]  # rank 6 of 24


def with_dead_ones() -> torch.Tensor:
    inputs = INPUTS.clone()
    inputs[:, [0, 5, 23]] = 0
    return inputs


@pytest.mark.parametrize("inputs", [INPUTS, few_inputs(), with_dead_ones()], ids=["usual", "few", "dead"])
def test_the_factor_is_upper_triangular_and_squares_to_the_inverse(inputs: torch.Tensor) -> None:
    hessian = inputs.T @ inputs / len(inputs)

    upper = inverse_factor(hessian, 0.01)

    assert torch.equal(upper, upper.triu())
    assert (upper.diagonal() > 0).all()
    unity = upper.T @ upper @ damped(hessian, 0.01)
    torch.testing.assert_close(unity, torch.eye(24), rtol=0, atol=2e-3)


def test_damping_rises_until_there_is_an_inverse() -> None:
    hessian = torch.tensor([[1.0, 1.5], [1.5, 1.0]])  # not of any inputs: its least eigenvalue is -0.5

    upper = inverse_factor(hessian, 0.01)

    torch.testing.assert_close(upper.T @ upper, torch.linalg.inv(damped(hessian, 1.0)), rtol=1e-4, atol=1e-5)


def test_where_no_damping_helps_inputs_count_as_uncorrelated() -> None:
    upper = inverse_factor(torch.tensor([[1.0, 1e9], [1e9, 1.0]]), 1e-6)

    assert torch.equal(upper, torch.diag(upper.diagonal()))
    assert (upper.diagonal() > 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_moments_that_are_no_numbers_are_refused(bad: float) -> None:
    hessian = torch.eye(4)
    hessian[1, 2] = bad

    with pytest.raises(FloatingPointError, match="not finite"):
        inverse_factor(hessian)
