"""AWQ: the scales and cuts found are the best of those tried, and inputs that are large gain by them."""

from __future__ import annotations

import pytest
import torch

from picual.numerics import awq
from picual.numerics.grids import Grid, covering

RANDOM = torch.Generator().manual_seed(8)
WIDTH, BLOCK = 128, 32
WEIGHTS = [torch.randn(rows, WIDTH, generator=RANDOM) for rows in (24, 8)]
SIZES = torch.ones(WIDTH)
SIZES[[5, 70]] = 30.0  # a few inputs are much larger, as in language models
INPUTS = torch.randn(500, WIDTH, generator=RANDOM) * SIZES
HESSIAN, MEAN = INPUTS.T @ INPUTS / 500, INPUTS.abs().mean(0)


def output_error(scales: torch.Tensor, bits: int, symmetric: bool) -> float:
    """Return the mean squared change of all outputs, from the inputs themselves."""
    total = 0.0
    for weight in WEIGHTS:
        grid = covering(weight * scales, bits=bits, block=BLOCK, symmetric=symmetric)
        rounded = grid.values(grid.nearest(weight * scales)) / scales
        total += float((INPUTS.double() @ (rounded - weight).double().T).square().sum(1).mean())
    return total


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4])
def test_the_best_of_all_exponents_is_found_and_better_than_none(bits: int, symmetric: bool) -> None:
    found = awq.search_scales(WEIGHTS, MEAN, HESSIAN, bits=bits, block=BLOCK, symmetric=symmetric)

    errors = [output_error(awq.input_scales(MEAN, ratio), bits, symmetric) for ratio in awq.RATIOS]
    least = output_error(found, bits, symmetric)
    assert least == pytest.approx(min(errors), rel=1e-3)
    assert least < 0.5 * output_error(torch.ones(WIDTH), bits, symmetric)


def test_a_larger_input_has_a_larger_scale_and_the_ends_meet_around_one() -> None:
    scales = awq.input_scales(torch.tensor([1.0, 4.0, 16.0]), 0.5)

    torch.testing.assert_close(scales, torch.tensor([0.5, 1.0, 2.0]))


def test_an_input_that_was_always_zero_has_a_scale_too() -> None:
    mean = MEAN.clone()
    mean[3] = 0

    found = awq.input_scales(mean, 0.5)

    assert torch.isfinite(found).all()
    assert found[3] == found.min() > 0


def test_where_no_exponent_helps_the_scales_are_ones() -> None:
    small_ones_are_large = 1 / MEAN

    found = awq.search_scales(
        WEIGHTS, small_ones_are_large, HESSIAN, bits=4, block=BLOCK, symmetric=False, ratios=[0.8, 0.9]
    )

    assert torch.equal(found, torch.ones(WIDTH))


def test_all_layers_count() -> None:
    """One layer alone takes another exponent than both together, and than the other."""
    other = torch.zeros(4, WIDTH)
    other[:, 5] = 1e-3  # rounded exactly at any scale: it has no say
    both, one, none = (
        awq.search_scales(weights, MEAN, HESSIAN, bits=4, block=BLOCK, symmetric=False)
        for weights in ([other, WEIGHTS[0]], [WEIGHTS[0]], [other])
    )

    assert torch.equal(both, one)
    assert not torch.equal(both, none)


def block_errors(weight: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return the mean squared change of each block's share of the output (N, B), from the inputs themselves."""
    errors = (grid.values(grid.nearest(weight)) - weight).double().unflatten(1, (-1, BLOCK))
    return torch.einsum("tbk,nbk->tnb", INPUTS.double().unflatten(1, (-1, BLOCK)), errors).square().mean(0)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_each_block_takes_the_cut_of_least_output_error(bits: int, symmetric: bool) -> None:
    weight = WEIGHTS[0]

    found = awq.search_clip(weight, HESSIAN, bits=bits, block=BLOCK, symmetric=symmetric)

    tried = []
    for cut in awq.CUTS:
        low, high = (
            end.clamp(**{bound: 0}) * cut for end, bound in zip(ends_of(weight), ("max", "min"), strict=True)
        )
        rows = torch.minimum(torch.maximum(weight.unflatten(1, (-1, BLOCK)), low[..., None]), high[..., None])
        tried.append(block_errors(weight, covering(rows.flatten(1), bits=bits, block=BLOCK, symmetric=symmetric)))
    least = torch.stack(tried).amin(0)
    torch.testing.assert_close(block_errors(weight, found), least, rtol=2e-2, atol=0)
    assert least.sum() < tried[0].sum()


def ends_of(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows = weight.unflatten(1, (-1, BLOCK))
    return rows.amin(2), rows.amax(2)


@pytest.mark.parametrize("symmetric", [False, True])
def test_without_cuts_or_with_zeros_only_the_grid_covers(symmetric: bool) -> None:
    for weight, steps in ((WEIGHTS[0], ()), (torch.zeros(3, WIDTH), awq.CUTS)):
        found = awq.search_clip(weight, HESSIAN, bits=4, block=BLOCK, symmetric=symmetric, steps=steps)

        start = covering(weight, bits=4, block=BLOCK, symmetric=symmetric)
        assert torch.equal(found.scales, start.scales)
        assert torch.equal(found.zeros, start.zeros)


def test_arguments_stay_as_they_were() -> None:
    before = [each.clone() for each in (*WEIGHTS, MEAN, HESSIAN)]

    awq.search_scales(WEIGHTS, MEAN, HESSIAN, bits=4, block=BLOCK, symmetric=False)
    awq.search_clip(WEIGHTS[0], HESSIAN, bits=4, block=BLOCK, symmetric=False)

    assert all(torch.equal(*pair) for pair in zip(before, (*WEIGHTS, MEAN, HESSIAN), strict=True))
