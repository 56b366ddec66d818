from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from picual.numerics.budget import allocate, smallest

Matrix = Sequence[Sequence[float]]


def best(costs: Matrix, sizes: Matrix, budget: float) -> float:
    """Try everything."""
    totals = [
        sum(cost[one] for cost, one in zip(costs, chosen, strict=True))
        for chosen in itertools.product(*(range(len(cost)) for cost in costs))
        if sum(size[one] for size, one in zip(sizes, chosen, strict=True)) <= budget
    ]
    return min(totals)


def test_close_to_the_best_of_all_and_within_the_budget() -> None:
    chance = random.Random(3)
    regrets = []
    for _ in range(40):
        sizes = [sorted(chance.sample(range(10, 100), 4)) for _ in range(5)]
        costs = [sorted((chance.expovariate(1) for _ in range(4)), reverse=True) for _ in range(5)]
        budget = chance.randrange(sum(s[0] for s in sizes), sum(s[-1] for s in sizes))
        chosen = allocate(costs, sizes, budget)
        assert chosen is not None
        assert sum(size[one] for size, one in zip(sizes, chosen, strict=True)) <= budget
        total = sum(cost[one] for cost, one in zip(costs, chosen, strict=True))
        smallest = sum(cost[0] for cost in costs)
        regrets.append((total - best(costs, sizes, budget)) / smallest)
    assert sum(regrets) / len(regrets) < 0.06


def test_everything_where_all_fits_and_nothing_where_nothing_does() -> None:
    costs, sizes = [[3.0, 1.0], [5.0, 0.0]], [[1, 2], [1, 9]]
    assert allocate(costs, sizes, 11) == [1, 1]
    assert allocate(costs, sizes, 2) == [0, 0]
    assert allocate(costs, sizes, 1) is None


def test_larger_choice_that_costs_more_is_never_taken() -> None:
    assert allocate([[1.0, 2.0, 0.5]], [[1, 2, 3]], 3) == [2]
    assert allocate([[1.0, 2.0]], [[1, 2]], 3) == [0]


def test_close_to_the_smallest_of_all_and_within_the_limit() -> None:
    chance = random.Random(4)
    regrets = []
    for _ in range(40):
        sizes = [sorted(chance.sample(range(10, 100), 4)) for _ in range(5)]
        costs = [sorted((chance.expovariate(1) for _ in range(4)), reverse=True) for _ in range(5)]
        limit = chance.uniform(sum(cost[-1] for cost in costs), sum(cost[0] for cost in costs))
        chosen = smallest(costs, sizes, limit)
        assert chosen is not None
        assert sum(cost[one] for cost, one in zip(costs, chosen, strict=True)) <= limit + 1e-9
        total = sum(size[one] for size, one in zip(sizes, chosen, strict=True))
        regrets.append(total / best(sizes, costs, limit) - 1)
    assert min(regrets) >= 0
    assert sum(regrets) / len(regrets) < 0.03


def test_smallest_where_every_cost_is_borne_and_nothing_where_none_is() -> None:
    costs, sizes = [[3.0, 1.0], [5.0, 0.5]], [[1, 2], [1, 9]]
    assert smallest(costs, sizes, 8.0) == [0, 0]
    assert smallest(costs, sizes, 4.0) == [0, 1]
    assert smallest(costs, sizes, 1.5) == [1, 1]
    assert smallest(costs, sizes, 1.4) is None
