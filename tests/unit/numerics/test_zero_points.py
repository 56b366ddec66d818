"""Fitted grids: never worse than the covering one, nearly as good as trying everything, exact where it can be."""

from __future__ import annotations

import pytest
import torch

from picual.numerics import zero_points
from picual.numerics.grids import Grid, covering

RANDOM = torch.Generator().manual_seed(1)
NORMAL = torch.randn(60, 256, generator=RANDOM)
IMPORTANCE = torch.rand(256, generator=RANDOM) ** 4 + 1e-3
WEIGHTS = {
    "normal": NORMAL,
    "heavy tails": NORMAL**3,
    "negative": -NORMAL.abs() - 0.5,
    "zero": torch.zeros(3, 256),
    "constant": torch.full((3, 256), -0.3),
    "large outlier": torch.cat([NORMAL[:, 1:] * 1e-3, torch.full((60, 1), 50.0)], 1),
}


def block_errors(weight: torch.Tensor, grid: Grid, importance: torch.Tensor | None) -> torch.Tensor:
    errors = (grid.values(grid.nearest(weight)) - weight).double().square()
    if importance is not None:
        errors = errors * importance
    return errors.unflatten(1, (-1, grid.block)).sum(2)


@pytest.mark.parametrize("importance", [None, IMPORTANCE], ids=["plain", "weighted"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("block", [16, 64, 256])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_no_block_has_more_error_than_on_the_covering_grid(
    kind: str, bits: int, block: int, symmetric: bool, importance: torch.Tensor | None
) -> None:
    weight = WEIGHTS[kind]

    grid = zero_points.fit(weight, bits=bits, block=block, symmetric=symmetric, importance=importance)

    before = block_errors(weight, covering(weight, bits=bits, block=block, symmetric=symmetric), importance)
    energy = (weight.square() * (1 if importance is None else importance)).unflatten(1, (-1, block)).sum(2)
    # The error is a difference of sums as large as the energy: float32 tells less than a millionth of it apart.
    assert (block_errors(weight, grid, importance) <= before * (1 + 1e-4) + 1e-6 * energy).all()
    assert torch.equal(grid.zeros, grid.zeros.round().clamp(0, 2**bits - 1))
    assert torch.isfinite(grid.scales).all()
    assert (grid.scales != 0).all()
    if symmetric:
        assert (grid.zeros == 2 ** (bits - 1)).all()


def least_errors(weight: torch.Tensor, block: int, importance: torch.Tensor) -> torch.Tensor:
    """Return the least error of each block (N, B) over all 16 zeros and 400 scales."""
    span = weight.unflatten(1, (-1, block)).abs().amax(2)
    best = torch.full(span.shape, float("inf"), dtype=torch.float64)
    for zero in range(16):
        for part in torch.linspace(0.02, 1.0, 400):
            grid = Grid(span * part, torch.full_like(span, zero), 4, block)
            best = torch.minimum(best, block_errors(weight, grid, importance))
    return best


@pytest.mark.parametrize("weighted", [False, True])
def test_the_fit_is_nearly_that_of_trying_every_zero_and_scale(weighted: bool) -> None:
    weight = NORMAL[:, :16].contiguous()
    importance = IMPORTANCE[:16] if weighted else torch.ones(16)
    least = least_errors(weight, 16, importance)

    usual = zero_points.fit(weight, bits=4, block=16, symmetric=False, importance=importance)
    shrinks, shifts = tuple(1.1 - 0.01 * step for step in range(60)), tuple(range(-15, 16))
    fine = zero_points.fit(
        weight, bits=4, block=16, symmetric=False, importance=importance, shrinks=shrinks, shifts=shifts
    )

    found = block_errors(weight, fine, importance)
    assert found.sum() <= least.sum() * 1.01
    assert (found <= least * 1.15 + 1e-6).all()
    assert block_errors(weight, usual, importance).sum() <= least.sum() * 1.35  # 12 tries instead of 6400


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_matrix_on_a_grid_is_recovered(symmetric: bool) -> None:
    codes = torch.randint(0, 16, (40, 256), generator=RANDOM).float()
    codes[:, ::32], codes[:, 1::32] = 0, 15  # both ends of every block are used
    zeros = torch.full((40, 8), 8.0) if symmetric else torch.randint(0, 16, (40, 8), generator=RANDOM).float()
    there = Grid(torch.rand(40, 8, generator=RANDOM) + 0.5, zeros, 4, 32)
    weight = there.values(codes)

    found = zero_points.fit(weight, bits=4, block=32, symmetric=symmetric)

    torch.testing.assert_close(found.scales, there.scales)
    assert torch.equal(found.zeros, zeros)
    assert torch.equal(found.nearest(weight), codes)


def test_what_matters_more_is_met_better() -> None:
    weight = NORMAL[:, :64].contiguous()
    importance = torch.ones(64)
    importance[::4] = 100

    plain, weighted = (
        zero_points.fit(weight, bits=4, block=32, symmetric=False, importance=each) for each in (None, importance)
    )

    assert block_errors(weight, weighted, importance).sum() < 0.9 * block_errors(weight, plain, importance).sum()


def test_the_pieces_of_a_tall_matrix_are_fitted_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = zero_points.fit(NORMAL, bits=4, block=32, symmetric=False, importance=IMPORTANCE)
    monkeypatch.setattr(zero_points, "PIECE", 7 * 256)

    pieces = zero_points.fit(NORMAL, bits=4, block=32, symmetric=False, importance=IMPORTANCE)

    torch.testing.assert_close(pieces.scales, whole.scales)
    assert torch.equal(pieces.zeros, whole.zeros)


@pytest.mark.parametrize("symmetric", [False, True])
def test_columns_that_do_not_matter_leave_a_block_on_its_covering_grid(symmetric: bool) -> None:
    weight = NORMAL[:4, :64].contiguous()
    importance = torch.cat([torch.zeros(32), torch.ones(32)])

    grid = zero_points.fit(weight, bits=4, block=32, symmetric=symmetric, importance=importance)

    start = covering(weight, bits=4, block=32, symmetric=symmetric)
    assert torch.equal(grid.scales[:, 0], start.scales[:, 0])
    assert torch.equal(grid.zeros[:, 0], start.zeros[:, 0])


def test_fitting_twice_gives_the_same_and_leaves_the_weight_alone() -> None:
    before = NORMAL.clone()

    first, second = (zero_points.fit(NORMAL, bits=4, block=32, symmetric=False) for _ in range(2))

    assert torch.equal(first.scales, second.scales)
    assert torch.equal(first.zeros, second.zeros)
    assert torch.equal(before, NORMAL)
