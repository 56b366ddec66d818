"""How sure a median of a few timings is: the percentile bootstrap, seeded. No library needed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

RESAMPLES = 2000

Sample = TypeVar("Sample")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` percent lie, interpolated between neighbours."""
    ranked = sorted(values)
    place = (len(ranked) - 1) * share / 100
    below = int(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)


def median(values: Sequence[float]) -> float:
    """Return the value in the middle."""
    return percentile(values, 50)


def interval(
    samples: Sequence[Sample], statistic: Callable[[Sequence[Sample]], float], seed: int
) -> tuple[float, float]:
    """Return the 95 % interval of a statistic: where it falls on samples drawn anew, with replacement."""
    chance = random.Random(seed)
    found = [statistic(chance.choices(samples, k=len(samples))) for _ in range(RESAMPLES)]
    return percentile(found, 2.5), percentile(found, 97.5)


def ratio_of_medians(pairs: Sequence[tuple[float, float]]) -> float:
    """Return how many times the first of each pair the second is, by their medians."""
    return median([second for _, second in pairs]) / median([first for first, _ in pairs])
