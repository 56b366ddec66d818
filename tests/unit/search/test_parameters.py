"""Spaces: counting, conditions, draws."""

from __future__ import annotations

import random

import pytest

from picual.search.parameters import Parameter, Space
from picual.space import Choice, FloatRange, IntRange

ALTERNATIVES = Space(
    (
        Parameter("lora.rank", Choice((16, 8))),
        Parameter("quantize", Choice(("gptq", "rtn"))),
        Parameter("quantize[gptq].damp", Choice((0.1, 0.01, 0.001)), when=("quantize", "gptq")),
        Parameter("export.block", IntRange(1, 2)),
    )
)


def test_every_candidate_once_late_parameters_fastest_and_only_what_exists() -> None:
    candidates = ALTERNATIVES.candidates()

    assert candidates is not None
    assert ALTERNATIVES.size == len(candidates) == 2 * (3 + 1) * 2
    assert len({tuple(sorted(one.items())) for one in candidates}) == 16
    assert candidates[0] == ALTERNATIVES.first()
    assert [one["export.block"] for one in candidates[:2]] == [1, 2]
    assert {one["lora.rank"] for one in candidates[:8]} == {16}
    assert all(("quantize[gptq].damp" in one) == (one["quantize"] == "gptq") for one in candidates)


@pytest.mark.parametrize("domain", [FloatRange(0.0, 1.0), IntRange(1, 10**9)])
def test_what_cannot_be_counted_has_no_size(domain: FloatRange | IntRange) -> None:
    space = Space((Parameter("x", domain),))

    assert space.size is None
    assert space.candidates() is None


@pytest.mark.parametrize("log", [False, True])
def test_draws_keep_to_the_domain_and_reach_both_ends(log: bool) -> None:
    rng = random.Random(0)
    whole = [Parameter("n", IntRange(1, 4, log)).draw(rng) for _ in range(400)]
    real = [Parameter("x", FloatRange(0.1, 10.0, log)).draw(rng) for _ in range(400)]

    assert set(whole) == {1, 2, 3, 4}
    assert 0.1 <= min(real) < 0.5
    assert 9 < max(real) <= 10
    below_one = sum(value < 1 for value in real) / 400
    assert below_one == pytest.approx(0.5 if log else 0.09, abs=0.08)
