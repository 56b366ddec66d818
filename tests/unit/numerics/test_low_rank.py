from __future__ import annotations

import numpy as np

from picual.numerics.low_rank import Update, stacked

K = 7


def test_one_pair_of_factors_adds_to_each_part_what_its_own_does() -> None:
    random = np.random.default_rng(0)
    a, other = (random.standard_normal((rank, K)).astype(np.float32) for rank in (2, 3))
    b, more = (random.standard_normal((rows, rank)).astype(np.float32) for rows, rank in ((5, 2), (4, 3)))
    # Rows 0-1 and 6-8 of the stack are served by the first A, rows 2-5 by the second, row 9 by none.
    groups = [[Update(a, b[:2], 0.5, 0), Update(a, b[2:], 0.5, 6)], [Update(other, more, 3.0, 2)]]

    first, second = stacked(groups, 10)

    assert (first.shape, second.shape) == ((K, 5), (5, 10))
    expected = np.zeros((10, K), np.float32)
    expected[:2], expected[6:9], expected[2:6] = 0.5 * b[:2] @ a, 0.5 * b[2:] @ a, 3.0 * more @ other
    np.testing.assert_allclose((first @ second).T, expected, atol=1e-6)
