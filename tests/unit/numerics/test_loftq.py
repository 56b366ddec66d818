from __future__ import annotations

import pytest
import torch

from picual.numerics.loftq import LowRank, nearest, start, without


def matrix(rows: int, columns: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def coarse(weight: torch.Tensor) -> torch.Tensor:
    step = weight.abs().amax(dim=1, keepdim=True) / 3
    return (weight / step).round() * step


def product(factors: LowRank) -> torch.Tensor:
    return factors.b @ factors.a


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (8, 8)])
def test_the_nearest_is_the_truncated_svd(shape: tuple[int, int]) -> None:
    given = matrix(*shape)
    u, s, v = torch.linalg.svd(given.double(), full_matrices=False)
    expected = (u[:, :3] * s[:3]) @ v[:3]
    found = nearest(given, 3)
    assert (found.b.shape, found.a.shape) == ((shape[0], 3), (3, shape[1]))
    torch.testing.assert_close(product(found).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.b.norm(dim=0), found.a.norm(dim=1), rtol=1e-4, atol=1e-4)


def test_a_rank_past_the_smaller_side_is_filled_with_zeros() -> None:
    found = nearest(matrix(4, 9), 6)
    assert (found.b.shape, found.a.shape) == ((4, 6), (6, 9))
    torch.testing.assert_close(product(found), matrix(4, 9), rtol=1e-4, atol=1e-5)
    assert not found.b[:, 4:].any()


def test_one_round_takes_nothing_off_and_starts_at_what_is_lost() -> None:
    weight = matrix(32, 48)
    taken, found = start(weight, 4, 1, coarse)
    assert taken is None
    torch.testing.assert_close(product(found), product(nearest(weight - coarse(weight), 4)))


def test_each_round_follows_the_algorithm_and_lands_nearer() -> None:
    weight = matrix(32, 48)
    taken, found = start(weight, 4, 2, coarse)
    assert taken is not None
    torch.testing.assert_close(product(taken), product(start(weight, 4, 1, coarse)[1]))
    held = coarse(without(weight, taken))
    torch.testing.assert_close(product(found), product(nearest(weight - held, 4)), rtol=1e-4, atol=1e-5)
    plain = (weight - coarse(weight)).norm()
    assert (weight - held - product(found)).norm() < 0.95 * plain


def test_what_is_taken_off_is_summed_in_float64() -> None:
    weight, factors = matrix(6, 10), LowRank(matrix(6, 2, 2), matrix(2, 10, 3))
    expected = (weight.double() - factors.b.double() @ factors.a.double()).float()
    assert torch.equal(without(weight, factors), expected)
