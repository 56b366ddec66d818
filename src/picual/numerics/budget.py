"""One choice for each of many things, so that what they cost in all is least and their sizes fit a budget.

The choices of a thing that are worth having lie on the lower convex hull of (size, cost). From the smallest of
each, the step along a hull that saves most cost a byte is taken again and again while it fits: the optimum of the
problem relaxed, and within one step of the true one.
Source: the greedy of the multiple-choice knapsack problem, Sinha and Zoltners, Operations Research 27 (1979).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def allocate(
    costs: Sequence[Sequence[float]], sizes: Sequence[Sequence[float]], budget: float
) -> list[int] | None:
    """Return the index of the choice for each thing, or None when not even the smallest fit.

    Args:
        costs: For each thing, what each choice costs.
        sizes: For each thing, the bytes of each choice.
        budget: Bytes in all.
    """
    hulls = [_hull(cost, size) for cost, size in zip(costs, sizes, strict=True)]
    at = [0] * len(hulls)
    left = budget - sum(sizes[n][hull[0]] for n, hull in enumerate(hulls))
    if left < 0:
        return None
    queue = [entry for n in range(len(hulls)) if (entry := _step(n, 0, hulls, costs, sizes)) is not None]
    heapq.heapify(queue)
    while queue:
        _, more, number = heapq.heappop(queue)
        if more > left:
            continue  # a cheaper step of another thing may still fit
        left -= more
        at[number] += 1
        if (entry := _step(number, at[number], hulls, costs, sizes)) is not None:
            heapq.heappush(queue, entry)
    return [hull[place] for hull, place in zip(hulls, at, strict=True)]


def smallest(costs: Sequence[Sequence[float]], sizes: Sequence[Sequence[float]], limit: float) -> list[int] | None:
    """Return the choice for each thing so that the sizes are least in all, or None when the best cost too much.

    The same problem with cost and size in each other's place: from the best of each, the step that saves most
    bytes for what it costs is taken while the costs stay within the limit.

    Args:
        costs: For each thing, what each choice costs.
        sizes: For each thing, the bytes of each choice.
        limit: Of the costs in all.
    """
    return allocate(sizes, costs, limit)


def _step(
    number: int, place: int, hulls: Sequence[Sequence[int]], costs: Sequence[Sequence[float]],
    sizes: Sequence[Sequence[float]],
) -> tuple[float, float, int] | None:  # fmt: skip
    """Return (cost a byte, bytes, thing) of the next step along a hull; the best step is the least."""
    hull = hulls[number]
    if place + 1 >= len(hull):
        return None
    here, there = hull[place], hull[place + 1]
    more = sizes[number][there] - sizes[number][here]
    return ((costs[number][there] - costs[number][here]) / more, more, number)


def _hull(costs: Sequence[float], sizes: Sequence[float]) -> list[int]:
    """Return the choices on the lower convex hull, smallest first; each is larger and cheaper than the last."""
    order = sorted(range(len(costs)), key=lambda one: (sizes[one], costs[one]))
    hull: list[int] = []
    for one in order:
        if hull and costs[one] >= costs[hull[-1]]:
            continue
        while len(hull) > 1 and _is_above(hull[-2], hull[-1], one, costs, sizes):
            hull.pop()
        if hull and sizes[hull[-1]] == sizes[one]:
            hull.pop()
        hull.append(one)
    return hull


def _is_above(first: int, middle: int, last: int, costs: Sequence[float], sizes: Sequence[float]) -> bool:
    """Say whether the middle choice lies on or above the line from the first to the last."""
    across = (costs[middle] - costs[first]) * (sizes[last] - sizes[first])
    return across >= (costs[last] - costs[first]) * (sizes[middle] - sizes[first])
