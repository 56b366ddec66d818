"""AutoRound: never worse than rounding to nearest, better where inputs are correlated, the same every time."""

from __future__ import annotations

import pytest
import torch

from picual.numerics.autoround import learn_rounding, moved_to, output_error
from picual.numerics.grids import Grid, covering

RANDOM = torch.Generator().manual_seed(9)
WIDTH, BLOCK = 96, 32
WEIGHT = torch.randn(12, WIDTH, generator=RANDOM)
SPREAD = 1 / torch.arange(1, WIDTH + 1)  # a few directions carry most, as in language models
INPUTS = (torch.randn(400, WIDTH, generator=RANDOM) * SPREAD) @ torch.randn(WIDTH, WIDTH, generator=RANDOM)
HESSIAN = INPUTS.T @ INPUTS / 400
LOSS = output_error([WEIGHT], [HESSIAN])


def grid_of(bits: int = 4, symmetric: bool = False) -> Grid:
    return covering(WEIGHT, bits=bits, block=BLOCK, symmetric=symmetric)


def output_change(grid: Grid, codes: torch.Tensor) -> float:
    """Return the mean squared change of the output, from the inputs themselves."""
    return float((INPUTS.double() @ (grid.values(codes) - WEIGHT).double().T).square().sum(1).mean())


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_output_changes_much_less_than_by_rounding_to_nearest(bits: int, symmetric: bool) -> None:
    start = grid_of(bits, symmetric)

    codes, grids = learn_rounding([WEIGHT], [start], LOSS)

    assert output_change(grids[0], codes[0]) < 0.5 * output_change(start, start.nearest(WEIGHT))
    assert torch.equal(codes[0], codes[0].round().clamp(0, 2**bits - 1))
    assert torch.equal(grids[0].zeros, start.zeros)
    assert not codes[0].requires_grad
    assert not grids[0].scales.requires_grad


def test_scales_that_are_too_wide_are_learned_too_and_stay_within_bounds() -> None:
    start = grid_of()
    wide = Grid(start.scales * 1.4, start.zeros, 4, BLOCK)

    fixed_codes, fixed = learn_rounding([WEIGHT], [wide], LOSS, scale_rate=0.0)
    codes, grids = learn_rounding([WEIGHT], [wide], LOSS, scale_rate=0.02)
    _, wild = learn_rounding([WEIGHT], [start], lambda values: -values[0].square().sum(), scale_rate=1.0)

    assert torch.equal(fixed[0].scales, wide.scales)
    assert output_change(grids[0], codes[0]) < 0.8 * output_change(fixed[0], fixed_codes[0])
    torch.testing.assert_close(wild[0].scales, start.scales * 1.5)


def test_codes_move_by_one_at_most_while_scales_stay() -> None:
    start = grid_of()

    codes, _ = learn_rounding([WEIGHT], [start], LOSS, scale_rate=0.0, rate=0.2)

    assert (codes[0] - start.nearest(WEIGHT)).abs().max() == 1


@pytest.mark.parametrize("rate", [0.02, 5.0])
def test_a_loss_is_never_larger_than_that_of_rounding_to_nearest(rate: float) -> None:
    start = grid_of()
    for loss in (LOSS, output_error([WEIGHT], [torch.eye(WIDTH)])):
        for steps in (0, 1, 7):
            codes, grids = learn_rounding([WEIGHT], [start], loss, steps=steps, rate=rate, scale_rate=rate)

            nearest = float(loss([start.values(start.nearest(WEIGHT))]))
            assert float(loss([grids[0].values(codes[0])])) <= nearest * (1 + 1e-5)


def test_what_is_returned_has_the_least_of_all_losses_that_were_seen() -> None:
    seen: list[float] = []

    def watched(values: list[torch.Tensor]) -> torch.Tensor:
        now = LOSS(values)
        later_batches_are_harder = 1 + 99 * (len(seen) > 15)
        now = now * later_batches_are_harder
        seen.append(float(now.detach()))
        return now

    codes, grids = learn_rounding([WEIGHT], [grid_of()], watched, steps=30)

    assert len(seen) == 31
    assert min(seen) < min(seen[0], seen[-1])
    assert float(LOSS([grids[0].values(codes[0])])) == pytest.approx(min(seen), rel=1e-5)


def test_with_no_steps_it_rounds_to_nearest() -> None:
    start = grid_of()

    codes, grids = learn_rounding([WEIGHT], [start], LOSS, steps=0)

    assert torch.equal(codes[0], start.nearest(WEIGHT))
    assert torch.equal(grids[0].scales, start.scales)


def test_steps_fall_linearly_to_zero() -> None:
    """With a loss that always pulls the same way, V has gone rate * (1 + ... + 1/steps) in the end."""
    weight = torch.full((1, 4), 0.6)  # to 0.5 it must go 0.1 down: then it is rounded to 0
    grid = Grid(torch.ones(1, 1), torch.full((1, 1), 8.0), 4, 4)

    for rate, code in ((0.03, 9.0), (0.05, 8.0)):  # 4 steps go 2.5 rates: 0.075 and 0.125
        codes, _ = learn_rounding(
            [weight], [grid], lambda values: values[0].sum(), steps=4, rate=rate, scale_rate=0
        )
        assert codes[0].tolist() == [[code] * 4]


def test_several_layers_are_learned_from_one_loss() -> None:
    second = torch.randn(5, 12, generator=RANDOM)
    weights = [WEIGHT, torch.nn.functional.pad(second, (0, 4))]
    grids = [grid_of(), covering(weights[1], bits=4, block=16, symmetric=False)]
    expected = torch.tanh(INPUTS @ WEIGHT.T) @ second.T

    def loss(values: list[torch.Tensor]) -> torch.Tensor:
        return (torch.tanh(INPUTS @ values[0].T) @ values[1][:, :12].T - expected).square().mean()

    codes, learned = learn_rounding(weights, grids, loss, scale_rate=0.0)

    before = loss([grid.values(grid.nearest(weight)) for grid, weight in zip(grids, weights, strict=True)])
    after = loss([grid.values(code) for grid, code in zip(learned, codes, strict=True)])
    assert after < 0.7 * before
    for code, grid, weight in zip(codes, grids, weights, strict=True):
        assert not torch.equal(code, grid.nearest(weight))


def test_a_loss_over_random_batches_gives_the_same_from_the_same_generator() -> None:
    def run(seed: int) -> tuple[list[torch.Tensor], list[Grid]]:
        generator = torch.Generator().manual_seed(seed)

        def loss(values: list[torch.Tensor]) -> torch.Tensor:
            batch = INPUTS[torch.randint(0, 400, (32,), generator=generator)]
            return (batch @ (values[0] - WEIGHT).T).square().mean()

        return learn_rounding([WEIGHT], [grid_of()], loss, steps=20)

    (first, first_grids), (second, second_grids), (other, _) = run(0), run(0), run(1)

    assert torch.equal(first[0], second[0])
    assert torch.equal(first_grids[0].scales, second_grids[0].scales)
    assert not torch.equal(first[0], other[0])


def test_a_loss_that_is_no_number_is_refused() -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        learn_rounding([WEIGHT], [grid_of()], lambda values: values[0].sum() * float("nan"))


def test_arguments_stay_as_they_were() -> None:
    weight, start = WEIGHT.clone(), grid_of()
    scales = start.scales.clone()

    learn_rounding([weight], [start], LOSS, steps=5)

    assert torch.equal(weight, WEIGHT)
    assert torch.equal(start.scales, scales)


def test_weight_moved_to_given_codes_has_them_for_its_nearest_and_stays_where_it_can() -> None:
    random = torch.Generator().manual_seed(5)
    weight = torch.randn(6, 64, generator=random)
    grid = covering(weight, bits=4, block=32, symmetric=False)
    nearest = grid.nearest(weight)
    torch.testing.assert_close(
        moved_to(weight, grid, nearest), weight, atol=0.02 * float(grid.scales.max()), rtol=0
    )
    codes = (nearest + torch.randint(-2, 3, nearest.shape, generator=random)).clamp(0, grid.top)
    assert torch.equal(grid.nearest(moved_to(weight, grid, codes)), codes)
