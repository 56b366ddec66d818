"""Candidates at random, none twice."""

from __future__ import annotations

import random
from typing import ClassVar

from picual.search.parameters import Candidate
from picual.search.samplers.base import History

DRAWS = 1000  # of a space without end, before it is taken for exhausted


class RandomOrder:
    """Random search."""

    name: ClassVar[str] = "random"

    def ask(self, history: History) -> Candidate | None:
        """Return a candidate drawn uniformly from those that were not tried."""
        return untried(history)


def untried(history: History) -> Candidate | None:
    """Return a random candidate that was not tried, or None."""
    rng = random.Random(f"{history.seed}/{history.asked}")
    if (listed := history.space.candidates()) is not None:
        left = [one for one in listed if history.is_new(one) and not history.outlook(one).hopeless]
        return rng.choice(left) if left else None
    drawn = (history.space.draw(rng) for _ in range(DRAWS))
    return next((one for one in drawn if history.is_new(one) and not history.outlook(one).hopeless), None)
