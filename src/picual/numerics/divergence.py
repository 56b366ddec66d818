"""How far apart two models' next-token distributions are, from their logits.

T: positions · V: vocabulary · p: reference · q: candidate.

    KL(p || q) = sum over V of p (log p - log q), mean over T
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

NEAR_TIE = 0.1  # nats between a reference's first choice and another that it holds nearly as likely
ROWS = 16  # positions at a time: a vocabulary of 150 000 then takes 10 MB a copy


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
        """Take in logits (T, V) of both, a few rows at a time.

        Probabilities are taken in float32, where a KL is off by some 1e-7 nats, and added up in float64. A NaN or
        an infinity anywhere makes every figure infinite: it must not pass any bound.
        """
        for start in range(0, len(reference), ROWS):
            p, q = (_floats(logits[start : start + ROWS]) for logits in (reference, candidate))  # (rows, V)
            self.positions += len(p)
            largest = float((p - q).abs().max())
            if not math.isfinite(largest):  # as it is where either has a number that is none
                self.kl_sum = self.largest = float("inf")
                continue
            self.largest = max(self.largest, largest)
            log_p, log_q = torch.log_softmax(p, 1), torch.log_softmax(q, 1)
            chosen = q.argmax(1)
            same = p.argmax(1) == chosen
            gap = log_p.amax(1) - log_p.gather(1, chosen[:, None])[:, 0]
            self.agreeing += int(same.sum())
            self.nearly_tied += int((~same & (gap <= NEAR_TIE)).sum())
            self.kl_sum += float(log_p.exp().mul_(log_p - log_q).sum(1).double().sum())


def _floats(logits: npt.NDArray[np.floating]) -> torch.Tensor:
    return torch.from_numpy(np.require(logits, np.float32, ["C", "W"]))
