"""One format for each site: the best within a size, or the smallest within a divergence.

Head and embedding are a fifth of a small model: steps so large that a greedy choice goes wrong at them, so each of
their formats is tried.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from picual.numerics.block_sizes import Format
from picual.numerics.budget import allocate, smallest
from picual.passes.quantize.sites import Site, bytes_of

Candidates = Mapping[Site, Sequence[Format]]
Costs = Mapping[Site, Mapping[Format, float]]
Choosing = Callable[[list[list[float]], list[list[int]]], list[int] | None]


@dataclass(frozen=True)
class Solution:
    """A format for each site, and what all of them cost (nats a token, or what stands in for it) and weigh."""

    cost: float
    size: int
    formats: dict[Site, Format]


def best_within(candidates: Candidates, costs: Costs, budget: int) -> Solution | None:
    """Return the formats of least cost in at most ``budget`` bytes, or None when none are so small."""
    found = _solutions(candidates, costs, lambda of_sites, bytes_: allocate(of_sites, bytes_, budget))
    return min(found, key=lambda one: (one.cost, one.size), default=None)


def smallest_within(candidates: Candidates, costs: Costs, limit: float) -> Solution | None:
    """Return the smallest formats whose costs are at most ``limit`` in all, or None when none are."""
    found = _solutions(candidates, costs, lambda of_sites, bytes_: smallest(of_sites, bytes_, limit))
    return min(found, key=lambda one: (one.size, one.cost), default=None)


def least_cost(candidates: Candidates, costs: Costs) -> float:
    """Return the cost of the best formats of all, whatever they weigh."""
    return sum(min(costs.get(site, {}).get(form, 0.0) for form in forms) for site, forms in candidates.items())


def _solutions(candidates: Candidates, costs: Costs, choose: Choosing) -> list[Solution]:
    large = [site for site in candidates if site.layer is None]
    found = []
    for fixed in itertools.product(*(candidates[site] for site in large)):
        tried = {**candidates, **{site: [form] for site, form in zip(large, fixed, strict=True)}}
        of_sites = [[costs.get(site, {}).get(form, 0.0) for form in forms] for site, forms in tried.items()]
        bytes_ = [[bytes_of(site, form) for form in forms] for site, forms in tried.items()]
        chosen = choose(of_sites, bytes_)
        if chosen is not None:
            cost = sum(one[place] for one, place in zip(of_sites, chosen, strict=True))
            size = sum(one[place] for one, place in zip(bytes_, chosen, strict=True))
            formats = {site: forms[place] for (site, forms), place in zip(tried.items(), chosen, strict=True)}
            found.append(Solution(cost, size, formats))
    return found
