from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picual.errors import Refused
from picual.hardware import Target
from picual.models import HfModel, QuantizedHfModel
from picual.numerics.block_sizes import Bits, Format
from picual.passes.base import PassContext
from picual.passes.quantize.quantize import SLACK, Quantize
from picual.passes.quantize.sites import Site, bytes_of, bytes_read, sites_of
from picual.passes.quantize.solving import best_within, least_cost, smallest_within
from picual.testing.tiny import tiny_model

Run = Callable[..., tuple[QuantizedHfModel, PassContext]]
Problem = tuple[dict[Site, list[Format]], dict[Site, dict[Format, float]]]


def problem(chance: random.Random) -> Problem:
    """Four layers and a head that weighs as much as three of them."""
    widths: tuple[Bits, ...] = (4, 8)
    forms = [Format(bits=bits, block=block, symmetric=False) for bits in widths for block in (32, 64)]
    sites = [Site((f"model.layers.{n}.mlp.down_proj.weight",), (64,), 64, n) for n in range(4)]
    sites.append(Site(("model.embed_tokens.weight",), (192,), 64, None, is_head=True, is_table=True))
    costs = {}
    for site in sites:
        scale = chance.lognormvariate(0, 1)
        costs[site] = {form: scale * (1 if form.bits == 4 else 0.02) * (form.block / 32) ** 0.7 for form in forms}
    return dict.fromkeys(sites, forms), costs


def all_solutions(candidates: dict[Site, list[Format]], costs: Any) -> list[tuple[float, int]]:
    return [
        (
            sum(costs[site][form] for site, form in zip(candidates, chosen, strict=True)),
            sum(bytes_of(site, form) for site, form in zip(candidates, chosen, strict=True)),
        )
        for chosen in itertools.product(*candidates.values())
    ]


def test_smallest_is_close_to_the_smallest_of_all() -> None:
    chance = random.Random(5)
    for _ in range(10):
        candidates, costs = problem(chance)
        every = all_solutions(candidates, costs)
        limit = chance.uniform(least_cost(candidates, costs), max(cost for cost, _ in every))

        found = smallest_within(candidates, costs, limit)

        assert found is not None
        assert found.cost <= limit + 1e-9
        assert found.size == sum(bytes_of(site, form) for site, form in found.formats.items())
        assert found.size <= 1.1 * min(size for cost, size in every if cost <= limit)


def test_best_within_a_size_is_close_to_the_best_of_all() -> None:
    chance = random.Random(6)
    for _ in range(10):
        candidates, costs = problem(chance)
        every = all_solutions(candidates, costs)
        sizes = [size for _, size in every]
        budget = chance.randint(min(sizes), max(sizes))

        found = best_within(candidates, costs, budget)

        assert found is not None
        assert found.size <= budget
        highest = max(cost for cost, _ in every)
        assert found.cost - min(cost for cost, size in every if size <= budget) <= 0.12 * highest


def test_nothing_where_no_format_is_so_good_or_so_small() -> None:
    candidates, costs = problem(random.Random(7))
    assert smallest_within(candidates, costs, 0.99 * least_cost(candidates, costs)) is None
    assert best_within(candidates, costs, 1000) is None


def test_weights_are_as_small_as_the_predicted_divergence_lets_them_be(tiny: HfModel, run: Run) -> None:
    bits = []
    for number, limit in enumerate((0.02, 0.006)):
        _, context = run(Quantize(max_kl=limit), tiny, name=str(number))
        assert 0.3 * limit < context.metrics["predicted_kl"] <= limit
        bits.append(context.metrics["bits_per_weight"])
    assert bits[0] < bits[1]


@pytest.mark.parametrize("size", [{}, {"bits_per_weight": 5.5}])
def test_divergence_out_of_reach_is_refused_with_one_in_reach(
    tiny: HfModel, run: Run, size: dict[str, float]
) -> None:
    with pytest.raises(Refused, match="predicted") as caught:
        run(Quantize(max_kl=1e-7, **size), tiny)
    assert ("in the asked size" in caught.value.what) == bool(size)
    limit = float(str(caught.value.hint).split("max_kl: ")[1].rstrip("`"))
    _, context = run(Quantize(max_kl=limit, **size), tiny, name="again")
    assert context.metrics["predicted_kl"] <= limit


def test_divergence_of_nothing_is_refused_beforehand(tiny: HfModel) -> None:
    with pytest.raises(Refused, match="as near as"):
        Quantize(max_kl=0.0).check(tiny, Target())


@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_less_is_read_the_more_reading_is_worth(tiny: HfModel, run: Run, effort: Any) -> None:
    found = []
    for price in (0.0, 3.0, 30.0):
        a_pass = Quantize(effort=effort, bits_per_weight=6.5, read_price=price)
        metrics = run(a_pass, tiny, name=f"{price}")[1].metrics
        found.append((metrics["read_mb"], -metrics["predicted_kl"]))
    assert found[0] > found[2]
    assert found == sorted(found, reverse=True)


def test_price_of_reading_is_a_percentage_of_the_best_choice() -> None:
    """Three choices of one weight: 10 % less to read for 20 % more cost, and 20 % less for 80 % more."""
    site = Site(("model.layers.0.mlp.down_proj.weight",), (64,), 256, 0)
    forms = [Format(bits=4, block=block, symmetric=False) for block in (32, 64, 128)]
    reads = [bytes_read(site, form) for form in forms]
    assert reads == [64 * 8 * 24, 64 * 4 * 40, 64 * 2 * 72]  # 6, 5 and 4.5 bits a weight
    costs = {site: dict(zip(forms, (1.0, 1.2, 1.4), strict=True))}
    budget = max(bytes_of(site, form) for form in forms)
    by_price = {0.0: forms[0], 1.1: forms[0], 1.3: forms[1], 2.3: forms[1], 2.5: forms[2]}
    for price, form in by_price.items():
        found = best_within({site: forms}, costs, budget, price)
        assert found is not None
        assert found.formats[site] == form, price


def test_sizes_under_a_divergence_are_not_made_up(tiny: HfModel) -> None:
    with pytest.raises(Refused, match="once text was looked at"):
        Quantize(max_kl=0.1).outlook(tiny, Target())


@pytest.mark.parametrize("fields", [{}, {"head": "int8"}, {"symmetric": True}])
@pytest.mark.parametrize("tied", [True, False])
def test_size_below_the_smallest_formats_is_forecast_as_theirs(
    tmp_path: Path, tied: bool, fields: dict[str, Any]
) -> None:
    model = tiny_model(tmp_path / "hf", tied=tied)
    a_pass = Quantize(bits_per_weight=1.0, **fields)
    least = sum(
        min(bytes_of(site, Format(bits=bits, block=block, symmetric=a_pass.symmetric)) for block in blocks)
        for site in sites_of(model)
        for bits, blocks in [_smallest(site, a_pass.head)]
    )

    assert a_pass.profile_after(model.profile()).quantized == least
    assert dataclasses.replace(a_pass, max_size=1000).profile_after(model.profile()).quantized == least + SLACK
    assert Quantize(bits_per_weight=7.0).profile_after(model.profile()).quantized == int(
        7 / 8 * sum(site.weights for site in sites_of(model))
    )


def _smallest(site: Site, head: str | None) -> tuple[Bits, tuple[int, ...]]:
    if site.layer is None:
        return (4 if site.is_head and head is None else 8), (32, 64)
    return 4, (32, 64) if site.width % 128 else (32, 64, 128)
