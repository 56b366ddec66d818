"""Gaussian process over a few parameters whose effects mostly add up, with a little room for interactions.

    k(a, b) = 1 + sum_d v_d s_d(a_d, b_d) + v_0 prod_d (1 + s_d(a_d, b_d)) / 2 + noise [a = b]

where s_d is 1 for equal values of a parameter, exp(-2 |a - b|) for numbers scaled to 0..1, and 0 for other values.
The v_d are chosen by marginal likelihood, one after the other: with a few dozen points it takes milliseconds.

Source: D. Duvenaud et al., "Additive Gaussian Processes", 2011; C. Rasmussen and C. Williams, "Gaussian Processes
for Machine Learning", 2006, algorithm 2.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

VARIANCES = (0.003, 0.03, 0.3, 3.0)  # of one parameter's effect; the numbers are standardized to variance 1
INTERACTION = 0.05
NOISE = 1e-4
SWEEPS = 2
USUAL = 0.3  # deviation of the values before any is known: they are shares, or logarithms
USUAL_WEIGHT = 2.0  # values that this assumption is worth


@dataclass(frozen=True)
class AdditiveProcess:
    """A fitted process."""

    points: Floats  # (n, d)
    is_number: Flags  # (d)
    variances: Floats  # (d)
    lower: Floats  # (n, n), Cholesky factor
    weights: Floats  # (n)
    mean: float
    scale: float

    @classmethod
    def fit(cls, points: Floats, values: Floats, is_number: Flags) -> AdditiveProcess:
        """Fit to ``values`` (n) at ``points`` (n, d).

        Args:
            points: One column a parameter: a number scaled to 0..1, or the number of a category.
            values: Finite.
            is_number: (d) Whether the column is a number.
        """
        mean, scale = float(values.mean()), _scale(values)
        target = (values - mean) / scale
        similar = similarity(points, points, is_number)
        variances = np.full(points.shape[1], 0.3)
        for _ in range(SWEEPS):
            for column in range(points.shape[1]):
                tried = [_evidence(similar, _with(variances, column, size), target) for size in VARIANCES]
                variances[column] = VARIANCES[int(np.argmax(tried))]
        lower = np.linalg.cholesky(_kernel(similar, variances) + NOISE * np.eye(len(target)))
        weights = np.linalg.solve(lower.T, np.linalg.solve(lower, target))
        return cls(points, is_number, variances, np.asarray(lower, float), np.asarray(weights, float), mean, scale)

    def predict(self, points: Floats) -> tuple[Floats, Floats]:
        """Return mean (m) and standard deviation (m) at ``points`` (m, d)."""
        across = _kernel(similarity(points, self.points, self.is_number), self.variances)  # (m, n)
        solved = np.linalg.solve(self.lower, across.T)  # (n, m)
        prior = 1 + float(self.variances.sum()) + INTERACTION
        variance = np.maximum(prior - (solved**2).sum(axis=0), 1e-12)
        mean: Floats = self.mean + self.scale * (across @ self.weights)
        deviation: Floats = self.scale * np.sqrt(variance)
        return mean, deviation


def similarity(left: Floats, right: Floats, is_number: Flags) -> Floats:
    """Return s_d of every pair: (m, n, d) for ``left`` (m, d) and ``right`` (n, d)."""
    apart = np.abs(left[:, None, :] - right[None, :, :])
    found: Floats = np.where(is_number, np.exp(-2 * apart), apart == 0).astype(np.float64)
    return found


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """Return E[max(best - y, 0)] for y ~ N(mean, deviation^2), all (m)."""
    z = (best - mean) / deviation
    found: Floats = (best - mean) * normal_share(z) + deviation * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return found


def normal_share(z: Floats) -> Floats:
    """Return the share of a normal distribution below z (m)."""
    return np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in z])


def _scale(values: Floats) -> float:
    """Return the deviation that the values suggest: few of them cannot deny a usual one."""
    squares = float(((values - values.mean()) ** 2).sum())
    return math.sqrt((squares + USUAL_WEIGHT * USUAL**2) / (len(values) + USUAL_WEIGHT))


def _kernel(similar: Floats, variances: Floats) -> Floats:
    found: Floats = 1 + similar @ variances + INTERACTION * ((1 + similar) / 2).prod(axis=2)
    return found


def _evidence(similar: Floats, variances: Floats, target: Floats) -> float:
    """Return the log marginal likelihood, up to a constant."""
    lower = np.linalg.cholesky(_kernel(similar, variances) + NOISE * np.eye(len(target)))
    solved = np.linalg.solve(lower, target)
    return float(-0.5 * solved @ solved - np.log(np.diag(lower)).sum())


def _with(variances: Floats, column: int, size: float) -> Floats:
    changed = variances.copy()
    changed[column] = size
    return changed
