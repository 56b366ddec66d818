"""HQQ: whole zeros, and never more robust error than the covering grid; with outliers much less."""

from __future__ import annotations

import pytest
import torch

from picual.numerics import hqq
from picual.numerics.grids import Grid, covering

RANDOM = torch.Generator().manual_seed(5)
NORMAL = torch.randn(24, 256, generator=RANDOM)
SKEWED = NORMAL.exp()
WEIGHTS = {
    "normal": NORMAL,
    "heavy tails": NORMAL**3,
    "skewed": SKEWED,
    "negative": -NORMAL.abs() - 0.5,
    "zero": torch.zeros(3, 256),
    "constant": torch.full((3, 256), -0.3),
    "large outlier": torch.cat([NORMAL[:, 1:] * 1e-3, torch.full((24, 1), 50.0)], 1),
    "tiny": NORMAL * 1e-30,
}


def robust_errors(weight: torch.Tensor, grid: Grid, norm: float = 0.7) -> torch.Tensor:
    """Return mean |error|^norm of each block (N, B)."""
    errors = (grid.values(grid.nearest(weight)) - weight).double().abs()
    return errors.pow(norm).unflatten(1, (-1, grid.block)).mean(2)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("block", [16, 64, 256])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_no_block_has_more_robust_error_than_on_the_covering_grid(
    kind: str, bits: int, block: int, symmetric: bool
) -> None:
    weight = WEIGHTS[kind]

    grid = hqq.fit(weight, bits=bits, block=block, symmetric=symmetric)

    before = robust_errors(weight, covering(weight, bits=bits, block=block, symmetric=symmetric))
    assert (robust_errors(weight, grid) <= before * (1 + 1e-5)).all()
    assert torch.equal(grid.zeros, grid.zeros.round().clamp(0, 2**bits - 1))
    assert torch.isfinite(grid.scales).all()
    assert (grid.scales != 0).all()
    if symmetric:
        assert (grid.zeros == 2 ** (bits - 1)).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4])
def test_most_blocks_have_less_error(bits: int, symmetric: bool) -> None:
    weight = WEIGHTS["normal"]

    grid = hqq.fit(weight, bits=bits, block=64, symmetric=symmetric)

    before = robust_errors(weight, covering(weight, bits=bits, block=64, symmetric=symmetric))
    assert (robust_errors(weight, grid) < before * 0.9999).double().mean() > 0.5


def test_the_shrinking_step_is_that_of_the_p_norm() -> None:
    errors = torch.tensor([2.0, -2.0, 0.01, -0.01, 0.0])

    made = hqq._shrunk(errors, 0.7, 10.0)

    kept = 2 - 2**-0.3 / 10
    torch.testing.assert_close(made, torch.tensor([kept, -kept, 0.0, 0.0, 0.0]))


def test_a_first_zero_is_the_mean_of_what_the_codes_leave() -> None:
    rows = torch.tensor(
        [[[0.1, 0.6, 1.1, 1.6]]]
    )  # all 0.2 steps off a grid of step 0.5: too little for an outlier
    scales, zeros = torch.tensor([[0.5]]), torch.zeros(1, 1)

    torch.testing.assert_close(hqq._zeros(rows, scales, zeros, 15, 0.7, 0.5), torch.tensor([[-0.2]]))


def test_outliers_do_not_pull_a_zero() -> None:
    rows = torch.tensor([[[0.2, 1.2, 2.2, 40.0]]])  # 25 steps above the highest code

    made = hqq._zeros(rows, torch.ones(1, 1), torch.zeros(1, 1), 15, 0.7, 5.0)

    kept = 25**-0.3 / 5  # what the shrinking step leaves of the outlier to the zero
    torch.testing.assert_close(made, torch.tensor([[-(3 * 0.2 + kept) / 4]]))


@pytest.mark.parametrize("symmetric", [False, True])
def test_only_where_there_are_zero_points_are_they_fitted(
    symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    betas: list[float] = []

    def watched(
        rows: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, top: int, norm: float, beta: float
    ) -> torch.Tensor:
        betas.append(beta)
        return zeros

    monkeypatch.setattr(hqq, "_zeros", watched)
    hqq.fit(NORMAL, bits=4, block=64, symmetric=symmetric, beta=2.0, growth=1.5, iterations=3)

    assert betas == ([] if symmetric else [2.0, 3.0, 4.5])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "skewed"])
def test_split_off_outliers_leave_less_robust_error_than_least_squares(kind: str, symmetric: bool) -> None:
    weight = WEIGHTS[kind]

    robust, plain = (hqq.fit(weight, bits=2, block=64, symmetric=symmetric, beta=each) for each in (10.0, 1e-9))

    assert robust_errors(weight, robust).mean() < 0.99 * robust_errors(weight, plain).mean()


def test_outliers_do_not_pull_a_scale() -> None:
    rows = torch.tensor([[[1.1, 2.2, 3.3, 4.4, -40.0]]])  # steps of 1.1, and one weight far below the lowest code
    scales, zeros = torch.tensor([[1.05]]), torch.tensor([[8.0]])

    for beta in (1e3,) * 30:
        scales = hqq._scales(rows, scales, zeros, 15, 0.7, beta)

    assert scales.item() < 1.2  # least squares alone would say 3.6


def test_other_units_have_the_same_codes() -> None:
    first, second = (hqq.fit(NORMAL * unit, bits=4, block=32) for unit in (1.0, 1024.0))

    assert torch.equal(first.zeros, second.zeros)
    torch.testing.assert_close(first.scales * 1024, second.scales)


def test_the_norm_asked_for_is_the_one_that_falls() -> None:
    before = covering(SKEWED, bits=4, block=64, symmetric=False)
    for norm in (0.3, 1.0):
        grid = hqq.fit(SKEWED, bits=4, block=64, norm=norm)
        assert (robust_errors(SKEWED, grid, norm) <= robust_errors(SKEWED, before, norm) * (1 + 1e-5)).all()


def test_no_iterations_leave_the_covering_grid() -> None:
    grid, start = (
        hqq.fit(NORMAL, bits=4, block=32, iterations=0),
        covering(NORMAL, bits=4, block=32, symmetric=False),
    )

    assert torch.equal(grid.scales, start.scales)
    assert torch.equal(grid.zeros, start.zeros)


def test_pieces_are_fitted_as_the_whole_and_the_weight_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = NORMAL.clone()
    whole = hqq.fit(NORMAL, bits=4, block=32)
    monkeypatch.setattr(hqq, "PIECE", 7 * 256)

    pieces = hqq.fit(NORMAL, bits=4, block=32)

    torch.testing.assert_close(pieces.scales, whole.scales)
    assert torch.equal(pieces.zeros, whole.zeros)
    assert torch.equal(before, NORMAL)
