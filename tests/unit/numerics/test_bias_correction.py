"""Bias correction: the mean output is that of the weight before rounding, the squared error less."""

from __future__ import annotations

import torch

from picual.numerics.bias_correction import correction

RANDOM = torch.Generator().manual_seed(6)
WEIGHT = torch.randn(7, 24, generator=RANDOM)
ROUNDED = (WEIGHT * 2).round() / 2
INPUTS = torch.randn(300, 24, generator=RANDOM) + 1.5


def test_the_mean_output_is_that_of_the_weight() -> None:
    bias = correction(WEIGHT, ROUNDED, INPUTS.mean(0))

    before, after = INPUTS @ WEIGHT.T, INPUTS @ ROUNDED.T + bias
    torch.testing.assert_close(after.mean(0), before.mean(0), rtol=1e-4, atol=1e-4)


def test_the_squared_error_falls_by_that_of_the_mean() -> None:
    bias = correction(WEIGHT, ROUNDED, INPUTS.mean(0))

    off = INPUTS @ (ROUNDED - WEIGHT).T
    fallen = off.square().mean(0) - (off + bias).square().mean(0)
    torch.testing.assert_close(fallen, bias.square(), rtol=1e-3, atol=1e-4)


def test_half_precision_is_subtracted_in_float32() -> None:
    weight, far, mean = (each.bfloat16() for each in (WEIGHT, WEIGHT.flip(0), INPUTS.mean(0)))

    bias = correction(weight, far, mean)

    exact = (weight.double() - far.double()) @ mean.double()
    assert bias.dtype == torch.float32
    torch.testing.assert_close(bias.double(), exact, rtol=1e-5, atol=1e-5)
