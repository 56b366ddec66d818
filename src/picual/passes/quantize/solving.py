"""One format for each site: the best within a size, or the smallest within a divergence.

Head and embedding are a fifth of a small model: steps so large that a greedy choice goes wrong at them, so each of
their formats is tried. What kernels read for a token, which decoding waits for, has a price.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from picual.numerics.block_sizes import Format
from picual.numerics.budget import allocate, smallest
from picual.passes.quantize.sites import Site, bytes_of, bytes_read

Candidates = Mapping[Site, Sequence[Format]]
Costs = Mapping[Site, Mapping[Format, float]]
Choosing = Callable[[list[list[float]], list[list[int]]], list[int] | None]


@dataclass(frozen=True)
class Solution:
    """A format for each site, and what all of them cost (nats a token, or what stands in for it) and weigh."""

    cost: float
    size: int
    read: int  # bytes a token
    formats: dict[Site, Format]


def best_within(candidates: Candidates, costs: Costs, budget: int, read_price: float = 0.0) -> Solution | None:
    """Return the formats of least cost in at most ``budget`` bytes, or None when none are so small.

    Args:
        candidates: Formats that each site may take.
        costs: What each costs.
        budget: Bytes in all.
        read_price: Percent of the least cost that a percent less to read for a token is worth; 0: none.
    """
    best = _priced(candidates, costs, budget, 0.0)
    if best is None or not read_price:
        return best
    return _priced(candidates, costs, budget, read_price * best.cost / best.read)


def _priced(candidates: Candidates, costs: Costs, budget: int, price: float) -> Solution | None:
    """Return the formats of least cost where each byte that a token reads costs so much too."""
    priced = {
        site: {form: costs.get(site, {}).get(form, 0.0) + price * bytes_read(site, form) for form in forms}
        for site, forms in candidates.items()
    }
    found = _solutions(
        candidates, costs, lambda of_sites, bytes_: allocate(of_sites, bytes_, budget), weighed=priced
    )
    return min(found, key=lambda one: (one.cost + price * one.read, one.size), default=None)


def smallest_within(candidates: Candidates, costs: Costs, limit: float) -> Solution | None:
    """Return the smallest formats whose costs are at most ``limit`` in all, or None when none are."""
    found = _solutions(candidates, costs, lambda of_sites, bytes_: smallest(of_sites, bytes_, limit))
    return min(found, key=lambda one: (one.size, one.cost), default=None)


def least_cost(candidates: Candidates, costs: Costs) -> float:
    """Return the cost of the best formats of all, whatever they weigh."""
    return sum(min(costs.get(site, {}).get(form, 0.0) for form in forms) for site, forms in candidates.items())


def _solutions(
    candidates: Candidates, costs: Costs, choose: Choosing, weighed: Costs | None = None
) -> list[Solution]:
    """Return what is chosen by ``weighed`` (or the costs) for each combination of the large sites' formats."""
    large = [site for site in candidates if site.layer is None]
    by = costs if weighed is None else weighed
    found = []
    for fixed in itertools.product(*(candidates[site] for site in large)):
        tried = {**candidates, **{site: [form] for site, form in zip(large, fixed, strict=True)}}
        of_sites = [[by.get(site, {}).get(form, 0.0) for form in forms] for site, forms in tried.items()]
        bytes_ = [[bytes_of(site, form) for form in forms] for site, forms in tried.items()]
        chosen = choose(of_sites, bytes_)
        if chosen is not None:
            places = zip(tried.items(), chosen, strict=True)
            found.append(_solution({site: forms[place] for (site, forms), place in places}, costs))
    return found


def _solution(formats: dict[Site, Format], costs: Costs) -> Solution:
    return Solution(
        cost=sum(costs.get(site, {}).get(form, 0.0) for site, form in formats.items()),
        size=sum(bytes_of(site, form) for site, form in formats.items()),
        read=sum(bytes_read(site, form) for site, form in formats.items()),
        formats=formats,
    )
