"""How far apart two models' next-token distributions are, from their logits.

T: positions · V: vocabulary · p: reference · q: candidate.

    KL(p || q) = sum over V of p (log p - log q), mean over T
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NEAR_TIE = 0.1  # nats between a reference's first choice and another that it holds nearly as likely
ROWS = 32  # positions at a time: a vocabulary of 150 000 in float64 then takes 40 MB a copy


@dataclass
class Divergence:
    """A running comparison over positions."""

    positions: int = 0
    kl_sum: float = 0.0
    agreeing: int = 0
    nearly_tied: int = 0  # positions where the first tokens differ, and the reference nearly tied them
    largest: float = 0.0  # absolute difference of two logits

    @property
    def mean_kl(self) -> float:
        """KL(p || q) in nats, averaged over positions."""
        return self.kl_sum / max(self.positions, 1)

    @property
    def top1(self) -> float:
        """Share of positions where both rank the same token first."""
        return self.agreeing / max(self.positions, 1)

    @property
    def top1_or_tied(self) -> float:
        """Share of positions where both rank the same token first, or the reference had the two nearly tied.

        A flat distribution changes its first token at the slightest noise, and that says nothing of the runtime.
        """
        return (self.agreeing + self.nearly_tied) / max(self.positions, 1)

    def add(self, reference: npt.NDArray[np.floating], candidate: npt.NDArray[np.floating]) -> None:
        """Take in logits (T, V) of both, in float64 a few rows at a time.

        A NaN or an infinity anywhere makes every figure infinite: it must not pass any bound.
        """
        for start in range(0, len(reference), ROWS):
            p = reference[start : start + ROWS].astype(np.float64)  # (rows, V)
            q = candidate[start : start + ROWS].astype(np.float64)  # (rows, V)
            self.positions += len(p)
            if not (np.isfinite(p).all() and np.isfinite(q).all()):
                self.kl_sum = self.largest = float("inf")
                continue
            self.largest = max(self.largest, float(np.abs(p - q).max()))
            log_p, log_q = _log_softmax(p), _log_softmax(q)
            chosen = q.argmax(1)
            same = p.argmax(1) == chosen
            gap = log_p.max(1) - log_p[np.arange(len(p)), chosen]
            self.agreeing += int(same.sum())
            self.nearly_tied += int((~same & (gap <= NEAR_TIE)).sum())
            self.kl_sum += float((np.exp(log_p) * (log_p - log_q)).sum())


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    difference: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return difference
