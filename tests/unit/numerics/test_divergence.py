from __future__ import annotations

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from picual.numerics.divergence import ROWS, Divergence

RANDOM = np.random.default_rng(0)
P = RANDOM.normal(0, 4, (2 * ROWS + 5, 300)).astype(np.float32)
Q = P + RANDOM.normal(0, 0.3, P.shape).astype(np.float32)


def compared(p: np.ndarray, q: np.ndarray) -> Divergence:
    found = Divergence()
    found.add(p, q)
    return found


def test_the_figures_are_those_of_the_definition() -> None:
    found = compared(P, Q)
    expected = rel_entr(softmax(P.astype(np.float64), 1), softmax(Q.astype(np.float64), 1)).sum(1).mean()
    assert found.positions == len(P)
    assert found.mean_kl == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert found.top1 == pytest.approx((P.argmax(1) == Q.argmax(1)).mean())
    assert found.largest == pytest.approx(np.abs(P.astype(np.float64) - Q).max(), rel=1e-6)


def test_pieces_add_up() -> None:
    found = Divergence()
    found.add(P[:10], Q[:10])
    found.add(P[10:], Q[10:])
    assert found.mean_kl == pytest.approx(compared(P, Q).mean_kl)
    assert (found.top1, found.largest) == (compared(P, Q).top1, compared(P, Q).largest)


def test_equal_logits_and_shifted_ones_do_not_diverge() -> None:
    assert compared(P, P).mean_kl == 0.0
    assert compared(P, P + 100).mean_kl == pytest.approx(0.0, abs=1e-6)


def test_it_is_the_reference_that_weighs() -> None:
    p, q = np.array([[0.0, 0.0]]), np.array([[0.0, 5.0]])
    assert compared(p, q).mean_kl == pytest.approx(1.8135, abs=1e-4)
    assert compared(q, p).mean_kl == pytest.approx(0.6527, abs=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_none_passes_no_bound(bad: float) -> None:
    q = Q.copy()
    q[3, 7] = bad
    found = compared(P, q)
    assert found.mean_kl == found.largest == float("inf")


def test_a_near_tie_of_the_reference_is_told_from_a_change_of_mind() -> None:
    reference = np.array([[2.0, 1.95, 0.0], [2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    candidate = np.array([[1.9, 2.0, 0.0], [1.9, 2.0, 0.0], [2.0, 1.0, 0.0]])

    found = compared(reference, candidate)

    assert (found.agreeing, found.nearly_tied) == (1, 1)
    assert found.top1_or_tied == pytest.approx(2 / 3)
