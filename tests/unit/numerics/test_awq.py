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


def test_scales_that_weights_enter_are_taken_where_they_are_better() -> None:
    random = torch.Generator().manual_seed(3)
    inputs = torch.randn(400, WIDTH, generator=random)
    weight = torch.randn(32, WIDTH, generator=random)
    weight[:, ::BLOCK] *= 12  # one column of each block sets the steps of all, its inputs being like the others
    hessian, mean = inputs.T @ inputs / 400, inputs.abs().mean(0)

    def error(duo: bool) -> float:
        scales = awq.search_scales([weight], mean, hessian, bits=4, block=BLOCK, symmetric=False, duo=duo)
        grid = covering(weight * scales, bits=4, block=BLOCK, symmetric=False)
        change = grid.values(grid.nearest(weight * scales)) / scales - weight
        return float((inputs @ change.T).square().sum())

    assert error(duo=True) < 0.8 * error(duo=False)


def test_width_that_no_block_divides_has_scales_of_its_own_width() -> None:
    weight, mean, hessian = WEIGHTS[0][:, :100], MEAN[:100], HESSIAN[:100, :100]
    found = awq.search_scales([weight], mean, hessian, bits=4, block=64, symmetric=False, duo=True)
    assert found.shape == (100,)
    cut = torch.ones(len(weight), dtype=torch.bool)
    rounded = awq.rounded(
        weight * found, hessian / found / found[:, None], bits=4, block=64, symmetric=False, cut=cut
    )
    assert rounded.values().shape == weight.shape


@pytest.mark.parametrize("compensate", [False, True])
def test_every_row_is_rounded_in_the_best_of_the_ways(compensate: bool) -> None:
    from picual.numerics import rounding

    weight = torch.cat(WEIGHTS)
    cut = torch.arange(len(weight)) % 2 == 0
    fields = {"bits": 4, "block": BLOCK, "symmetric": False}
    found = awq.rounded(weight, HESSIAN, cut=cut, compensate=compensate, **fields)

    def errors(values: torch.Tensor) -> torch.Tensor:
        change = values - weight
        return torch.einsum("nk,nk->n", change @ HESSIAN, change)

    whole, shorter = covering(weight, **fields), awq.search_clip(weight, HESSIAN, **fields)
    plain, clipped = (errors(grid.values(grid.nearest(weight))) for grid in (whole, shorter))
    fitted = errors(rounding.with_moments(weight, HESSIAN, compensate=compensate, **fields).values())
    expected = torch.minimum(torch.where(cut, clipped, plain), fitted)
    torch.testing.assert_close(errors(found.values()), expected, rtol=1e-3, atol=1e-6)
    assert (expected < plain).any()
